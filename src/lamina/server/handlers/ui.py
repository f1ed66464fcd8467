"""/ui and /metrics: what pages show is gathered here from the store and handed to `server/ui`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from lamina.oci import typed
from lamina.oci.config import ImageConfig
from lamina.server import elsewhere
from lamina.server import metrics as figures
from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer, Reply, Request
from lamina.server.ui import livepages, pages, runpages
from lamina.server.ui.access import refusal
from lamina.server.ui.assets import SCRIPT, STYLE
from lamina.server.ui.runs import Run
from lamina.server.ui.steps import steps_of
from lamina.store.local import LocalStore
from lamina.store.refs import Image

_POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


def _guarded(daemon: Daemon, request: Request, make: Callable[[], tuple[int, bytes]], kind: str = "text/html") -> Reply:
    refused = refusal(request, daemon.place, daemon.folder)
    if refused is not None:
        return refused
    status, body = make()
    return Answer(status, body, f"{kind}; charset=utf-8", _HEADERS)


def builds(daemon: Daemon, request: Request) -> Reply:
    def make() -> tuple[int, bytes]:
        with daemon.store() as store:
            found = [*daemon.journal.running(), *elsewhere.running(store)]
            return 200, pages.builds(store.builds.last(), daemon.now(), sorted(found, key=lambda one: -one.started))

    return _guarded(daemon, request, make)


def build(daemon: Daemon, request: Request, name: str) -> Reply:
    def make() -> tuple[int, bytes]:
        with daemon.store() as store:
            log = store.builds.get(name)
        if log is None or log.id != name:
            return 404, pages.missing("No such build is kept. The last 100 are.")
        return 200, pages.build(log, daemon.now())

    return _guarded(daemon, request, make)


def live(daemon: Daemon, request: Request, name: str) -> Reply:
    """A build that runs, here or in another process; from its end on its address leads to what is kept of it."""
    refused = refusal(request, daemon.place, daemon.folder)
    if refused is not None:
        return refused
    found = daemon.journal.get(name)
    kept = found.kept if found is not None else ""
    if found is None:
        with daemon.store() as store:
            found = elsewhere.get(store, name)
            if found is None and (log := store.builds.get(name)) is not None and log.id == name:
                kept = name
    if kept:
        return Answer(303, b"", "", (("Location", f"/ui/builds/{kept}"), *_HEADERS))
    if found is None:
        body = pages.missing("No such build runs, and it is not among the last that ended.")
        return Answer(404, body, "text/html; charset=utf-8", _HEADERS)
    return Answer(200, livepages.build(found, daemon.now()), "text/html; charset=utf-8", _HEADERS)


def cache(daemon: Daemon, request: Request) -> Reply:
    def make() -> tuple[int, bytes]:
        with daemon.store() as store:
            used = {layer for image in store.images.all() for layer in image.layers}
            makers = {record.layers[-1].id: record for record in daemon.engine.records.records() if record.layers}
            layers = []
            for row in store.layers.rows():
                use = pages.LayerUse(row.id, row.size, row.last_used, row.id in used)
                record = makers.get(row.id)
                if record is not None:
                    use = pages.LayerUse(
                        row.id, row.size, row.last_used, row.id in used, record.place.text, record.place.stage, record.seconds
                    )
                layers.append(use)
            blobs = sum(size for _, size in store.blobs.all())
            saved = sum(step.saved for log in store.builds.last() for step in steps_of(log))
        return 200, pages.cache(layers, blobs, daemon.now(), saved)

    return _guarded(daemon, request, make)


def images(daemon: Daemon, request: Request) -> Reply:
    def make() -> tuple[int, bytes]:
        with daemon.store() as store:
            found = [_image_row(store, image) for image in sorted(store.images.all(), key=lambda image: -image.created)]
        return 200, pages.images(found, daemon.now())

    return _guarded(daemon, request, make)


def _image_row(store: LocalStore, image: Image) -> pages.ImageRow:
    from lamina.engine.freshness.origins import read

    origin = read(store.origins.of(image.id))
    bases = []
    for use in origin.bases if origin is not None else ():
        base = store.images.by_id(use.image)
        bases.append(pages.Base(use.reference, None if base is None else _created(store, base)))
    return pages.ImageRow(image.id, image.names, image.platform, _created(store, image), image.size, tuple(bases))


def _created(store: LocalStore, image: Image) -> float:
    """When the image says that it was made: the date in its config, 0 where it has none. The store's own date is that of its coming here."""
    import msgspec

    try:
        config = typed.json(store.blobs.read(image.id), type=ImageConfig)
        return datetime.fromisoformat(config.created).timestamp() if config.created else 0.0
    except (msgspec.DecodeError, ValueError, OverflowError):
        return 0.0


def pipelines(daemon: Daemon, request: Request) -> Reply:
    def make() -> tuple[int, bytes]:
        return 200, runpages.runs(daemon.runs.last() if daemon.runs is not None else (), daemon.now())

    return _guarded(daemon, request, make)


def pipeline(daemon: Daemon, request: Request, project: str, number: str) -> Reply:
    def make() -> tuple[int, bytes]:
        found = _run(daemon, project, number)
        return (404, pages.missing(_NO_RUN)) if found is None else (200, runpages.run(found, daemon.now()))

    return _guarded(daemon, request, make)


def pipeline_step(daemon: Daemon, request: Request, project: str, number: str, step: str) -> Reply:
    def make() -> tuple[int, bytes]:
        found = _run(daemon, project, number)
        one = next((one for one in found.steps if str(one.number) == step), None) if found is not None else None
        if found is None or one is None or daemon.runs is None:
            return 404, pages.missing(_NO_RUN)
        return 200, runpages.step(found, one, daemon.runs.logs(project, found.number, one.number), daemon.now())

    return _guarded(daemon, request, make)


_NO_RUN = "No such run is kept. The last 20 of each repository are."


def _run(daemon: Daemon, project: str, number: str) -> Run | None:
    if daemon.runs is None or not number.isdecimal() or len(number) > 9:
        return None
    return daemon.runs.run(project, int(number))


def style(daemon: Daemon, request: Request) -> Reply:
    return _guarded(daemon, request, lambda: (200, STYLE.encode()), "text/css")


def script(daemon: Daemon, request: Request) -> Reply:
    return _guarded(daemon, request, lambda: (200, SCRIPT.encode()), "text/javascript")


def not_found(daemon: Daemon, request: Request, rest: str) -> Reply:
    return _guarded(daemon, request, lambda: (404, pages.missing("There is no such page.")))


def metrics(daemon: Daemon, request: Request) -> Reply:
    refused = refusal(request, daemon.place, daemon.folder)
    if refused is not None:
        return refused
    with daemon.store() as store:
        used = {layer for image in store.images.all() for layer in image.layers}
        layers = [(row.size, row.id in used) for row in store.layers.rows()]
        body = figures.exposition(store.builds.last(), layers, sum(size for _, size in store.blobs.all()), daemon.requests.counts())
    return Answer(200, body, "text/plain; version=0.0.4; charset=utf-8", _HEADERS)
