"""`--format`: the part of Go's templates that people use with docker: {{.Field}}, {{.A.B}}, {{json .}}, {{json .Field}}, and `json` alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from lamina.cli.inputs import BadOption
from lamina.diagnostics.errors import nearest

_ACTION = re.compile(r"\{\{\s*(json\s+)?(\.[\w.]*)\s*\}\}")


def render(template: str, values: Mapping[str, object]) -> str:
    """Raises BadOption for a field that is not there, or an action that is not known."""
    if template == "json":
        template = "{{json .}}"
    if template.split(" ", 1)[0] == "table":
        raise BadOption("--format: 'table' is not known", hint="without --format there is a table")
    rest = _ACTION.sub("", template)
    if "{{" in rest or "}}" in rest:
        raise BadOption(f"--format {template!r}: only {{{{.Field}}}} and {{{{json .Field}}}} are known")

    def one(found: re.Match[str]) -> str:
        value: object = values
        for name in [part for part in found[2].split(".") if part]:
            if not isinstance(value, Mapping) or name not in value:
                near = nearest(name, list(value)) if isinstance(value, Mapping) else None
                raise BadOption(f"--format: there is no field {found[2]!r}", hint=f"did you mean .{near}?" if near else None)
            value = value[name]
        if found[1] or not isinstance(value, (str, int, float)):
            return json.dumps(value, ensure_ascii=False)
        return str(value)

    return _ACTION.sub(one, template.replace("\\n", "\n").replace("\\t", "\t"))
