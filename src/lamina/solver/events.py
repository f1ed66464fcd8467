"""The scheduler's vocabulary: events go in, commands come out. Vertices are opaque (any hashable object with `inputs`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Node(Protocol):
    """What the machine knows of a vertex: its inputs."""

    @property
    def inputs(self) -> Sequence[Node | None]: ...
