"""`--chmod`: octal ("755", "u+x,go-w" …) as BuildKit takes it, and what it leaves of a source's mode in the digest."""

from __future__ import annotations

from lamina.diagnostics.errors import LaminaError

_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}


class InvalidMode(LaminaError):
    code = "copy/invalid-mode"
    default_exit = 65


class ModeRule:
    """A parsed `--chmod`. An octal rule gives all copies one mode, a symbolic one computes it from the source's."""

    __slots__ = ("_clauses", "_fixed", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._fixed: int | None = None
        self._clauses: list[tuple[int, str, str]] = []
        if text and all("0" <= char <= "7" for char in text):
            self._fixed = int(text, 8)
            if self._fixed > 0o7777:
                raise InvalidMode(f"invalid --chmod={text}: more than four octal digits")
            return
        for clause in text.split(","):
            self._clauses.extend(_clause(clause, text))

    def apply(self, mode: int, folder: bool) -> int:
        """`mode` and the result are 0o7777 bits."""
        if self._fixed is not None:
            return self._fixed
        start = mode
        for who, operator, letters in self._clauses:
            bits = _value(letters, start if letters in ("u", "g", "o") else mode, folder) & who
            if operator == "+":
                mode |= bits
            elif operator == "-":
                mode &= ~bits
            else:
                kept = 0o6000 if folder else 0
                mode = (mode & ~(who & 0o777) & ~(who & 0o7000 & ~kept)) | bits
        return mode & 0o7777

    def counted(self, mode: int, folder: bool) -> int:
        """The part of a source's mode that still makes a difference: the copy's mode."""
        return self.apply(mode, folder)


def _clause(clause: str, text: str) -> list[tuple[int, str, str]]:
    position = 0
    who = 0
    while position < len(clause) and clause[position] in _WHO:
        who |= _WHO[clause[position]]
        position += 1
    rest = clause[position:]
    if not rest or rest[0] not in "+-=":
        raise InvalidMode(f"invalid --chmod={text}", hint="an octal mode (755) or a symbolic one (u+x,go-w)")
    found: list[tuple[int, str, str]] = []
    while rest:
        operator, rest = rest[0], rest[1:]
        length = next((index for index, char in enumerate(rest) if char in "+-="), len(rest))
        letters, rest = rest[:length], rest[length:]
        if letters not in ("u", "g", "o") and any(char not in "rwxXst" for char in letters):
            raise InvalidMode(f"invalid --chmod={text}", hint="an octal mode (755) or a symbolic one (u+x,go-w)")
        found.append((who or 0o7777, operator, letters))
    return found


def _value(letters: str, mode: int, folder: bool) -> int:
    if letters in ("u", "g", "o"):
        return (mode >> {"u": 6, "g": 3, "o": 0}[letters] & 7) * 0o111
    bits = 0
    for letter in letters:
        if letter == "X":
            bits |= 0o111 if folder or mode & 0o111 else 0
        elif letter == "s":
            bits |= 0o6000
        elif letter == "t":
            bits |= 0o1000
        else:
            bits |= _BITS[letter]
    return bits
