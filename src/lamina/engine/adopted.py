"""Steps that another builder ran: the layers of an image that was loaded, where its history and its layers match the Dockerfile.

`docker save app | lamina load`, `lamina build`: a RUN whose stage tells the same history as the image (environment, user, folder, shell
and every RUN so far), upon a filesystem with the same content, takes over the image's layer for it. COPY, ADD and WORKDIR are made
here all the same: they are quick, and their content is what proves that the layers below the RUN are equal. Images that were pulled or
built here are not asked: the ones are strangers', the others have records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from lamina.cache import keys
from lamina.dockerfile.lower import Lowered
from lamina.engine.images.layout import checked_config
from lamina.graph.vertex import Vertex
from lamina.oci.config import History
from lamina.oci.digest import DiffId, Digest, LayerId, StateId, chain
from lamina.oci.manifest import Descriptor, Manifest
from lamina.oci.reference import Reference
from lamina.oci.selection import parse_checked
from lamina.store.local import LocalStore

Told = tuple[str, str]
"""("run", command with build arguments), ("env" | "user" | "workdir" | "shell", text), or ("files", "") for what is proved by content."""

_NOP = re.compile(r"^/bin/sh -c #\(nop\)\s+")
_ARGS = re.compile(r"^\|(\d+) ")
_COUNTED = {"ENV": "env", "USER": "user", "WORKDIR": "workdir", "SHELL": "shell"}


class Adopted(msgspec.Struct, frozen=True):
    """A layer of a loaded image that is what the step would make. `diff`: digest of its normalised diff; `size`: bytes of its files."""

    image: str
    diff_id: DiffId
    diff: str
    size: int
    empty: bool


def told(entry: History) -> Told | None:
    """What a history entry says, of docker's classic builder or BuildKit; None for what no RUN sees (CMD, LABEL, EXPOSE, ARG …)."""
    text = " ".join((entry.created_by or "").split()).removesuffix(" # buildkit")
    if not _NOP.match(text) and (text.startswith(("RUN ", "|", "/bin/sh -c ")) or text[:1] == "/"):
        return "run", _run(text.removeprefix("RUN "))
    text = _NOP.sub("", text)
    word, _, rest = text.partition(" ")
    if word in ("COPY", "ADD"):
        return "files", ""
    return (_COUNTED[word], rest) if word in _COUNTED else None


def histories(lowered: Lowered) -> dict[int, tuple[Told, ...]]:
    """By id of the vertex: what the target's history tells, its base's included, up to and with this vertex."""
    own = len(lowered.config.history) - len(lowered.history_vertices)
    so_far = [said for entry in lowered.config.history[:own] if (said := told(entry)) is not None]
    found: dict[int, tuple[Told, ...]] = {}
    for entry, vertex in zip(lowered.config.history[own:], lowered.history_vertices):
        said = told(entry)
        if said is not None:
            so_far.append(said)
        if vertex is not None:
            found[id(vertex)] = tuple(so_far)
    return found


class LoadedImages:
    """Images of a store that were loaded (store/origins.py, `unknown`), held against one Dockerfile's target. Not thread-safe."""

    def __init__(self, store: LocalStore, lowered: Lowered, images: Sequence[Digest]) -> None:
        self._store = store
        self._base_layers = lowered.base_layers
        self._images = list(_loaded(store, images))
        self._histories = histories(lowered) if self._images else {}

    def find(self, vertex: Vertex, state: StateId) -> Adopted | None:
        """The layer that this RUN makes upon a filesystem with this state. Unpacks layers where the history matches."""
        history = self._histories.get(id(vertex))
        if history is None:
            return None
        base_layers = self._base_layers
        for image in self._images:
            number = image.after(history)
            if number is not None and number >= base_layers and image.state_below(self._store, number, base_layers) == state:
                return image.layer(self._store, number)
        return None


class _Loaded:
    """`tells`: what each history entry says, with the number of its layer (None: it has none)."""

    def __init__(self, name: str, diff_ids: tuple[DiffId, ...], stored: Sequence[Descriptor], history: Sequence[History]) -> None:
        self._name = name
        self._diff_ids = diff_ids
        self._stored = stored
        self._diffs: dict[int, tuple[str, int, bool]] = {}
        self.tells: list[tuple[Told, int | None]] = []
        layer = 0
        for entry in history:
            said = told(entry)
            if said is not None:
                self.tells.append((said, None if entry.empty_layer else layer))
            layer += 0 if entry.empty_layer else 1

    def after(self, history: Sequence[Told]) -> int | None:
        """The number of the layer up to which the image tells this history, None when it tells another."""
        if [said for said, _ in self.tells[: len(history)]] != list(history):
            return None
        return self.tells[len(history) - 1][1]

    def state_below(self, store: LocalStore, number: int, base_layers: int) -> StateId:
        state = keys.base_state(chain(self._diff_ids[:base_layers]) if base_layers else None)
        for below in range(base_layers, number):
            state = keys.state_after(state, self._normal(store, below)[0])
        return state

    def layer(self, store: LocalStore, number: int) -> Adopted:
        diff, size, empty = self._normal(store, number)
        return Adopted(self._name, self._diff_ids[number], diff, size, empty)

    def _normal(self, store: LocalStore, number: int) -> tuple[str, int, bool]:
        if number not in self._diffs:
            from lamina.engine.images.layers import ensure_layer  # seldom: only where a history matches
            from lamina.layer.normal import normalise

            folder = ensure_layer(store, self._diff_ids[number], self._stored[number]).parent
            found = normalise(folder, store.flavour)
            store.layers.set_diff(LayerId(self._diff_ids[number]), found.digest)
            self._diffs[number] = found.digest, found.size, found.entries == 0
        return self._diffs[number]


def _loaded(store: LocalStore, images: Sequence[Digest]) -> Iterator[_Loaded]:
    for digest in images:
        image = store.images.by_id(digest)
        if image is None or store.blobs.missing(image.blobs):
            continue
        config = checked_config(store.blobs.read(image.id), f"image {image.id}")
        manifest = parse_checked(store.blobs.read(image.manifest))
        if isinstance(manifest, Manifest) and len(manifest.layers) == len(config.diff_ids):
            name = Reference.parse(image.names[0]).familiar if image.names else image.id[7:19]
            yield _Loaded(name, config.diff_ids, manifest.layers, config.history)


def _run(text: str) -> str:
    """The command, its build arguments in one order: `|2 B=1 A=2 cmd` -> `|2 A=2 B=1 cmd`."""
    found = _ARGS.match(text)
    if found is None:
        return text
    words = text[found.end() :].split(" ")
    count = int(found[1])
    return " ".join([f"|{count}", *sorted(words[:count]), *words[count:]])
