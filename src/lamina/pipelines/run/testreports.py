"""Test reports that a step leaves: JUnit's XML in the folders that Bitbucket looks into. A stranger wrote them: bounded, no entities, no links."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.parsers import expat

import msgspec

from lamina.pipelines.model import Artifacts
from lamina.pipelines.run.artifacts import compiled
from lamina.pipelines.run.files import walk

FOLDERS = ("surefire-reports", "failsafe-reports", "test-results", "test-reports", "TestResults")
_DEPTH = 4  # folders between the clone directory and one of these
_FILES = 1000
_LARGEST = 16 << 20  # bytes of one file
_CASES = 100_000
_TOLD = 100  # failures that are kept with their text
_TEXT = 4000  # characters of it


class Failure(msgspec.Struct, frozen=True):
    """One test that did not pass."""

    suite: str
    name: str
    seconds: float
    text: str


class Tests(msgspec.Struct, frozen=True):
    """Of one step. `failures`: the first ones only; `failed` counts all. `unread`: files that are no reports."""

    files: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: tuple[Failure, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return self.passed + self.failed + self.skipped

    def words(self) -> str:
        """`12 passed, 1 failed, from 2 files`."""
        parts = [
            f"{count} {word}" for count, word in ((self.passed, "passed"), (self.failed, "failed"), (self.skipped, "skipped")) if count
        ]
        return f"{', '.join(parts) or 'none'}, from {self.files} file{'s' if self.files != 1 else ''}"


def read_tests(clone: Path, artifacts: Artifacts | None, mask: Callable[[str], str]) -> Tests | None:
    """What lies there when the script has ended; None when there is no report. `mask` hides secrets in names and texts."""
    patterns = [upload.paths for upload in (artifacts.uploads if artifacts is not None else ()) if upload.type == "test-reports"]
    globs = [glob for paths in patterns for glob in compiled(paths)]
    found: list[str] = []
    for path, status in walk(clone):
        if path.endswith(".xml") and stat.S_ISREG(status.st_mode) and not path.startswith(".git/"):
            folders = path.split("/")[:-1]
            if any(name in FOLDERS for name in folders[: _DEPTH + 1]) or any(glob.matches(path) for glob in globs):
                found.append(path)
    reader = _Reader(mask)
    for path in sorted(found)[:_FILES]:
        reader.file(clone, path)
    return reader.result()


class _Reader:
    def __init__(self, mask: Callable[[str], str]) -> None:
        self._mask = mask
        self._files = self._passed = self._failed = self._skipped = 0
        self._seconds = 0.0
        self._failures: list[Failure] = []
        self._unread: list[str] = []

    def result(self) -> Tests | None:
        if not self._files and not self._unread:
            return None
        return Tests(
            self._files, self._passed, self._failed, self._skipped, round(self._seconds, 3), tuple(self._failures), tuple(self._unread[:20])
        )

    def file(self, clone: Path, path: str) -> None:
        try:
            descriptor = os.open(clone / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                data = file.read(_LARGEST + 1)
        except OSError:
            data = b""
        suite = _Suite()
        try:
            if len(data) > _LARGEST:
                raise ValueError("it is too large")
            suite.parse(data)
        except (expat.ExpatError, ValueError):
            self._unread.append(path)
            return
        self._files += 1
        self._seconds += suite.seconds
        self._passed += suite.counts["passed"]
        self._failed += suite.counts["failed"]
        self._skipped += suite.counts["skipped"]
        for one in suite.failures[: max(0, _TOLD - len(self._failures))]:
            self._failures.append(Failure(self._mask(one.suite), self._mask(one.name), one.seconds, self._mask(one.text)))


class _Suite:
    """One file. The root must be `testsuites` or `testsuite`."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures: list[Failure] = []
        self.seconds = 0.0
        self._root = ""
        self._case: dict[str, str] | None = None
        self._outcome = "passed"
        self._text: list[str] | None = None
        self._kept = ""

    def parse(self, data: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.Parse(data, True)
        if self._root not in ("testsuites", "testsuite"):
            raise ValueError("no test report")

    def _doctype(self, *_: object) -> None:
        raise ValueError("a test report with a document type")

    def _start(self, name: str, values: dict[str, str]) -> None:
        self._root = self._root or name
        if name == "testcase":
            self._case, self._outcome, self._kept = values, "passed", ""
        elif self._case is not None and name in ("failure", "error"):
            self._outcome = "failed"
            self._text = [values.get("message", ""), "\n"]
        elif self._case is not None and name == "skipped" and self._outcome == "passed":
            self._outcome = "skipped"

    def _characters(self, data: str) -> None:
        if self._text is not None and len(self._text) < 1000:
            self._text.append(data)

    def _end(self, name: str) -> None:
        if name in ("failure", "error") and self._text is not None:
            self._kept = self._kept or "".join(self._text).strip()[:_TEXT]
            self._text = None
        if name != "testcase" or self._case is None:
            return
        if sum(self.counts.values()) >= _CASES:
            raise ValueError("too many tests")
        seconds = _number(self._case.get("time", ""))
        self.seconds += seconds
        self.counts[self._outcome] += 1
        if self._outcome == "failed" and len(self.failures) < _TOLD:
            self.failures.append(Failure(self._case.get("classname", "")[:300], self._case.get("name", "")[:300], seconds, self._kept))
        self._case = None


def _number(text: str) -> float:
    try:
        found = float(text.replace(",", ""))
    except ValueError:
        return 0.0
    return found if 0 <= found < 1e9 else 0.0


def told(tests: Tests) -> Sequence[str]:
    """Lines for the step's log."""
    lines = [f"Tests: {tests.words()}"]
    for one in tests.failures[:10]:
        first = one.text.partition("\n")[0][:200]
        lines.append(f"  failed: {one.suite + '.' if one.suite else ''}{one.name}" + (f": {first}" if first else ""))
    if tests.failed > 10:
        lines.append(f"  and {tests.failed - 10} more")
    lines += [f"Tests: {path} is no report that can be read" for path in tests.unread[:5]]
    return lines
