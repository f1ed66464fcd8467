"""Which ADD sources are git repositories, and what their URLs say (BuildKit: frontend/dockerfile/dfgitutil)."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from lamina.dockerfile.lower.values import LoweringError
from lamina.graph.ops import GitOp

_SCP = r"(?s)[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:.*\Z"
_FIELDS = ("ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules")
_BOOLEANS = {
    **dict.fromkeys(("", "1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


class GitSource(msgspec.Struct, frozen=True):
    """`keep_git_dir` is None where the URL does not say."""

    url: str
    ref: str = ""
    subdir: str = ""
    checksum: str | None = None
    keep_git_dir: bool | None = None
    submodules: bool = True

    def operation(self, keep_git_dir: bool | None, checksum: str) -> GitOp:
        """With what the instruction's own flags say. LoweringError where both speak and differ."""
        if None not in (keep_git_dir, self.keep_git_dir) and keep_git_dir != self.keep_git_dir:
            raise LoweringError(f"--keep-git-dir and {self.url}?keep-git-dir= say different things")
        if checksum and self.checksum and checksum != self.checksum:
            raise LoweringError(f"--checksum={checksum} differs from the {self.checksum} of the URL")
        keep = self.keep_git_dir if keep_git_dir is None else keep_git_dir
        return GitOp(self.url, self.ref, self.subdir.strip("/"), bool(keep), checksum or self.checksum, self.submodules)


def parse_git(source: str) -> GitSource | None:
    """`git://…`, `ssh://…`, `user@host:path`, `http(s)://….git`, each with `#ref:subdir` or `?ref=…&subdir=…`; None for anything else.

    `github.com/…` is a path here, other than for a build context. LoweringError for a query that is not understood.
    """
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if scheme in ("http", "https"):
        try:
            found: SplitResult = urlsplit(source)
        except ValueError:
            return None
        if not found.path.endswith(".git"):
            return None
    elif scheme not in ("git", "ssh") and not re.match(_SCP, source):
        return None
    body, _, fragment = source.partition("#")
    ref, _, subdir = fragment.partition(":")
    url, _, query = body.partition("?")
    values = _query(query, source)

    def agreed(name: str, one: str, other: str) -> str:
        if one and other and one != other:
            raise LoweringError(f"{source!r} names two values of {name}: {one!r} and {other!r}")
        return one or other

    ref = agreed("ref", ref, values.get("ref", ""))
    if "tag" in values and "branch" in values:
        raise LoweringError(f"{source!r} names a tag and a branch")
    for name, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if name in values:
            ref = agreed("ref", ref, prefix + values[name].removeprefix(prefix))
    checksum = values.get("checksum") or values.get("commit")
    return GitSource(
        url,
        ref or checksum or "",
        agreed("subdir", subdir, values.get("subdir", "")),
        checksum,
        _BOOLEANS[values["keep-git-dir"]] if "keep-git-dir" in values else None,
        _BOOLEANS[values.get("submodules", "1")],
    )


def _query(query: str, source: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _FIELDS:
            raise LoweringError(f"{source!r}: unknown query field {name!r}", hint=f"known: {', '.join(_FIELDS)}")
        if name in values:
            raise LoweringError(f"{source!r}: {name} has several values")
        if name in ("keep-git-dir", "submodules"):
            if value not in _BOOLEANS:
                raise LoweringError(f"{source!r}: {name}={value} is neither true nor false")
        elif not value:
            raise LoweringError(f"{source!r}: {name} has no value")
        values[name] = value
    return values
