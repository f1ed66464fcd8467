"""A network namespace that several runs share: loopback only, alive as long as somebody holds it open. No process is needed for it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading

from lamina.sandbox.protocols import SandboxSetupFailed

_CLONE_NEWNET = 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


class SharedNetwork:
    """`path` is for SandboxSpec.network_of, as long as this is open. Raises SandboxSetupFailed where none can be made."""

    def __init__(self) -> None:
        self._descriptor = _make()

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def close(self) -> None:
        """Idempotent. The namespace lives on until the last run in it has ended."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _make() -> int:
    """A network belongs to a thread: one of its own enters a new one, and its end leaves what was opened."""
    found: list[int] = []
    failed: list[OSError] = []

    def enter() -> None:
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(_CLONE_NEWNET):
            number = ctypes.get_errno()
            failed.append(OSError(number, os.strerror(number)))
            return
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                request = struct.pack("16sh14x", b"lo", 0)
                flags = struct.unpack("16sh14x", fcntl.ioctl(probe, _GET_FLAGS, request))[1]
                fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not found:
        why = failed[0].strerror if failed else "the thread ended early"
        raise SandboxSetupFailed(f"no network of its own can be made here: {why}", hint="lamina doctor tells what works here")
    return found[0]
