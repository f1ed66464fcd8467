"""A network namespace that several runs share: loopback only, alive as long as somebody holds it open. No process is needed for it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

from lamina.sandbox.protocols import SandboxSetupFailed

_CLONE_NEWNET = 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1
_Found = TypeVar("_Found")


class SharedNetwork:
    """`path` is for SandboxSpec.network_of, as long as this is open. Raises SandboxSetupFailed where none can be made."""

    def __init__(self) -> None:
        try:
            self._descriptor = _in_thread(_new)
        except OSError as error:
            raise SandboxSetupFailed(
                f"no network of its own can be made here: {error.strerror}", hint="lamina doctor tells what works here"
            ) from error

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def listen(self, port: int) -> socket.socket:
        """A listening socket at 127.0.0.1 inside, which we accept from outside. OSError."""

        def make() -> socket.socket:
            listener = socket.socket(socket.AF_INET)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen(128)
            except OSError:
                listener.close()
                raise
            return listener

        return inside(self.path, make)

    def close(self) -> None:
        """Idempotent. The namespace lives on until the last run in it has ended."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def inside(path: str, act: Callable[[], _Found]) -> _Found:
    """`act` on a thread that has entered the network whose file is `path`; sockets that it makes belong there for ever."""

    def enter() -> _Found:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", descriptor, _CLONE_NEWNET)
        finally:
            os.close(descriptor)
        return act()

    return _in_thread(enter)


def _new() -> int:
    _call("unshare", _CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(probe, _GET_FLAGS, request))[1]
        fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_thread(act: Callable[[], _Found]) -> _Found:
    """A network belongs to a thread: one of its own enters it, and its end leaves what was opened."""
    found: list[_Found] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(act())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
