"""Rewrites a file whose parallel steps fight over the predefined docker cache into one that keeps every step's images, on Bitbucket itself.

Each colliding step gets a cache of its own, keyed by its Dockerfile (so that a change refreshes it at once and not after a week), in a folder outside the
clone directory (so that the archive is in no build context). The image is saved by a name of its own, so that `--cache-from` finds it; only on
a miss, since Bitbucket never updates a cache; and a failed load fails the step in place of being hidden.
"""

from __future__ import annotations

import difflib
import re
import shlex

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import LaminaError
from lamina.diagnostics.span import Span
from lamina.pipelines.check import DOCKER
from lamina.pipelines.edit import Edits, flow, index, last_line
from lamina.pipelines.lint import lint
from lamina.pipelines.lintdocker import BUILDKIT, colliding, commands, groups
from lamina.pipelines.load import load
from lamina.pipelines.model import Command, Document, Step
from lamina.pipelines.tree import Mapping, Node, Sequence
from lamina.pipelines.yamltext import parse

FOLDER = "~/.docker-cache"
_BUILD = re.compile(r"\bdocker\s+(?:image\s+)?build\b(?!\s*x)")
_NAME = re.compile(r"[^a-z0-9]+")
_KEY_NOTE = "# add the files that decide what the image installs, such as lock files"


class FixError(LaminaError):
    """The file cannot be rewritten without guessing; the span is the place to change by hand."""

    code = "pipeline/fix"
    default_exit = 1


class Fixed(msgspec.Struct, frozen=True):
    """`text` is the new file (the old one when there was nothing to do). `notes` say what was dropped, and why."""

    text: str
    diff: str
    notes: tuple[Diagnostic, ...] = ()


def fix(text: str, name: str = "bitbucket-pipelines.yml") -> Fixed:
    """Raises what `load` raises, and FixError."""
    document = load(text, name)
    if DOCKER in document.definitions.caches:
        return Fixed(text, "")
    rewrite = _Rewrite(document, text, name)
    for group in groups(document):
        for step in colliding(group):
            rewrite.step(step, group.path)
    new = rewrite.finish()
    if new == text:
        return Fixed(text, "")
    _prove(new, name)
    lines = difflib.unified_diff(text.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}")
    diff = "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)
    return Fixed(new, diff, tuple(rewrite.notes))


def _prove(new: str, name: str) -> None:
    """The new file loads, and what was to be mended is mended."""
    wrong = {"pipeline/docker-cache-in-parallel", "pipeline/saved-images"}
    left = next((item for item in lint(new, name) if item.severity == "error" or item.code in wrong), None)
    if left is not None:
        spans = () if left.span is None else (left.span,)
        raise FixError(f"the rewritten file is not right: {left.message}", spans=spans, hint="change it by hand")


class _Rewrite:
    def __init__(self, document: Document, text: str, name: str) -> None:
        self.document = document
        root = parse(text, name).root
        assert isinstance(root, Mapping)
        self.root = root
        self.nodes = index(root)
        self.edits = Edits(text)
        self.done: dict[tuple[int, int], str] = {}  # where a cache or a command was changed -> the group that asked for it
        self.dropped: set[tuple[int, int]] = set()
        self.caches: dict[str, tuple[str, ...]] = {}
        self.notes: list[Diagnostic] = []
        self.names: set[str] = set(document.definitions.caches)

    def step(self, step: Step, group: str) -> None:
        """A step that stands in several pipelines through an anchor is changed once; twice in one group it cannot be."""
        place = next(name.span for name in step.caches if name.value == DOCKER)
        mark = (place.line, place.column)
        builds = [item for item in commands(step) if _BUILD.search(item.text)]
        texts = [mark, *((item.span.line, item.span.column) for item in builds)]
        known = [self.done[one] for one in texts if one in self.done]
        if mark in self.dropped or (len(known) == len(texts) and group not in known):
            return
        if known:
            self._shared(step, place)
        script = self._at(step.at.get("script"))
        if any(BUILDKIT.search(item.text) for item in commands(step)):
            self._drop(step, place, "BuildKit does not use the docker cache")
        elif not self._has_docker(step):
            self._drop(step, place, "without the docker service the docker cache has no effect")
        elif not builds or not isinstance(script, Sequence):
            self._drop(step, place, "the step builds no image, so there is none to keep under a name of its own")
        else:
            self._own_cache(step, place, script, builds)
            self.done.update(dict.fromkeys(texts, group))

    def _at(self, span: Span | None) -> Node | None:
        return None if span is None else self.nodes.get((span.line, span.column))

    def _has_docker(self, step: Step) -> bool:
        defined = self.document.definitions.services
        names = {name.value for name in step.services}
        return self.document.options.docker or DOCKER in names or any(name in defined and defined[name].docker for name in names)

    def _shared(self, step: Step, place: Span) -> None:
        raise FixError(
            f"{step.path}: several parallel steps are one text, through an anchor; each needs a cache of its own",
            spans=(place, step.span),
            hint="write the steps out, then fix again",
        )

    def _own_cache(self, step: Step, place: Span, script: Sequence, builds: list[Command]) -> None:
        name = self._name(step)
        images = [f"build-cache/{name}" + (f"-{number}" if number > 1 else "") for number in range(1, len(builds) + 1)]
        archive = f"{FOLDER}/{name}/images.tar"
        self.caches[name] = tuple(dict.fromkeys(_dockerfile(item.text) for item in builds))
        self.edits.replace(*self.edits.part(place), name)
        for item, image in zip(builds, images):
            self._tag(item, image)
        load_line = f"if [ -f {archive} ]; then docker load --input {archive}; fi"
        save_line = f"if [ ! -f {archive} ]; then mkdir -p {FOLDER}/{name} && docker save --output {archive} {' '.join(images)}; fi"
        first = script.items[0]
        if flow(script):
            begin = self.edits.offset(first.span.line, first.span.column)
            self.edits.replace(begin, begin, f"'{load_line}', ")
            end = self.edits.offset(script.span.end_line, script.span.end_column) - 1
            self.edits.replace(end, end, f", '{save_line}'")
            return
        row = self.edits.row(first.span.line)
        dash = row.rfind("-", 0, first.span.column - 1)
        if dash < 0 or row[:dash].strip():
            raise FixError(f"{step.path}: the first command does not stand in a line of its own", spans=(first.span,))
        margin = row[:dash]
        self.edits.before_line(first.span.line, f"{margin}- {load_line}")
        self.edits.after_line(last_line(script), f"{margin}- {save_line}")

    def _tag(self, item: Command, image: str) -> None:
        """Gives the built image its name, and the build the image of last time."""
        start, end = self.edits.part(item.span)
        match = _BUILD.search(self.edits.text, start, end)
        if match is None:
            raise FixError("the build command is written with escapes", spans=(item.span,), hint="write `docker build` plainly")
        self.edits.replace(match.end(), match.end(), f" --tag {image} --cache-from {image}")

    def _drop(self, step: Step, place: Span, why: str) -> None:
        """Takes the docker cache out of a step that gains nothing from it."""
        caches = self._at(step.at.get("caches"))
        if not isinstance(caches, Sequence):
            raise FixError(f"{step.path}: {why}; remove it", spans=(place,))
        self.dropped.add((place.line, place.column))
        self.notes.append(Diagnostic("info", "pipeline/fix", f"{step.path}: docker is taken out of caches: {why}", place))
        only = len(caches.items) == 1
        line = caches.span.line
        key_line = line if self.edits.row(line).lstrip().startswith("caches:") else line - 1
        if only and self.edits.row(key_line).lstrip().startswith("caches:") and last_line(caches) - key_line <= 1:
            self.edits.drop_lines(key_line, last_line(caches))
        elif not only and not flow(caches):
            self.edits.drop_lines(place.line, place.line)
        else:
            raise FixError(f"{step.path}: {why}; remove it", spans=(place,))

    def _name(self, step: Step) -> str:
        """From the step's name, and free."""
        base = "docker-" + (_NAME.sub("-", (step.name or "step").lower()).strip("-") or "step")
        name, number = base, 1
        while name in self.names:
            number += 1
            name = f"{base}-{number}"
        self.names.add(name)
        return name

    def finish(self) -> str:
        if self.caches:
            self._define()
        return self.edits.apply()

    def _define(self) -> None:
        entry = self.root.entry("definitions")
        definitions = None if entry is None else entry.value
        caches = definitions.entry("caches") if isinstance(definitions, Mapping) else None
        if caches is not None and isinstance(caches.value, Mapping) and caches.value.entries:
            inner = caches.value
            self._block(inner)
            first = inner.entries[0].span
            self.edits.before_line(first.line, self._entries(self.edits.indent(first.line)))
        elif isinstance(definitions, Mapping) and definitions.entries:
            self._block(definitions)
            first = definitions.entries[0].span
            margin = self.edits.indent(first.line)
            self.edits.before_line(first.line, f"{margin}caches:\n{self._entries(margin + '  ')}")
        elif entry is not None:
            raise FixError("definitions is empty", spans=(entry.span,), hint="remove it, then fix again")
        else:
            place = self.root.entry("pipelines")
            assert place is not None
            self.edits.before_line(place.span.line, f"definitions:\n  caches:\n{self._entries('    ')}\n")

    def _block(self, node: Mapping) -> None:
        if flow(node) or any(entry.merged for entry in node):
            raise FixError(
                "caches are defined in braces or through an anchor",
                spans=(node.span,),
                hint="write them in lines of their own, then fix again",
            )

    def _entries(self, margin: str) -> str:
        rows = []
        for name, files in self.caches.items():
            listed = [f"{margin}      - {file}" for file in files]
            rows += [f"{margin}{name}:", f"{margin}  path: {FOLDER}/{name}", f"{margin}  key:", f"{margin}    files: {_KEY_NOTE}", *listed]
        return "\n".join(rows)


def _dockerfile(command: str) -> str:
    """The Dockerfile of a build command, as far as it is written out."""
    match = _BUILD.search(command)
    rest = command[match.end() :].split("\n")[0] if match else ""
    try:
        words = shlex.split(re.split(r"&&|\|\||[;|]", rest)[0])
    except ValueError:
        words = []
    named = _option(words, "-f", "--file")
    if named:
        return named if "$" not in named else "Dockerfile"
    context = words[-1].rstrip("/") if words and not words[-1].startswith("-") else "."
    plain = context not in (".", "") and re.fullmatch(r"[\w./-]+", context) and not context.startswith(("/", ".."))
    return f"{context.removeprefix('./')}/Dockerfile" if plain else "Dockerfile"


def _option(words: list[str], *spellings: str) -> str | None:
    for position, word in enumerate(words):
        if word in spellings and position + 1 < len(words):
            return words[position + 1].removeprefix("./")
        for spelling in spellings:
            if word.startswith(f"{spelling}="):
                return word.partition("=")[2].removeprefix("./")
    return None
