"""`lamina watch`: asks again at intervals, and at once when a registry says that something was pushed; rebuilds where asked to; keeps a report.

The schedule is a plain loop over a queue of events, so that a test can feed it without a clock.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.outdated import Outdated
from lamina.engine.freshness.rebuild import Rebuilt
from lamina.oci.reference import Reference

_KEPT = 50  # rounds in the report


class Pushed(msgspec.Struct, frozen=True):
    """What a registry says was pushed; `registry` is "" where it does not name itself, `tag` "" where all may have moved."""

    registry: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Pushed:
        """`REFERENCE`, or `*/REPOSITORY[:TAG]` for any registry; `str` gives it back. InvalidReference."""
        if text.startswith("*/"):
            repository, colon, tag = text[2:].rpartition(":")
            return cls("", repository, tag) if colon else cls("", text[2:], "")
        found = Reference.parse(text)
        return cls(found.registry, found.repository, found.tag or "")

    def __str__(self) -> str:
        return f"{self.registry or '*'}/{self.repository}" + (f":{self.tag}" if self.tag else "")

    def means(self, reference: str) -> bool:
        """Whether a reference that images stand on may have moved by it. A registry seldom knows the name by which it is reached, so its own
        does not count: at worst one request too many is made."""
        found = Reference.parse(reference)
        return self.repository in (found.repository, found.repository.removeprefix("library/")) and self.tag in ("", found.tag)


class Looked(Outdated, frozen=True):
    """What `lamina outdated --json` says."""

    rebuilt: tuple[Rebuilt, ...] = ()


class Round(msgspec.Struct, frozen=True, omit_defaults=True):
    """One look. `error`: the whole round failed (a store that cannot be read)."""

    at: float  # seconds since the epoch
    because: Literal["start", "interval", "push"]
    pushed: tuple[str, ...] = ()
    asked: int = 0
    outdated: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    rebuilt: tuple[Rebuilt, ...] = ()
    error: str = ""


class Event(msgspec.Struct, frozen=True):
    """`stop` ends the loop; otherwise pushes that came in."""

    pushed: tuple[Pushed, ...] = ()
    stop: bool = False


Events = queue.Queue[Event]


class Watch:
    """`run` ends with a stop event, or after `rounds`. `look` does one round (None: every base), so that nothing is held in between."""

    def __init__(
        self,
        look: Callable[[tuple[Pushed, ...] | None], Looked],
        events: Events,
        *,
        interval: float,
        now: Callable[[], float],
        said: Callable[[Round, Looked | None], None],
        file: Path | None = None,
    ) -> None:
        self._look = look
        self._events = events
        self._interval = interval
        self._now = now
        self._said = said
        self._file = file
        self._rounds: list[Round] = []

    def run(self, rounds: int = 0) -> None:
        done = 0
        because: Literal["start", "interval", "push"] = "start"
        pushed: tuple[Pushed, ...] = ()
        due = self._now() + self._interval
        while True:
            self._round(because, pushed)
            done += 1
            if because != "push":
                due = self._now() + self._interval
            if rounds and done >= rounds:
                return
            try:
                event = self._events.get(timeout=max(0.0, due - self._now()))
            except queue.Empty:
                because, pushed = "interval", ()
                continue
            collected = list(event.pushed)
            while not event.stop and not self._events.empty():
                event = self._events.get_nowait()
                collected += event.pushed
            if event.stop:
                return
            because, pushed = "push", tuple(dict.fromkeys(collected))

    def _round(self, because: Literal["start", "interval", "push"], pushed: tuple[Pushed, ...]) -> None:
        names = tuple(str(each) for each in pushed)
        found: Looked | None = None
        try:
            found = self._look(pushed if because == "push" else None)
        except LaminaError as error:
            one = Round(self._now(), because, names, error=error.message)
        else:
            behind = tuple(name for image in found.behind for name in image.names)
            unknown = tuple(name for image in found.images if image.verdict == "unknown" for name in image.names)
            one = Round(self._now(), because, names, found.asked, behind, unknown, found.rebuilt)
        self._rounds = [*self._rounds, one][-_KEPT:]
        self._said(one, found)
        if self._file is not None:
            from lamina.engine.exporters.place import replacing

            document = {"schema": 1, "rounds": msgspec.to_builtins(self._rounds[::-1])}
            with replacing(self._file) as out:
                out.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def parse_notification(raw: bytes) -> tuple[Pushed, ...]:
    """Pushes in a notification: of the distribution registry (`events`), or of Docker Hub (`push_data`). () for anything else."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    if not isinstance(document, Mapping):
        return ()
    found: list[Pushed] = []
    events = document.get("events")
    for event in events if isinstance(events, list) else ():
        if not isinstance(event, Mapping) or event.get("action") not in ("push", "mount", "delete"):
            continue
        target, request = event.get("target"), event.get("request")
        if isinstance(target, Mapping) and isinstance(target.get("repository"), str):
            host = request.get("host") if isinstance(request, Mapping) else ""
            tag = target.get("tag")
            if tag is None and "manifest" not in str(target.get("mediaType")) and "index" not in str(target.get("mediaType")):
                continue  # a blob
            found.append(Pushed(host if isinstance(host, str) else "", target["repository"], tag if isinstance(tag, str) else ""))
    data, repository = document.get("push_data"), document.get("repository")
    if isinstance(data, Mapping) and isinstance(repository, Mapping) and isinstance(repository.get("repo_name"), str):
        tag = data.get("tag")
        found.append(Pushed("docker.io", repository["repo_name"], tag if isinstance(tag, str) else ""))
    return tuple(dict.fromkeys(found))
