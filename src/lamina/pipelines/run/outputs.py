"""The file into which a step writes its output variables."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from lamina.pipelines.model import Text

_LARGEST = 1 << 20
_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def read_outputs(file: Path, declared: Sequence[Text]) -> tuple[tuple[tuple[str, str], ...], str]:
    """(name and value of each, in the order of first writing; what is wrong with the file, or nothing). The last value of a name counts."""
    if not declared:
        return (), ""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return (), ""
    except OSError as error:
        return (), f"the file of output variables cannot be read: {error.strerror}"
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return (), "the file of output variables is no file any more"
        data = opened.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        return (), "the file of output variables is larger than 1 MiB"
    names = {text.value for text in declared}
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode(errors="surrogateescape").splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            return (), f"line {number} of the output variables is not NAME=value"
        if match[1] not in names:
            return (), f"the output variable {match[1]} is not declared in output-variables"
        found[match[1]] = match[2]
    return tuple(found.items()), ""
