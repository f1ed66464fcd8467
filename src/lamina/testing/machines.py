"""Machines for tests: network namespaces on a bridge that is in a namespace of its own, so that nothing of this host's network is touched."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

ADDRESS = "198.18.0.1"
"""Where servers listen: in the namespace with the bridge. The range is the one for measurements (RFC 2544), routed nowhere."""
_NUMBERS = itertools.count()  # a process may have several networks at once


def why_not() -> str | None:
    """The reason why no namespaces can be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "nsenter", "bash"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "this machine makes no network namespaces"


@dataclass(frozen=True, slots=True)
class Network:
    """Names of namespaces: `hub` has the bridge with ADDRESS, each of `machines` sees the hub and the others and nothing else."""

    hub: str
    machines: tuple[str, ...]

    def enter(self, name: str) -> list[str]:
        """Words in front of a command that shall run there. What is started is the command itself: its pid can be killed."""
        return ["nsenter", f"--net=/run/netns/{name}", "--"]

    def wait_for(self, port: int, seconds: float = 180.0) -> None:
        """Until something listens at ADDRESS:port. TimeoutError."""
        end = time.monotonic() + seconds
        probe = [*self.enter(self.hub), "bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/{port}"]
        while subprocess.run(probe, capture_output=True, check=False).returncode:
            if time.monotonic() > end:
                raise TimeoutError(f"nothing listens at {ADDRESS}:{port}")
            time.sleep(0.05)


@contextmanager
def network(number: int) -> Iterator[Network]:
    """`number` machines, at most 200. RuntimeError where the host refuses."""
    stem = f"lamina{os.getpid()}n{next(_NUMBERS)}"
    made = Network(f"{stem}-hub", tuple(f"{stem}-m{each}" for each in range(number)))
    try:
        _ip("netns", "add", made.hub)
        inside = ("-n", made.hub)
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "add", "br0", "type", "bridge")
        _ip(*inside, "addr", "add", f"{ADDRESS}/24", "dev", "br0")
        _ip(*inside, "link", "set", "br0", "up")
        for each, name in enumerate(made.machines):
            _ip("netns", "add", name)
            _ip(*inside, "link", "add", f"v{each}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip(*inside, "link", "set", f"v{each}", "master", "br0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"198.18.0.{10 + each}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        yield made
    finally:
        for name in (*made.machines, made.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    done: subprocess.CompletedProcess[bytes] = subprocess.run(["ip", *words], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {_shown(words)}: {done.stderr.decode(errors='replace').strip()}")


def _shown(words: Sequence[str]) -> str:
    return " ".join(words)
