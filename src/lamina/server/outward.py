"""What containers send to the outside: TCP connections end at the switch's listener and are made again from here, as our own.

So a container reaches what this process reaches, and nothing of the machine must be changed. The gateway stands for the machine itself, at the
address that others see it by: what listens on its loopback alone stays out of reach. UDP and ICMP do not lead out, but for names (names.py).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from ipaddress import IPv4Address

from lamina.server.relay import relay, reset

_ORIGINAL_DESTINATION = 80  # linux/netfilter_ipv4.h
_MOST = 512  # connections at a time
_PATIENCE = 30.0
Target = tuple[str, int] | Callable[[socket.socket], None] | None
"""Where to connect; or who serves the connection; None: refused."""
Where = Callable[[IPv4Address, int], Target]
"""For an address and a port as a container sees them."""


class Outward:
    """Serves until the listener is closed."""

    def __init__(self, listener: socket.socket, where: Where) -> None:
        self._listener = listener
        self._where = where
        self._free = threading.Semaphore(_MOST)
        threading.Thread(target=self._accept, daemon=True, name="lamina-outward").start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._free.acquire(blocking=False):
                reset(client)
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                raw = client.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16)
                port, packed = struct.unpack("!2xH4s8x", raw)
                found = self._where(IPv4Address(packed), port)
                if callable(found):
                    with client:
                        client.settimeout(_PATIENCE)
                        found(client)
                    return
                if found is not None:
                    other = socket.create_connection(found, _PATIENCE)
                    other.settimeout(None)
                    relay(client, other)
                    return
            reset(client)
        finally:
            self._free.release()


def own_address() -> str:
    """How others see this machine; "" when it is alone. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # for documentation: no such host
        return str(probe.getsockname()[0])
    return ""
