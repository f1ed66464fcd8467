"""`lamina images NAME --filter …`: docker's filters over the images of the store."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import msgspec

from lamina.cli.inputs import BadOption, duration
from lamina.diagnostics.errors import nearest
from lamina.store.local import LocalStore
from lamina.store.refs import Image

_KEYS = ("reference", "label", "dangling", "before", "since", "until")


class Wanted(msgspec.Struct, frozen=True):
    """All of it must hold; of several references one. `until`: older than so many seconds."""

    references: tuple[str, ...] = ()
    labels: tuple[tuple[str, str | None], ...] = ()
    dangling: bool | None = None
    before: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    until: float | None = None


def parse_filters(filters: Sequence[str], name: str | None) -> Wanted:
    """BadOption for what is no filter."""
    found: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if key not in _KEYS or not equals:
            near = nearest(key, _KEYS)
            raise BadOption(
                f"--filter {text!r}",
                hint=f"did you mean {near}=…?" if near and near != key else f"known: {', '.join(_KEYS)}, each KEY=VALUE",
            )
        found.setdefault(key, []).append(value)
    dangling = found.get("dangling", [""])[-1].lower()
    if dangling not in ("", "true", "false", "1", "0"):
        raise BadOption(f"--filter dangling={dangling}: neither true nor false")
    labels = [(text.partition("=")[0], text.partition("=")[2] if "=" in text else None) for text in found.get("label", ())]
    return Wanted(
        (*found.get("reference", ()), *([name] if name else ())),
        tuple(labels),
        None if not dangling else dangling in ("true", "1"),
        tuple(found.get("before", ())),
        tuple(found.get("since", ())),
        duration(found["until"][-1], "--filter until") if "until" in found else None,
    )


def chosen(store: LocalStore, images: Sequence[Image], wanted: Wanted, now: float) -> list[Image]:
    """With only those of their names that match. ImageNotFound for `before` and `since`."""
    from lamina.engine.images.finding import find_image

    before = [find_image(store, text).created for text in wanted.before]
    since = [find_image(store, text).created for text in wanted.since]
    out = []
    for image in images:
        if any(image.created >= when for when in before) or any(image.created <= when for when in since):
            continue
        if wanted.until is not None and now - image.created < wanted.until:
            continue
        if wanted.dangling is not None and wanted.dangling == bool(image.names):
            continue
        if wanted.labels and not _labelled(_labels(store, image), wanted.labels):
            continue
        if wanted.references:
            names = tuple(name for name in image.names if any(matches(pattern, name) for pattern in wanted.references))
            if not names:
                continue
            image = msgspec.structs.replace(image, names=names)
        out.append(image)
    return out


def matches(pattern: str, name: str) -> bool:
    """Docker's rule: a pattern without a tag means all tags; `*` stops at a slash. `name` is a full reference."""
    from lamina.oci.reference import Reference

    reference = Reference.parse(name)
    repository = Reference(reference.registry, reference.repository)
    for text in (repository.familiar, str(repository).removesuffix(":latest")):
        for candidate in (text, f"{text}:{reference.tag}"):
            if _glob(pattern, candidate):
                return True
    return False


def _glob(pattern: str, text: str) -> bool:
    ours, theirs = pattern.split("/"), text.split("/")
    return len(ours) == len(theirs) and all(fnmatch.fnmatchcase(b, a) for a, b in zip(ours, theirs))


def _labels(store: LocalStore, image: Image) -> Mapping[str, str]:
    from lamina.oci.config import parse_config

    return parse_config(store.blobs.read(image.id)).config.labels or {}


def _labelled(labels: Mapping[str, str], wanted: Sequence[tuple[str, str | None]]) -> bool:
    return all(name in labels and value in (None, labels[name]) for name, value in wanted)
