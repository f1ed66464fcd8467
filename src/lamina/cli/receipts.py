"""Writing the receipt of a build that found every step, for cli/unchanged.py."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from lamina.cli import unchanged
from lamina.engine.contextfiles import places
from lamina.engine.receipt import Receipt
from lamina.engine.request import BuildRequest
from lamina.store.standing import boot_id, standing


def write(
    receipt: Receipt, request: BuildRequest, file: str | None, arguments: Sequence[str], environment: Mapping[str, str], *,
    quiet: bool, notices: Sequence[str], tags: Sequence[str],
) -> None:  # fmt: skip
    """Replace the receipt in one rename. One that cannot be written is no failure: the next build takes the long way."""
    files = [(str(path.absolute()), _read(path)) for path in places(request.context, Path(file) if file else None)]
    if not _same_texts(files, request):
        return
    root = unchanged.store_root(environment)
    asked = {"records": receipt.records, "layers": receipt.layers, "names": receipt.names, "images": [receipt.image]}
    path = Path(unchanged.receipt_path(arguments, environment))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with suppress(OSError, sqlite3.Error, ValueError):
        connection = sqlite3.connect(os.path.join(root, "state.db"), timeout=0.1)
        try:
            rows = standing(connection, asked)
        finally:
            connection.close()
        boot = boot_id()
        if any(row[2] not in (None, boot) for row in rows["layers"]) or len(rows["images"]) != 1:
            return
        document: unchanged.Receipt = {
            "root": root,
            "files": files,
            "folders": receipt.folders,
            "asked": asked,
            "rows": rows,
            "blobs": [receipt.image, receipt.manifest],
            "boot": boot,
            "quiet": quiet,
            "notices": list(notices),
            "hits": msgspec.to_builtins(receipt.hits),
            "steps": receipt.steps,
            "made": msgspec.to_builtins(receipt.made),
            "log": _log(request, receipt, tags),
            "images": list(tags),
            "id": receipt.image,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch(mode=0o600)
            temporary.write_bytes(unchanged.dump(document))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _same_texts(files: Sequence[tuple[str, bytes | None]], request: BuildRequest) -> bool:
    """Whether the files are still what the build has read."""
    dockerfile, *ignores = [None if data is None else data.decode("utf-8", "surrogateescape") for _, data in files]
    ignore = next((text for text in ignores if text is not None), None)
    return dockerfile == request.dockerfile_text and _lines(ignore) == _lines(request.ignore_text)


def _lines(text: str | None) -> list[str] | None:
    return None if text is None else text.splitlines()


def _log(request: BuildRequest, receipt: Receipt, tags: Sequence[str]) -> dict[str, object]:
    log: dict[str, object] = {"dockerfile": request.dockerfile_name, "images": [receipt.image]}
    if request.target:
        log["target"] = request.target
    if tags:
        log["tags"] = list(tags)
    return log
