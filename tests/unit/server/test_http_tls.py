"""TLS with client certificates, and the half-close that asyncio's own TLS does not have."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.server.http.connection import Connection
from lamina.server.http.messages import Duplex, Hijack, Reply, Request
from lamina.server.http.tls import TlsStream

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (it makes the certificates)")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One that signs itself: server, client and authority."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            str(key),
            "-out",
            str(made),
            "-subj",
            "/CN=test",
            "-days",
            "2",
        ],
        check=True,
        capture_output=True,
    )
    return made, key


def serving(certificate: tuple[Path, Path]) -> tuple[socket.socket, threading.Thread, list[str], list[bytes]]:
    """(the client's plain socket, the server's thread, how it was refused, what was heard and whether it was answered)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    ours, theirs = socket.socketpair()
    ours.settimeout(90)
    refused: list[str] = []
    heard: list[bytes] = []

    def conversation(duplex: Duplex) -> None:
        got = b""
        while data := duplex.read():
            got += data
        heard.append(got)
        duplex.write(b"x" * 100_000)
        heard.append(b"answered")

    def serve(request: Request) -> Reply:
        return Hijack(conversation)

    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=theirs)
        stream = TlsStream(reader, writer, context)
        try:
            await stream.handshake()
        except ConnectionError as error:
            refused.append(str(error))
            writer.close()
            return
        with ThreadPoolExecutor(4) as pool:
            await Connection(stream, stream, serve, pool, ()).run()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    return ours, thread, refused, heard


def client(plain: socket.socket, certificate: tuple[Path, Path], *, known: bool) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificate[0])
    if known:
        context.load_cert_chain(*certificate)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    return context.wrap_bio(incoming, outgoing), incoming, outgoing


def test_the_output_comes_after_the_client_ended_its_side(certificate: tuple[Path, Path]) -> None:
    plain, thread, _, heard = serving(certificate)
    tls, incoming, outgoing = client(plain, certificate, known=True)

    def pump() -> None:
        if outgoing.pending:
            plain.sendall(outgoing.read())
        data = plain.recv(65536)
        incoming.write(data) if data else incoming.write_eof()

    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            pump()
    tls.write(b"POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\ntyped")
    with pytest.raises(ssl.SSLWantReadError):
        tls.unwrap()  # close_notify: nothing more is sent
    plain.sendall(outgoing.read())
    received = bytearray()
    while data := plain.recv(65536):
        received += data
        if len(received) > 100_000:
            plain.shutdown(socket.SHUT_WR)  # the server waits no longer for more
    assert len(received) > 100_000  # encrypted: SSLObject gives nothing more after its own close_notify
    assert heard == [b"typed", b"answered"]
    thread.join(90)
    assert not thread.is_alive()


def test_a_client_without_a_certificate_is_not_let_in(certificate: tuple[Path, Path]) -> None:
    plain, thread, refused, _ = serving(certificate)
    tls, incoming, outgoing = client(plain, certificate, known=False)
    try:
        while True:
            try:
                tls.do_handshake()
                plain.sendall(outgoing.read())
                tls.read(1)
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    plain.sendall(outgoing.read())
                data = plain.recv(65536)
                if not data:
                    break
                incoming.write(data)
    except (ssl.SSLError, OSError):
        pass
    thread.join(90)
    assert refused
