"""`lamina serve --cache DIR`: the shared cache of a folder over http(s), with tokens, scopes and a quota."""

from __future__ import annotations

import ipaddress
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cli.inputs import BadOption
from lamina.server.cacheapi import CacheApi, read_access
from lamina.server.cacheserver import CacheServer

DEFAULT = "tcp://127.0.0.1:8470"


def serve_cache(folder: Path, hosts: tuple[str, ...], access: Path | None, certificate: Path | None, key: Path | None) -> int:
    """Until SIGTERM or Ctrl-C. The access file says who may read and write which scopes; without TLS only loopback is served."""
    if len(hosts) > 1:
        raise BadOption("--cache is served at one --host")
    host, port = _address(hosts[0] if hosts else DEFAULT)
    if access is None:
        raise BadOption(
            "--cache needs --access FILE: who may read and write",
            hint='for example: [tokens.ci] sha256 = "<sha256sum of a random token>" write = ["main"]',
        )
    if certificate is None and not ipaddress.ip_address(host).is_loopback:
        raise BadOption(f"tokens would go to {host} in the clear: --tlscert and --tlskey are needed")
    tls = None
    if certificate is not None or key is not None:
        import ssl

        if certificate is None or key is None:
            raise BadOption("TLS needs both --tlscert and --tlskey")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            tls.load_cert_chain(certificate, key)
        except OSError as error:
            raise BadOption(f"the certificate cannot be used: {error.strerror or error}") from error
    server = CacheServer(CacheApi(DirectoryObjects(folder.absolute()), read_access(access)), host, port, tls=tls)

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.stop).start()  # it waits for run(), which this signal has interrupted

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(
        f"lamina serve: the cache {folder} at http{'s' if tls else ''}://{server.address[0]}:{server.address[1]}",
        file=sys.stderr,
        flush=True,
    )
    server.run()
    return 0


def _address(text: str) -> tuple[str, int]:
    scheme, _, rest = text.partition("://")
    host, colon, port = rest.rpartition(":")
    host = host.strip("[]")
    try:
        if scheme != "tcp" or not colon:
            raise ValueError
        ipaddress.ip_address(host)
        return host, int(port)
    except ValueError:
        raise BadOption(f"--host {text}: --cache is served at tcp://ADDRESS:PORT") from None
