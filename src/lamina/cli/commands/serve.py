"""`lamina serve`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli import keeping
from lamina.cli.commands.registry_options import registry_options
from lamina.cli.inputs import BadOption, duration
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.server.listening import Tls


@click.command(short_help="Answer docker's clients: the Docker Engine API over a socket")
@click.option(
    "-H",
    "--host",
    "hosts",
    multiple=True,
    metavar="ADDRESS",
    help="unix://PATH, tcp://ADDRESS:PORT or fd:// (default: a socket of this user's).",
)
@click.option("--tlsverify", is_flag=True, help="tcp: only clients with a certificate that --tlscacert signed.")
@click.option("--tlscacert", type=click.Path(path_type=Path), metavar="FILE", help="The certificate authority of clients.")
@click.option("--tlscert", type=click.Path(path_type=Path), metavar="FILE", help="The server's certificate.")
@click.option("--tlskey", type=click.Path(path_type=Path), metavar="FILE", help="Its key.")
@click.option("--insecure-tcp", is_flag=True, help="tcp on loopback without TLS: every user of this machine can come in.")
@click.option("--idle-exit", metavar="DURATION", help="End when nobody was there and nothing ran for so long: 90s, 10m.")
@click.option("--keep", is_flag=True, help="Containers run on when the engine ends; the next one at this address takes them over.")
@click.option("--allow-privileged", is_flag=True, help="Let clients start privileged containers.")
@click.option(
    "--allow-root",
    "roots",
    multiple=True,
    metavar="[SEEN=]DIR",
    help="Bind mounts only from below DIR (default: anywhere), which clients know as SEEN.",
)
@click.option(
    "--cache", "cache", type=click.Path(path_type=Path), metavar="DIR", help="Serve this folder as a shared cache instead (http)."
)
@click.option(
    "--build-cache",
    "build_cache",
    metavar="PLACE",
    help="A shared cache that every build reads and writes: dir:PATH, oci://…, s3://…, http(s)://….",
)
@click.option("--access", type=click.Path(path_type=Path), metavar="FILE", help="With --cache: tokens and what each may do.")
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    hosts: tuple[str, ...],
    tlsverify: bool,
    tlscacert: Path | None,
    tlscert: Path | None,
    tlskey: Path | None,
    insecure_tcp: bool,
    idle_exit: str | None,
    keep: bool,
    allow_privileged: bool,
    roots: tuple[str, ...],
    cache: Path | None,
    build_cache: str | None,
    access: Path | None,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Serve the Docker Engine API until SIGTERM. docker, docker-py and whatever else speaks it work against the store of this user.

    \b
    Examples:
      lamina serve --host unix:///run/user/1000/lamina.sock
      DOCKER_HOST=unix:///run/user/1000/lamina.sock docker images
      lamina serve --host tcp://0.0.0.0:2376 --tlsverify --tlscacert ca.pem --tlscert cert.pem --tlskey key.pem
      lamina serve --cache /srv/cache --access access.toml --host tcp://127.0.0.1:8470
    """
    if cache is not None:
        from lamina.cli.cacheservice import serve_cache

        return serve_cache(cache, hosts, access, tlscert, tlskey)
    try:
        import h11  # noqa: F401  # only whether it is there
    except ModuleNotFoundError:
        raise BadOption("the server needs the package h11, which is not installed", hint="pip install 'lamina[server]'") from None
    activated = settings.environment.get("LISTEN_PID") == str(os.getpid())
    chosen = hosts or (("fd://",) if activated else (f"unix://{default_socket(settings)}",))
    tls = _tls(tlsverify, tlscacert, tlscert, tlskey)
    shown = [_shown(text) for text in roots]
    allowed = keeping.limits(settings)
    beside = containers_at(settings.root, chosen)
    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries, beside=beside) as engine:
        from lamina.cli.pipelineruns import PipelineRuns
        from lamina.server.containers.creating import Rules
        from lamina.server.serving import ServeOptions, serve

        options = ServeOptions(
            hosts=chosen,
            tls=tls,
            insecure_tcp=insecure_tcp,
            idle_exit=None if idle_exit is None else duration(idle_exit, "--idle-exit"),
            rules=Rules(allow_privileged, tuple(root for _, root in shown), tuple((seen, root) for seen, root in shown if seen)),
            registry_ca=registry_ca,
            insecure_registries=insecure_registries,
            # An engine with borders is one that a pipeline's step talks to: it sees no other run.
            runs=None if roots else PipelineRuns(settings.root),
            keep=keep,
            after_builds=lambda store, grown: keeping.after_build(store, allowed, grown=grown, quiet=False),
        )
        engine.shared = () if build_cache is None else (build_cache,)
        serve(engine, engine.rung, options, environment=settings.environment, proxies=settings.proxies, ready=_ready, say=_say)
    sys.stderr.flush()
    os._exit(0)  # threads of clients that do not let go are of no more use


def _ready(hosts: Sequence[str]) -> None:
    _say(f"listening at {', '.join(hosts)}")


def _say(text: str) -> None:
    print(f"lamina serve: {text}", file=sys.stderr, flush=True)


def _shown(text: str) -> tuple[str, Path]:
    """SEEN=DIR or DIR."""
    seen, equals, folder = text.rpartition("=")
    if equals and not seen.startswith("/"):
        raise BadOption(f"--allow-root {text}: what clients see begins with /")
    return seen.rstrip("/"), Path(folder).resolve()


def default_socket(settings: Settings) -> Path:
    runtime = settings.environment.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "lamina.sock" if runtime else settings.root / "engine.sock"


def containers_at(root: Path, hosts: Sequence[str]) -> Path:
    from lamina.server.places import folder_of, place_of

    return folder_of(root, place_of(hosts)) / "containers"


def _tls(verify: bool, ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    from lamina.server.listening import Tls

    if certificate is None and key is None:
        if verify:
            raise BadOption("--tlsverify needs --tlscert and --tlskey")
        return None
    if certificate is None or key is None:
        raise BadOption("--tlscert and --tlskey belong together")
    if verify and ca is None:
        raise BadOption("--tlsverify needs --tlscacert")
    return Tls(certificate, key, ca if verify else None)
