"""How many warnings the check rules have for a Dockerfile, as docker's builds say it.

The number is kept beside the stat caches by what it was counted of, so that a build whose Dockerfile has not changed imports no rule.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from lamina.engine.request import BuildRequest
from lamina.version import __version__


def line(request: BuildRequest, place: Path) -> str | None:
    """ "2 warnings found …", None where there is none. `place`: the store's folder for what only saves work."""
    if request.incoming is not None and request.incoming.dockerfile is not None:
        return None  # it is in the repository or archive, which is gone by now
    asked = repr((__version__, request.dockerfile_text, request.dockerfile_name, request.ignore_text))
    kept = place / f"checks-{sha256(asked.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"
    try:
        count = int(kept.read_bytes())
    except (OSError, ValueError):
        count = _count(request)
        _keep(kept, count)
    return f"{count} warning{'' if count == 1 else 's'} found (use --check to expand)" if count else None


def _count(request: BuildRequest) -> int:
    from lamina.dockerfile import parse
    from lamina.dockerfile.ignore import IgnoreRules
    from lamina.dockerfile.lint import lint

    ignore = IgnoreRules.parse(request.ignore_text) if request.ignore_text is not None else None
    document = parse(request.dockerfile_text, request.dockerfile_name)
    return sum(item.severity == "warning" for item in lint(document, ignore=ignore))


def _keep(path: Path, count: int) -> None:
    """In one rename. Where it cannot be written the next build counts again."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"%d" % count)
        temporary.replace(path)
