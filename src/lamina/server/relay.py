"""Two connected sockets, each other's other end, until both sides have ended."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_PIECE = 1 << 16


def relay(one: socket.socket, other: socket.socket) -> None:
    """Blocks; a half-close is passed on. Both are closed."""
    with one, other:
        back = threading.Thread(target=_copy, args=(other, one), daemon=True)
        back.start()
        _copy(one, other)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(_PIECE):
            sink.sendall(data)
    except OSError:
        for each in (source, sink):  # whoever waits at the other direction sees that it is over
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    """Close it so that the other side sees an error, not an end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
