"""The one family of errors that users see. Low floors raise without spans; the first frame that knows the place adds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from lamina.diagnostics.span import Span


class LaminaError(Exception):
    """A failure that has a stable `code`, an exit code, and where possible a place (`spans`) and a way out (`hint`).

    Subclasses live beside the code that raises them and set the class attributes. `transient` failures (a network
    that was down) are never recorded.
    """

    code: ClassVar[str] = "lamina/error"
    default_exit: ClassVar[int] = 1

    def __init__(
        self, message: str, *, hint: str | None = None, spans: tuple[Span, ...] = (), exit_code: int | None = None, transient: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.spans = spans
        self.exit_code = self.default_exit if exit_code is None else exit_code
        self.transient = transient

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross processes (the library builds in a child): subclasses may take other arguments than Exception knows."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[LaminaError], args: tuple[object, ...], state: dict[str, object]) -> LaminaError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


@contextmanager
def located(*spans: Span) -> Iterator[None]:
    """Give a LaminaError that passes through these spans, unless it has some already."""
    try:
        yield
    except LaminaError as error:
        if not error.spans:
            error.spans = spans
        raise


_LONGEST = 200  # letters of a word that is looked up; nobody mistypes longer ones


def nearest(word: str, candidates: list[str] | tuple[str, ...]) -> str | None:
    """The candidate that a user most likely meant (at most a third of the letters wrong, swapped neighbours count once), or None."""
    most = max(1, len(word) // 3)
    if len(word) > _LONGEST:
        return None
    # The distance is at least the difference in length: what is too long is not measured.
    close = (candidate for candidate in candidates if abs(len(candidate) - len(word)) <= most)
    found = min(((_distance(word, candidate), candidate) for candidate in close), default=None)
    return found[1] if found is not None and found[0] <= most else None


def _distance(one: str, other: str) -> int:
    """Edit distance with swaps (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one):
        above, before, row = before, row, [i + 1]
        for j, b in enumerate(other):
            best = min(before[j] + (a != b), before[j + 1] + 1, row[j] + 1)
            if i and j and a == other[j - 1] and b == one[i - 1]:
                best = min(best, above[j - 1] + 1)
            row.append(best)
    return row[-1]
