"""Capabilities by name, as --cap-add and --cap-drop have them."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.sandbox.containers import DEFAULT_CAPABILITIES
from lamina.server.errors import BadRequest

_NAMES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
ALL = (1 << len(_NAMES)) - 1


def mask(add: Sequence[str], drop: Sequence[str]) -> int:
    """docker's order: ALL first, then single ones. BadRequest for an unknown name."""
    wanted, unwanted = [_name(n) for n in add], [_name(n) for n in drop]
    found = ALL if "ALL" in wanted else 0 if "ALL" in unwanted else DEFAULT_CAPABILITIES
    for name in wanted:
        if name != "ALL":
            found |= 1 << _NAMES.index(name)
    for name in unwanted:
        if name != "ALL":
            found &= ~(1 << _NAMES.index(name))
    return found


def _name(text: str) -> str:
    name = text.upper().removeprefix("CAP_")
    if name != "ALL" and name not in _NAMES:
        raise BadRequest(f"invalid capability: {text!r}")
    return name
