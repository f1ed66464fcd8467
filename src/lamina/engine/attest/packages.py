"""Which packages an image has, read from its files and never by running anything: dpkg, apk and rpm databases, Python's and npm's metadata.

Files of an image are a stranger's: each has a limit, none is believed to be well formed, and what cannot be read is said in `warnings`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.attest.rpmdb import read_rpmdb
from lamina.layer.entry import Kind
from lamina.layer.view import LayerView

Ecosystem = Literal["deb", "apk", "rpm", "pypi", "npm"]

_DATABASE_LIMIT = 128 << 20  # bytes
_METADATA_LIMIT = 1 << 20
_MOST = 100_000  # packages
_LONGEST = 512  # characters of one value


class Package(msgspec.Struct, frozen=True, order=True):
    """`license` is what the package says of itself, in its own words. `path`: the file that names it."""

    ecosystem: Ecosystem
    name: str
    version: str
    architecture: str = ""
    license: str = ""
    source: str = ""
    epoch: str = ""
    path: str = ""


class System(msgspec.Struct, frozen=True):
    """os-release: `id` "debian", `version` "12"; empty where there is none."""

    id: str = ""
    version: str = ""
    name: str = ""


class Inventory(msgspec.Struct, frozen=True):
    """Packages sorted, each once."""

    system: System
    packages: tuple[Package, ...]
    warnings: tuple[str, ...] = ()


def inventory(view: LayerView, scratch: Path) -> Inventory:
    """Everything found in `view`; `scratch` is for a copy of an rpm database, which SQLite wants as a file."""
    found: dict[Package, None] = {}
    warnings: list[str] = []
    reading = _Reading(view, warnings)
    for path, parse in _readers(view, reading, scratch, warnings):
        for package in parse():
            if len(found) >= _MOST:
                warnings.append(f"more than {_MOST} packages: the rest is left out")
                return Inventory(_system(reading), tuple(sorted(found)), tuple(warnings))
            if package.name and package.version:
                found[msgspec.structs.replace(package, path=path)] = None
    return Inventory(_system(reading), tuple(sorted(found)), tuple(warnings))


class _Reading:
    """Files of the image as text, up to a limit; None for what is not there."""

    def __init__(self, view: LayerView, warnings: list[str]) -> None:
        self._view = view
        self._warnings = warnings

    def data(self, path: bytes, limit: int) -> bytes | None:
        try:
            with self._view.open(path) as file:
                raw = file.read(limit + 1)
        except (LaminaError, OSError):
            return None
        if len(raw) > limit:
            self._warnings.append(f"{show(path)} has more than {limit >> 20} MiB and was not read")
            return None
        return raw

    def text(self, path: bytes, limit: int) -> str | None:
        raw = self.data(path, limit)
        return None if raw is None else raw.decode("utf-8", "replace")


def show(path: bytes) -> str:
    return "/" + path.decode("utf-8", "replace")


def _readers(
    view: LayerView, reading: _Reading, scratch: Path, warnings: list[str]
) -> Iterator[tuple[str, Callable[[], Iterator[Package]]]]:
    """(what is read, how) for each database and metadata file of the image."""
    for path in (b"var/lib/dpkg/status", *(b"var/lib/dpkg/status.d/" + name for name in _names(view, b"var/lib/dpkg/status.d"))):
        text = reading.text(path, _DATABASE_LIMIT)
        if text is not None and not path.endswith(b".md5sums"):
            yield show(path), lambda text=text: dpkg(text)  # type: ignore[misc]  # mypy does not infer a default argument's type in a lambda
    for path in (b"lib/apk/db/installed", b"usr/lib/apk/db/installed"):
        text = reading.text(path, _DATABASE_LIMIT)
        if text is not None:
            yield show(path), lambda text=text: apk(text)  # type: ignore[misc]  # as above
    for folder in (b"var/lib/rpm", b"usr/lib/sysimage/rpm", b"usr/share/rpm"):
        path = folder + b"/rpmdb.sqlite"
        raw = reading.data(path, _DATABASE_LIMIT)
        if raw is not None:
            yield show(path), lambda raw=raw, path=path: _rpm(raw, show(path), scratch, warnings)  # type: ignore[misc]  # as above
        elif any(_entry(view, folder + old) for old in (b"/Packages", b"/Packages.db")):
            warnings.append(f"{show(folder)} is an rpm database of another form than SQLite and was not read")
    for path, entry in view.walk():
        if entry.kind not in (Kind.FILE, Kind.HARDLINK):
            continue
        parts = path.split(b"/")
        if len(parts) >= 2 and (
            (parts[-1] == b"METADATA" and parts[-2].endswith(b".dist-info"))
            or (parts[-1] == b"PKG-INFO" and parts[-2].endswith(b".egg-info"))
        ):
            text = reading.text(path, _METADATA_LIMIT)
            if text is not None:
                yield show(path), lambda text=text: python(text)  # type: ignore[misc]  # as above
        elif parts[-1] == b"package.json" and b"node_modules" in parts[-4:-2]:
            raw = reading.data(path, _METADATA_LIMIT)
            if raw is not None:
                yield show(path), lambda raw=raw: npm(raw)  # type: ignore[misc]  # as above


def _names(view: LayerView, folder: bytes) -> list[bytes]:
    try:
        return list(view.children(folder))
    except LaminaError:
        return []


def _entry(view: LayerView, path: bytes) -> bool:
    try:
        return view.lookup(path) is not None
    except LaminaError:
        return False


def _system(reading: _Reading) -> System:
    for path in (b"etc/os-release", b"usr/lib/os-release"):
        text = reading.text(path, _METADATA_LIMIT)
        if text is not None:
            values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
            clean = {name: value.strip().strip("\"'") for name, value in values.items()}
            return System(_plain(clean.get("ID", "")), _plain(clean.get("VERSION_ID", "")), _plain(clean.get("PRETTY_NAME", "")))
    return System()


def _plain(text: object) -> str:
    """One line of printable text, not longer than a value ought to be; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    return "".join(sign if sign.isprintable() else " " for sign in text[:_LONGEST]).strip()


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    """RFC 822 paragraphs; what continues a field is left out: no field that is wanted here has more than one line."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] not in " \t":
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip().lower(), _plain(value))
    if fields:
        yield fields


def dpkg(text: str) -> Iterator[Package]:
    """/var/lib/dpkg/status (only what is installed) or one file of status.d, as distroless images have them."""
    for fields in _paragraphs(text):
        status = fields.get("status", "install ok installed").split()
        if status[-1:] != ["installed"]:
            continue
        source = fields.get("source", "").partition(" ")[0]
        yield Package("deb", fields.get("package", ""), fields.get("version", ""), fields.get("architecture", ""), source=source)


def apk(text: str) -> Iterator[Package]:
    """/lib/apk/db/installed: single-letter fields."""
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            if len(line) > 2 and line[1] == ":":
                fields.setdefault(line[0], _plain(line[2:]))
        yield Package(
            "apk", fields.get("P", ""), fields.get("V", ""), fields.get("A", ""), license=fields.get("L", ""), source=fields.get("o", "")
        )


def python(text: str) -> Iterator[Package]:
    """Core metadata of one distribution: the headers before the description."""
    fields = next(_paragraphs(text), {})
    yield Package(
        "pypi", fields.get("name", ""), fields.get("version", ""), license=fields.get("license-expression") or fields.get("license", "")
    )


def npm(raw: bytes) -> Iterator[Package]:
    """One package.json below node_modules."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if isinstance(document, dict):
        license_ = document.get("license")
        if isinstance(license_, dict):
            license_ = license_.get("type")
        yield Package("npm", _plain(document.get("name")), _plain(document.get("version")), license=_plain(license_))


def _rpm(raw: bytes, path: str, scratch: Path, warnings: list[str]) -> Iterator[Package]:
    handle, name = tempfile.mkstemp(dir=scratch)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(raw)
        rows, complete = read_rpmdb(Path(name))
    finally:
        os.unlink(name)
    if not complete:
        warnings.append(f"{path} is damaged: {len(rows)} packages could be read")
    for row in rows:
        yield Package(
            "rpm",
            _plain(row.name),
            _plain(f"{row.version}-{row.release}" if row.release else row.version),
            _plain(row.architecture),
            license=_plain(row.license),
            source=_plain(row.source),
            epoch=_plain(row.epoch),
        )
