"""What this process may do."""

from __future__ import annotations


def may(*capabilities: int) -> bool:
    """Whether all of these are effective in this process."""
    try:
        with open("/proc/self/status", "rb") as status:
            mask = next(int(line.split()[1], 16) for line in status if line.startswith(b"CapEff:"))
    except (OSError, StopIteration, ValueError):
        return True  # no /proc: trying will tell
    return all(mask >> capability & 1 for capability in capabilities)
