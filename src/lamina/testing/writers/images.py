"""Images of many writers that overlap: a stage that all have, steps that the images of a group have, steps of one image alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STEPS = 7
"""Steps of each image that can be found in a cache."""

LAST = "RUN cat /app/own.txt"
"""How the last step begins: a writer that has said that it ran is about to publish."""

GROUPS = 4
"""Neighbours are of one group: they run on different machines."""

_DOCKERFILE = """\
FROM {base} AS tool
COPY shared.txt /in
RUN tr a-z A-Z < /in > /tool
FROM {base}
COPY group.txt /app/
RUN cat /app/group.txt > /app/group
COPY --from=tool /tool /app/tool
COPY own.txt /app/
RUN cat /app/own.txt /app/tool > /app/made
"""


@dataclass(frozen=True, slots=True)
class Image:
    number: int
    context: Path


def images(folder: Path, number: int, *, base: str = "base:1", size: int = 20_000) -> list[Image]:
    """`number` contexts below `folder`; `size`: bytes of each file, of a pattern that does not compress to nothing."""
    made = []
    for each in range(number):
        context = folder / f"image{each}"
        context.mkdir(parents=True)
        (context / "Dockerfile").write_text(_DOCKERFILE.format(base=base))
        for name, seed in (("shared", 1), ("group", 1000 + each // GROUPS % GROUPS), ("own", 1_000_000 + each)):
            (context / f"{name}.txt").write_text(_text(seed, size))
        made.append(Image(each, context))
    return made


def _text(seed: int, size: int) -> str:
    """Numbers of a linear congruence, one a line."""
    lines, length, value = [f"{seed}\n"], 0, seed
    while length < size:
        value = (value * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        lines.append(f"{value}\n")
        length += len(lines[-1])
    return "".join(lines)
