"""The short way of `lamina build`: when nothing that the last build of this command line rested on has changed, say again what it said.

A build that found every step leaves a receipt (cli/receipts.py). The next one with the same arguments, folder, user and settings reads it,
looks again at all that the receipt names — each name of the context by stat, the Dockerfile's and ignore file's bytes, the rows of the
store — and if all of it stands, prints the same hits with their ages of now, notes the use and the build, and is done. Anything else, a
doubt included, is None here and a whole build there. docs/dev/life-of-a-build.md, "The short way".

Imports count here: this module and what it stands on use the standard library only.
"""

from __future__ import annotations

import marshal
import os
import sys
import time
from collections.abc import Mapping, Sequence
from operator import attrgetter
from zlib import crc32

from lamina.version import __version__

MAGIC = b"lamina-receipt-1\n"
PROXIES = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy",
)  # fmt: skip
SETTINGS = ("HOME", "XDG_DATA_HOME", "NO_COLOR", "SOURCE_DATE_EPOCH", *PROXIES)
_facts = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")  # layer/reading.py, Facts

Receipt = dict[str, object]
"""`root`, `files` [(path, bytes or None)], `folders` [(path, facts)], `asked` and `rows` (store/standing.py), `layers`, `blobs`, `boot`, `quiet`,
`notices`, `hits` [(name, saved, (created, where, build))], `steps` (JSON documents), `made` [(created, where, build) or None], `log` (fixed fields of
the build's document), `images` (names that are printed), `id`."""


def store_root(environment: Mapping[str, str]) -> str:
    """Where the store lies: $LAMINA_ROOT, else `lamina` in $XDG_DATA_HOME, else in ~/.local/share."""
    root = environment.get("LAMINA_ROOT")
    if root:
        return os.path.abspath(root)
    base = environment.get("XDG_DATA_HOME")
    if not base or not os.path.isabs(base):
        base = os.path.join(environment.get("HOME") or "/root", ".local", "share")
    return os.path.abspath(os.path.join(base, "lamina"))


def receipt_path(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The receipt's file for this command line, here, by this user, with these settings, of this version. Arguments leave only a digest."""
    from hashlib import sha256

    settings = sorted((name, value) for name, value in environment.items() if name.startswith("LAMINA_") or name in SETTINGS)
    asked = repr((__version__, sys.implementation.cache_tag, list(arguments), os.getcwd(), os.geteuid(), settings))
    name = sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return os.path.join(store_root(environment), "context", f"receipt-{name}")


def dump(receipt: Receipt) -> bytes:
    body = marshal.dumps(receipt)
    return MAGIC + crc32(body).to_bytes(4, "big") + body


def load(data: bytes) -> Receipt | None:
    """None for anything that was not written whole by `dump`."""
    start = len(MAGIC) + 4
    if data[: len(MAGIC)] != MAGIC or crc32(memoryview(data)[start:]) != int.from_bytes(data[len(MAGIC) : start], "big"):
        return None
    found = marshal.loads(memoryview(data)[start:])
    return found if isinstance(found, dict) else None


def answer(arguments: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """The exit code when the build was answered, None when it has to be built. Prints nothing before it is sure."""
    started = time.monotonic()
    if sys.stderr.isatty() and "-q" not in arguments and "--quiet" not in arguments:
        return None  # the live view
    if any(name.startswith("OTEL_") for name in environment):
        return None  # a trace has times that a receipt has not
    try:
        with open(receipt_path(arguments, environment), "rb") as file:
            receipt = load(file.read())
        if receipt is None or not _context_stands(receipt):
            return None
        return _tell(receipt, started)
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return None


def _context_stands(receipt: Receipt) -> bool:
    for path, data in receipt["files"]:  # type: ignore[attr-defined]  # the shape of Receipt; another one is a KeyError or TypeError
        if _bytes(path) != data:
            return False
    for path, before in receipt["folders"]:  # type: ignore[attr-defined]  # as above
        now: list[object] = []
        add = now.append
        with os.scandir(path) as names:
            for name in names:
                add(name.name)
                add(_facts(name.stat(follow_symlinks=False)))
        if now != before:
            return False
    return True


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _tell(receipt: Receipt, started: float) -> int | None:
    import sqlite3

    from lamina.store.standing import KEPT, boot_id, files_stand, standing, used_again

    root, boot = str(receipt["root"]), boot_id()
    asked: dict[str, list[str]] = receipt["asked"]  # type: ignore[assignment]  # the shape of Receipt
    database = os.path.join(root, "state.db")
    if not os.path.exists(database) or receipt["boot"] != boot or not files_stand(root, asked["layers"], receipt["blobs"]):  # type: ignore[arg-type]  # as above
        return None
    now = time.time()
    build = time.strftime("%Y%m%d-%H%M%S-", time.gmtime(now)) + os.urandom(3).hex()
    try:
        connection = sqlite3.connect(database, timeout=0.1, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            if standing(connection, asked) != receipt["rows"]:
                connection.execute("ROLLBACK")
                return None
            took = time.monotonic() - started
            used_again(connection, asked, (build, now, _log(receipt, build, now, took)), KEPT)
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.Error:
        return None
    _print(receipt, now, took)
    return 0


def _log(receipt: Receipt, build: str, now: float, took: float) -> bytes:
    """The build's document as store/builds.py keeps it, the steps' reasons with their ages of now."""
    from json import dumps

    from lamina.cache.wording import SAME, made

    steps = []
    for step, origin in zip(receipt["steps"], receipt["made"]):  # type: ignore[call-overload]  # the shape of Receipt
        if origin is not None:
            since = max(0.0, now - origin[0])
            reason = {**step["reason"], "message": f"{SAME}; {made(since, origin[1], origin[2])}", "record_age": round(since, 1)}
            step = {**step, "reason": reason}
        steps.append(step)
    log: dict[str, object] = receipt["log"]  # type: ignore[assignment]  # the shape of Receipt
    return dumps({"id": build, "created": now, **log, "steps": steps, "seconds": took}).encode()


def _print(receipt: Receipt, now: float, took: float) -> None:
    from lamina.cache.wording import SAME, made
    from lamina.cli import words

    if not receipt["quiet"]:
        lines: list[str] = list(receipt["notices"])  # type: ignore[call-overload]  # the shape of Receipt
        gained = 0.0
        for name, saved, (created, where, build) in receipt["hits"]:  # type: ignore[attr-defined]  # as above
            lines.append(words.step_head("CACHED", name, words.saved(saved)))
            lines.append(f"{words.REASON}{SAME}; {made(max(0.0, now - created), where, build)}")
        verdicts = [step["verdict"] for step in receipt["steps"]]  # type: ignore[attr-defined]  # as above
        gained = sum(step["saved_seconds"] for step in receipt["steps"] if step["verdict"] == "hit")  # type: ignore[attr-defined]  # as above
        lines.append(words.summary(verdicts.count("hit"), gained, 0, verdicts.count("skipped"), took))
        lines += [f"image {name}" for name in receipt["images"]]  # type: ignore[attr-defined]  # as above
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    sys.stdout.write(f"{receipt['id']}\n")
    sys.stdout.flush()
