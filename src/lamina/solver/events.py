"""The scheduler's vocabulary: events go in, commands come out. Nodes and results are opaque; nodes are told apart by identity.

Every command but Stop and Done is answered by exactly one event about the same node. A Failed may answer any of them.
Structs and not dataclasses: twenty of these would cost each start of the program ten milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

import msgspec


class Node(Protocol):
    """What the machine knows of a vertex: its inputs."""

    @property
    def inputs(self) -> Sequence[Node | None]: ...


N = TypeVar("N", bound=Node)
R = TypeVar("R")

Status = Literal["waiting", "pure", "hit", "shared", "ran", "missed", "unknown", "failed", "cancelled"]
"""What became of a node. In plans only: missed, unknown.
`waiting`: the build ended before its turn; `cancelled`: in the middle of it."""


# Commands


class Identify(msgspec.Struct, Generic[N, R], frozen=True):
    """Compute the node's key. All inputs have results. Answer: Identified, NeedsPresent, in a plan also Unknown."""

    node: N
    inputs: tuple[R | None, ...]


class LookUp(msgspec.Struct, Generic[N, R], frozen=True):
    """Is there a record under `key`? Answer: Found or NotFound (also where the node is forced, expired or forgotten)."""

    node: N
    key: str
    inputs: tuple[R | None, ...]


class MakePresent(msgspec.Struct, Generic[N, R], frozen=True):
    """Get the files behind `result` onto this machine. Answer: Present or Absent.

    A pure node (`key` None) that was Absent is asked again when its inputs are present.
    """

    node: N
    key: str | None
    result: R


class Run(msgspec.Struct, Generic[N, R], frozen=True):
    """Execute. All inputs are present. `evicted`: a record was found, its files are gone. Answer: Ran."""

    node: N
    key: str
    inputs: tuple[R | None, ...]
    evicted: bool = False


class Share(msgspec.Struct, Generic[N, R], frozen=True):
    """`source`, which has the same key, ran in this build. Answer: Found, with `result` or the same under another label."""

    node: N
    key: str
    result: R
    source: N


class Stop(msgspec.Struct, frozen=True):
    """For the driver: cancel what is going on. Comes once, at the first failure or Cancel."""


class Ended(msgspec.Struct, Generic[N, R], frozen=True):
    """What became of a node; `result` is its last one."""

    node: N
    status: Status
    key: str | None = None
    result: R | None = None
    error: BaseException | None = None


class Outcome(msgspec.Struct, Generic[N, R], frozen=True):
    """`ended`: each reachable node once, inputs before dependants. `error`: of the first node that failed, which is `failed`."""

    ended: tuple[Ended[N, R], ...]
    failed: N | None = None
    error: BaseException | None = None
    cancelled: bool = False

    @property
    def ok(self) -> bool:
        return self.error is None and not self.cancelled

    def of(self, node: N) -> Ended[N, R]:
        """Linear; for many nodes make a dict by id."""
        return next(ended for ended in self.ended if ended.node is node)


class Done(msgspec.Struct, Generic[N, R], frozen=True):
    """For the driver: nothing is going on any more. The last command."""

    outcome: Outcome[N, R]


# Events


class Want(msgspec.Struct, Generic[N], frozen=True):
    """The first event. `present`: the targets' files are needed too (an export), not only their results."""

    targets: tuple[N, ...]
    present: bool = True


class Cancel(msgspec.Struct, frozen=True):
    """Ctrl-C, or a deadline."""


class Identified(msgspec.Struct, Generic[N, R], frozen=True):
    """Either a key, or for a pure node (base image, context, merge) its result at once."""

    node: N
    key: str | None = None
    result: R | None = None


class NeedsPresent(msgspec.Struct, Generic[N], frozen=True):
    """The key cannot be computed without the files of these inputs. They are made present, then Identify comes again."""

    node: N
    inputs: tuple[N, ...]


class Unknown(msgspec.Struct, Generic[N], frozen=True):
    """Plan: the key depends on what has not run."""

    node: N


class Found(msgspec.Struct, Generic[N, R], frozen=True):
    node: N
    result: R


class NotFound(msgspec.Struct, Generic[N, R], frozen=True):
    """Plan: with a `result` that stands for the one to come, dependants can still be identified."""

    node: N
    result: R | None = None


class Present(msgspec.Struct, Generic[N], frozen=True):
    node: N


class Absent(msgspec.Struct, Generic[N], frozen=True):
    """The files are gone (evicted) and cannot be fetched."""

    node: N


class Ran(msgspec.Struct, Generic[N, R], frozen=True):
    """The result's files are present."""

    node: N
    result: R


class Failed(msgspec.Struct, Generic[N], frozen=True):
    node: N
    error: BaseException


if TYPE_CHECKING:  # making unions of generics costs each start of the program milliseconds
    Task = Identify[N, R] | LookUp[N, R] | MakePresent[N, R] | Run[N, R] | Share[N, R]
    """What a performer performs."""
    Command = Identify[N, R] | LookUp[N, R] | MakePresent[N, R] | Run[N, R] | Share[N, R] | Stop | Done[N, R]

    Answer = Identified[N, R] | NeedsPresent[N] | Unknown[N] | Found[N, R] | NotFound[N, R] | Present[N] | Absent[N] | Ran[N, R] | Failed[N]
    """What a performer gives back."""
    Event = (
        Want[N]
        | Cancel
        | Identified[N, R]
        | NeedsPresent[N]
        | Unknown[N]
        | Found[N, R]
        | NotFound[N, R]
        | Present[N]
        | Absent[N]
        | Ran[N, R]
        | Failed[N]
    )
