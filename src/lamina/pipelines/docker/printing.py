"""How docker prints: tables, sizes, ages, and the part of Go's templates that scripts use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from lamina.pipelines.docker.options import HINT, Usage

_ACTION = re.compile(r"\{\{\s*(json\s+)?(\.[\w.]*)\s*\}\}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (heads, *rows))


def size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g}{unit}"


def age(seconds: float) -> str:
    for unit, length in (("year", 31536000), ("month", 2592000), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return f"{max(0, int(seconds))} seconds ago"


def filled(template: str, values: Mapping[str, object]) -> str:
    """`{{.Field}}`, `{{.A.B}}`, `{{json .A}}`; Usage for the rest."""
    rest = _ACTION.sub("", template)
    if "{{" in rest:
        raise Usage(f"docker: the template {template!r} is not known to lamina's docker", hint=HINT)

    def one(found: re.Match[str]) -> str:
        value: object = values
        for name in found[2].split("."):
            if name:
                if not isinstance(value, Mapping) or name not in value:
                    raise Usage(f"docker: template: there is no field {found[2]}")
                value = value[name]
        if isinstance(value, list) and not found[1]:
            return "[" + " ".join(str(one) for one in value) + "]"
        if found[1] or isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False)
        if isinstance(value, bool):
            return str(value).lower()
        return "<no value>" if value is None else str(value)

    return _ACTION.sub(one, template.replace("\\n", "\n").replace("\\t", "\t"))
