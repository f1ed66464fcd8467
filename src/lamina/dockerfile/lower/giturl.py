"""Which ADD sources are git repositories, and what their URLs say (BuildKit: util/gitutil/git_ref.go)."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from lamina.dockerfile.lower.values import LoweringError
from lamina.graph.ops import GitOp

_SCP = re.compile(r"^(?:[\w.-]+@)[\w.-]+:(?!//)[^\s]+$")


def parse_git(source: str) -> GitOp | None:
    """`git://…`, `ssh://…`, `git@host:path`, `https://….git`, `github.com/…`, with `#ref:subdir` or `?ref=&subdir=&…`; else None."""
    text = source
    if text.startswith(("http://", "https://")):
        path = urlsplit(text).path
        if not (path.endswith(".git") or path.endswith(".git/")):
            return None
    elif text.startswith("github.com/"):
        text = "https://" + text
    elif not (text.startswith(("git://", "ssh://")) or _SCP.match(text)):
        return None
    body, _, fragment = text.partition("#")
    ref, _, subdir = fragment.partition(":")
    keep, submodules, checksum = False, True, None
    url, question, query = body.partition("?")
    if question:
        for name, value in parse_qsl(query, keep_blank_values=True):
            match name:
                case "ref" | "tag" | "branch":
                    ref = value if name == "ref" else f"refs/{'tags' if name == 'tag' else 'heads'}/{value}"
                case "subdir":
                    subdir = value
                case "checksum" | "commit":
                    checksum = value
                case "keep-git-dir":
                    keep = value.lower() in ("", "1", "t", "true")
                case "submodules":
                    submodules = value.lower() in ("", "1", "t", "true")
                case _:
                    raise LoweringError(
                        f"{source!r}: unknown query field {name!r}",
                        hint="known: ref, tag, branch, subdir, checksum, keep-git-dir, submodules",
                    )
    return GitOp(url, ref, subdir.strip("/"), keep, checksum, submodules)
