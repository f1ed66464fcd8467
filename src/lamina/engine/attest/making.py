"""The statements about one image: provenance out of its records, SBOMs out of its files, as in-toto statements about its manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.cache.record import CacheKey
from lamina.diagnostics.errors import LaminaError
from lamina.engine.attest.attached import Attached, Statement, attach
from lamina.engine.attest.packages import Inventory, inventory
from lamina.engine.attest.provenance import PREDICATE, Mode, provenance
from lamina.engine.attest.sbom import PREDICATES, Format, cyclonedx, image_purl, spdx
from lamina.engine.freshness.origins import read
from lamina.engine.images.layers import ensure_layers
from lamina.layer.view import LayerView
from lamina.oci.canonical import canonical
from lamina.oci.digest import Digest
from lamina.oci.manifest import Descriptor
from lamina.oci.reference import Reference
from lamina.registry.errors import RegistryError
from lamina.store.local import LocalStore
from lamina.store.refs import Image

if TYPE_CHECKING:
    from lamina.engine.engine import Engine


class NoProvenance(LaminaError):
    """It was not built here, or by a lamina that did not keep what it was built from."""

    code = "attest/no-provenance"
    default_exit = 1


class Wanted(msgspec.Struct, frozen=True):
    """What stands beside an image: nothing by default."""

    provenance: Mode | None = None
    sbom: tuple[Format, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.provenance or self.sbom)


class Attestor:
    """`Attest` for a push or an export: the same image gives the same statements."""

    def __init__(self, engine: Engine, wanted: Wanted, warn: Callable[[str], None]) -> None:
        self._engine = engine
        self._wanted = wanted
        self._warn = warn
        self._inventories: dict[Digest, Inventory] = {}

    def __call__(self, image: Image, manifest: Digest) -> Attached | None:
        statements = []
        if self._wanted.provenance:
            statements.append(self._statement(image, manifest, PREDICATE, self._provenance(image, self._wanted.provenance)))
        for kind in self._wanted.sbom:
            document = bill(self._inventory(image), kind, _name(image), manifest, image.created)
            statements.append(self._statement(image, manifest, PREDICATES[kind], document))
        return attach(manifest, statements) if statements else None

    def _statement(self, image: Image, manifest: Digest, kind: str, predicate: dict[str, Any]) -> Statement:
        algorithm, _, value = manifest.partition(":")
        names = [image_purl(name, image.platform) for name in image.names] or [_name(image)]
        document = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {algorithm: value}} for name in names],
            "predicateType": kind,
            "predicate": predicate,
        }
        return Statement(kind, canonical(document))

    def _provenance(self, image: Image, mode: Mode) -> dict[str, Any]:
        origin = read(self._engine.store.origins.of(image.id))
        if origin is None:
            raise NoProvenance(f"{_name(image)}: nothing is known of how it was built", hint="build it here, or leave out --provenance")
        found = self._engine.records.lookup([CacheKey(step.key) for step in origin.steps])
        return provenance(origin, {key: records[0] for key, records in found.items()}, mode)

    def _inventory(self, image: Image) -> Inventory:
        if image.id not in self._inventories:
            found = packages_of(self._engine, image)
            for text in found.warnings:
                self._warn(f"SBOM: {text}")
            self._inventories[image.id] = found
        return self._inventories[image.id]


def packages_of(engine: Engine, image: Image) -> Inventory:
    """The packages in the image's files. Layers of a base that were never fetched are fetched now."""
    store = engine.store
    folders = ensure_layers(store, image, lambda descriptor: _fetch(engine, store, descriptor))
    with LayerView(folders, store.flavour) as view:
        return inventory(view, store.scratch())


def bill(found: Inventory, kind: Format, name: str, manifest: Digest, created: float) -> dict[str, Any]:
    return spdx(found, name, manifest, created) if kind == "spdx" else cyclonedx(found, name, manifest, created)


def _fetch(engine: Engine, store: LocalStore, descriptor: Descriptor) -> None:
    for place in store.facts.places(descriptor.digest):
        try:
            engine.registry().fetch_blob(Reference.parse(place), descriptor, store.blobs)
            return
        except RegistryError:
            continue


def _name(image: Image) -> str:
    return Reference.parse(image.names[0]).familiar if image.names else image.id


def parse_wanted(provenance: str | None, sbom: Sequence[str]) -> Wanted:
    """Option values: `true`, `false`, `min`, `max` (or mode=…) and `true`, `false`, `spdx`, `cyclonedx`."""
    from lamina.engine.exporters.output import BadOutput

    mode: Mode | None = None
    text = (provenance or "false").removeprefix("mode=")
    if text in ("min", "true", "1"):
        mode = "min"
    elif text == "max":
        mode = "max"
    elif text not in ("false", "0"):
        raise BadOutput(f"--provenance {provenance} is not known", hint="known: min, max, false")
    kinds: dict[Format, None] = {}
    for value in sbom:
        for word in value.split(","):
            if word in ("true", "1", "spdx"):
                kinds["spdx"] = None
            elif word == "cyclonedx":
                kinds["cyclonedx"] = None
            elif word not in ("false", "0"):
                raise BadOutput(f"--sbom {value} is not known", hint="known: spdx, cyclonedx, false")
    return Wanted(mode, tuple(kinds))
