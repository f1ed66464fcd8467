"""Lint rules about globs: artifacts that can never match, paths of caches, branches that no push reaches."""

from __future__ import annotations

from lamina.pipelines import globs
from lamina.pipelines.model import Document, Pipeline, Text
from lamina.pipelines.reading import Reader

MAX_COMPARED = 200  # patterns; they are compared in pairs


def artifact_paths(document: Document, reader: Reader) -> None:
    """Artifact globs are relative to the clone directory, without . and .. segments; a bare folder matches nothing."""
    for pipeline in document.pipelines():
        for step in pipeline.steps():
            if step.artifacts is None:
                continue
            listed = "" if not step.artifacts.uploads and "artifacts" in step.at else ".paths"
            for index, pattern in enumerate(step.artifacts.paths):
                _artifact(pattern, f"{step.path}.artifacts{listed}[{index}]", reader)
            for number, upload in enumerate(step.artifacts.uploads):
                for index, pattern in enumerate((*upload.paths, *upload.ignore_paths)):
                    _artifact(pattern, f"{step.path}.artifacts.upload[{number}].paths[{index}]", reader)


def _artifact(pattern: Text, path: str, reader: Reader) -> None:
    segments = pattern.value.split("/")
    rule = "artifact globs are relative to it and cannot use . or .. segments, so nothing will ever match"
    if pattern.value.startswith("/") or pattern.value.startswith("~") or ".." in segments:
        reader.warn(
            path,
            f'"{pattern.value}" leaves the clone directory; {rule}',
            pattern.span,
            "copy the files into the clone directory first",
            code="pipeline/artifact-outside",
        )
    elif "." in segments:
        told = f'"{pattern.value}" has a "." segment; artifact globs cannot use . or .. segments, so nothing will ever match'
        reader.warn(
            path, told, pattern.span, f'write "{"/".join(part for part in segments if part != ".")}"', code="pipeline/artifact-outside"
        )
    elif pattern.value.endswith("/"):
        told = f'"{pattern.value}" names a folder, which matches nothing'
        reader.warn(path, told, pattern.span, f'write "{pattern.value}**"', code="pipeline/artifact-folder")
    elif not any(char in segments[-1] for char in ".*?[{$"):
        told = f'"{pattern.value}" matches a file of that name only; a bare folder matches nothing'
        reader.warn(path, told, pattern.span, f'for a folder write "{pattern.value}/**"', code="pipeline/artifact-folder")
    if pattern.value.startswith("!"):
        reader.warn(
            path,
            f'"{pattern.value}": patterns cannot be negated',
            pattern.span,
            "use ignore-paths of an upload",
            code="pipeline/artifact-outside",
        )


def changed_paths(document: Document, reader: Reader) -> None:
    """includePaths and excludePaths are relative to the repository's root."""
    for pipeline in document.pipelines():
        conditions = [(step.path, step.condition) for step in pipeline.steps()]
        conditions += [(item.path, item.condition) for item in pipeline.items if hasattr(item, "condition") and hasattr(item, "steps")]
        for path, condition in conditions:
            for pattern in () if condition is None else (*condition.include, *condition.exclude):
                if pattern.value.startswith(("/", "./", "../")):
                    told = f'"{pattern.value}" never matches: changed files are named relative to the repository\'s root'
                    reader.warn(path, told, pattern.span, f'write "{pattern.value.lstrip("./")}"', code="pipeline/changed-path")
                try:
                    globs.compile_glob(pattern.value)
                except globs.GlobError as error:
                    reader.error(path, error.message, pattern.span)


def cache_paths(document: Document, reader: Reader) -> None:
    """A cache's folder: absolute, below ~ or $HOME, or inside the clone directory."""
    for cache in document.definitions.caches.values():
        if ".." in cache.path.split("/"):
            told = f'"{cache.path}" climbs out of where it begins'
            reader.warn(
                f"definitions.caches.{cache.name}", told, cache.span, "write an absolute path, or one below ~", code="pipeline/cache-path"
            )
        elif cache.path.rstrip("/") in ("", ".", "~", "$HOME", "./"):
            told = f'"{cache.path}" is a whole tree; it is over the limit of 1 GB soon, and then nothing is saved'
            reader.warn(f"definitions.caches.{cache.name}", told, cache.span, code="pipeline/cache-path")
        for file in cache.key_files:
            if file.value.startswith(("/", "~")) or ".." in file.value.split("/"):
                told = f'"{file.value}" lies outside the repository; key files are relative to its root'
                reader.warn(f"definitions.caches.{cache.name}.key.files", told, file.span, code="pipeline/cache-key-file")


def unreachable(document: Document, reader: Reader) -> None:
    """Patterns for which another one always wins, and a default that never runs."""
    for group in (document.branches, document.tags, document.pull_requests):
        _unreachable(group, reader)
    everything = globs.compile_glob("**")
    takes_all = next((one for one in document.branches if globs.compile_glob(one.name).covers(everything)), None)
    if document.default is not None and takes_all is not None:
        told = f'never runs: the branch pattern "{takes_all.name}" takes every branch'
        reader.warn(document.default.path, told, document.default.span, "remove one of them", code="pipeline/unreachable")


def _unreachable(group: tuple[Pipeline, ...], reader: Reader) -> None:
    if len(group) > MAX_COMPARED:
        return
    compiled = [globs.compile_glob(one.name) for one in group]
    exact = {one.name for one, glob in zip(group, compiled) if glob.literal}
    for index, (one, glob) in enumerate(zip(group, compiled)):
        names = ["".join(token.members for token in part) for part in glob.alternatives if all(token.kind == "literal" for token in part)]
        if not glob.literal and len(names) == len(glob.alternatives) and all(name in exact for name in names):
            told = f"is never chosen: {', '.join(names)} have pipelines of their own, and an exact name wins"
            reader.warn(one.path, told, one.span, code="pipeline/unreachable")
            continue
        same = next((other for other, there in zip(group[:index], compiled) if glob.covers(there) and there.covers(glob)), None)
        if same is not None and not glob.literal:
            told = f'matches what "{same.name}" matches; Bitbucket takes one of the two'
            reader.warn(one.path, told, one.span, "merge them", code="pipeline/unreachable")
        if one.name.startswith(("refs/heads/", "refs/tags/")):
            told = "never matches: names are written without refs/heads/ and refs/tags/"
            reader.warn(one.path, told, one.span, code="pipeline/unreachable")


def character_classes(document: Document, reader: Reader) -> None:
    """Bitbucket's pages on globs do not speak of [ab]."""
    for one in (*document.branches, *document.tags, *document.pull_requests):
        if globs.compile_glob(one.name).has_class:
            told = "Bitbucket's pages do not say that [ ] is a class of characters; here it is one"
            reader.warn(one.path, told, one.span, "write the alternatives with braces: {a,b}", code="pipeline/character-class")
