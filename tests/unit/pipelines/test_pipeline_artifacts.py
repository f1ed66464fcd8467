"""Artifacts and the copies that they are made of: patterns, conflicts, links that lead out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.diagnostics.span import Source, Span
from lamina.pipelines.model import Artifacts, Text, Upload
from lamina.pipelines.run.artifacts import ArtifactStore
from lamina.pipelines.run.files import CannotCopy, Tree, walk
from lamina.pipelines.run.outputs import read_outputs

SPAN = Span(Source("f", ""), 1)


def texts(*values: str) -> tuple[Text, ...]:
    return tuple(Text(value, SPAN) for value in values)


def paths(*values: str) -> Artifacts:
    return Artifacts(SPAN, texts(*values))


def put(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {path: (folder / path).read_text() for path, _ in sorted(walk(folder)) if not (folder / path).is_symlink()}


def test_globs_take_files_and_a_bare_folder_takes_none(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "kept")
    clone = put(tmp_path / "clone", {"dist/a": "1", "dist/b/c": "2", "x.log": "3", ".git/config": "4"})
    said = store.capture(paths("dist/*", "*.log"), clone, 1, "one", passed=True)
    assert said == ["artifacts: 2 files, 2 bytes match dist/* *.log"]
    assert "write dist/**" in store.capture(paths("dist"), clone, 2, "two", passed=True)[0]
    target = put(tmp_path / "next", {})
    store.download(None, target, [1, 2])
    assert tree(target) == {"dist/a": "1", "x.log": "3"}


def test_uploads_have_names_scopes_and_conditions(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "kept")
    clone = put(tmp_path / "clone", {"a": "1", "b": "2", "c": "3", "d/e": "4", "d/f": "5"})
    uploads = (
        Upload("shared", SPAN, texts("a")),
        Upload("mine", SPAN, texts("b"), type="scoped"),
        Upload("broken", SPAN, texts("c"), capture_on="failed"),
        Upload("some", SPAN, texts("d/*"), ignore_paths=texts("d/f"), capture_on="always"),
    )
    store.capture(Artifacts(SPAN, uploads=uploads), clone, 1, "one", passed=False)
    target = put(tmp_path / "next", {})
    store.download(None, target, [1])
    assert tree(target) == {"c": "3", "d/e": "4"}
    only = put(tmp_path / "only", {})
    said = store.download(Artifacts(SPAN, download=texts("some", "nobody")), only, [1])
    assert tree(only) == {"d/e": "4"}
    assert "artifacts: nothing is called 'nobody'" in said


def test_two_siblings_with_one_path_are_said_and_the_later_one_counts(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "kept")
    for number in (2, 1):
        store.capture(paths("*"), put(tmp_path / f"c{number}", {"same": str(number)}), number, f"step {number}", passed=True)
    target = put(tmp_path / "next", {})
    said = store.download(None, target, [1, 2])
    assert 'artifacts: same comes from "step 1" and from "step 2"; the later one is taken' in said
    assert tree(target) == {"same": "2"}


def test_they_outlive_the_run(tmp_path: Path) -> None:
    ArtifactStore(tmp_path / "kept").capture(paths("a"), put(tmp_path / "clone", {"a": "1"}), 1, "one", passed=True)
    target = put(tmp_path / "next", {})
    ArtifactStore(tmp_path / "kept").download(None, target, [1])
    assert tree(target) == {"a": "1"}


def test_links_are_kept_and_never_followed(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", {"secret": "s"})
    clone = put(tmp_path / "clone", {})
    (clone / "out").symlink_to(outside)
    (clone / "file").symlink_to(outside / "secret")
    store = ArtifactStore(tmp_path / "kept")
    store.capture(paths("**"), clone, 1, "one", passed=True)
    assert not [path for path in (tmp_path / "kept").rglob("*") if not path.is_symlink() and path.is_file() and path.read_text() == "s"]
    target = put(tmp_path / "next", {})
    store.download(None, target, [1])
    assert os.readlink(target / "out") == str(outside)


def test_a_folder_that_became_a_link_is_replaced(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "kept")
    store.capture(paths("**"), put(tmp_path / "clone", {"dist/a": "1"}), 1, "one", passed=True)
    outside = put(tmp_path / "outside", {})
    target = put(tmp_path / "next", {})
    (target / "dist").symlink_to(outside)
    store.download(None, target, [1])
    assert tree(outside) == {}
    assert (target / "dist" / "a").read_text() == "1"


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a//x", "", ".", "a/."])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    with Tree(tmp_path / "t") as made, pytest.raises(CannotCopy):
        made.link(path, "x")


def test_a_file_replaces_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "t", {"a/b/c": "1"})
    with Tree(tmp_path / "t") as made:
        made.link("a", "x")
    assert os.readlink(tmp_path / "t" / "a") == "x"


def test_output_variables(tmp_path: Path) -> None:
    file = tmp_path / "output"
    declared = texts("A", "B")
    assert read_outputs(file, declared) == ((), "")
    file.write_text("A=1\n\nB=x=y\nA=2\n")
    assert read_outputs(file, declared) == ((("A", "2"), ("B", "x=y")), "")
    assert read_outputs(file, ()) == ((), "")
    for text, problem in (("C=1\n", "C is not declared"), ("nonsense\n", "line 1"), ("A=" + "x" * (1 << 20), "larger")):
        file.write_text(text)
        assert problem in read_outputs(file, declared)[1]
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert "cannot be read" in read_outputs(file, declared)[1]
