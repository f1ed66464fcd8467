"""User and group names of an image: its own passwd and group files, read by our own parser (no NSS of the host)."""

from __future__ import annotations

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.layer.entry import Kind
from lamina.layer.tree import FileTree

_LIMIT = 1 << 20  # bytes of passwd or group that are looked at


class UnknownOwner(LaminaError):
    code = "layer/unknown-owner"
    default_exit = 2


def look_up(tree: FileTree | None, user: str, group: str | None) -> tuple[int, int]:
    """(uid, gid) of `--chown=user[:group]`: names through the image's passwd and group, numbers as they are.

    Without a group: the user's own in passwd for a name, the same number for a number (docker's rule). Raises UnknownOwner.
    """
    passwd = _rows(tree, b"etc/passwd") if not user.isdecimal() else []
    if user.isdecimal():
        uid, own = int(user), int(user)
    else:
        uid, own = _named(passwd, user, "user", "/etc/passwd", 3)
    if group is None:
        return uid, own
    if group.isdecimal():
        return uid, int(group)
    return uid, _named(_rows(tree, b"etc/group"), group, "group", "/etc/group", 2)[0]


def _named(rows: list[list[str]], name: str, what: str, file: str, column: int) -> tuple[int, int]:
    for row in rows:
        if row[0] == name and len(row) > column and row[2].isdecimal():
            return int(row[2]), int(row[column]) if row[column].isdecimal() else 0
    near = nearest(name, [row[0] for row in rows])
    raise UnknownOwner(
        f"the image has no {what} {name!r} in {file}", hint=f"did you mean {near!r}?" if near else f"give the number of the {what}"
    )


def _rows(tree: FileTree | None, path: bytes) -> list[list[str]]:
    where = tree.resolve(path) if tree is not None else None
    entry = tree.entry(where) if tree is not None and where is not None else None
    if tree is None or where is None or entry is None or entry.kind is not Kind.FILE:
        return []
    with tree.open(where) as file:
        text = file.read(_LIMIT).decode("utf-8", "surrogateescape")
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]
