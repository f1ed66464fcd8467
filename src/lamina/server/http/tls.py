"""TLS over asyncio's plain streams. asyncio's own ends a connection when the client ends its side; `docker run -i` ends its side and reads on."""

from __future__ import annotations

import asyncio
import ssl

_HANDSHAKE = 10.0  # seconds
_PIECE = 65536


class TlsStream:
    """Reader and writer of one connection, as http/connection.py uses them. A client's close_notify is the end of its side only."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """ConnectionError when the client is not let in."""
        try:
            async with asyncio.timeout(_HANDSHAKE):
                while True:
                    try:
                        self._tls.do_handshake()
                        self._flush()
                        return
                    except ssl.SSLWantReadError:
                        if not await self._more():
                            raise ConnectionError("the client left") from None
        except (ssl.SSLError, TimeoutError) as error:
            self._flush()  # the alert tells the client why
            raise ConnectionError(str(error)) from error

    async def read(self, limit: int, /) -> bytes:
        while True:
            try:
                return self._tls.read(limit)
            except ssl.SSLWantReadError:
                if not await self._more():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise ConnectionError(str(error)) from error

    async def _more(self) -> bool:
        self._flush()
        data = await self._reader.read(_PIECE)
        self._incoming.write(data)
        return bool(data)

    def write(self, data: bytes, /) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError as error:
            raise ConnectionError(str(error)) from error
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._writer.write(self._outgoing.read())

    async def drain(self) -> None:
        await self._writer.drain()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """close_notify, and the end of the connection's own side."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the client's answer to it is still to come
        self._flush()
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self._writer.transport

    def get_extra_info(self, name: str, /) -> object:
        return self._writer.get_extra_info(name)
