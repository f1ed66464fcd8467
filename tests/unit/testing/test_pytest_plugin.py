"""The fixture `lamina_build`: what a change would run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lamina.testing.pytest_plugin import LaminaBuild

DOCKERFILE = (
    "FROM node:22 AS base\nWORKDIR /app\nCOPY package.json ./\nRUN npm ci\nCOPY . .\nRUN npm run build\nFROM base AS lean\nCOPY src /src\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("package.json", "src/a", "docs/x", "docs/deep/y", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / ".dockerignore").write_text("docs\n*.md\n!docs/kept\n")
    return tmp_path


def test_ignored_files_cost_nothing(project: Path) -> None:
    LaminaBuild(project).assert_cached(changed=["docs/", "README.md", "docs/new", "other.md"])


def test_what_is_rebuilt(project: Path) -> None:
    build = LaminaBuild(project)
    assert build.steps() == ["WORKDIR /app", "COPY package.json ./", "RUN npm ci", "COPY . .", "RUN npm run build", "COPY src /src"]
    assert build.rebuilt(["src"]) == ["COPY . .", "RUN npm run build", "COPY src /src"]
    assert build.rebuilt(["src/new"]) == ["COPY . .", "RUN npm run build", "COPY src /src"]
    assert build.rebuilt(["new/folder/"]) == ["COPY . .", "RUN npm run build", "COPY src /src"]
    assert build.rebuilt(["package.json"]) == build.steps()[1:]
    assert build.rebuilt(["docs/kept"]) == ["COPY . .", "RUN npm run build", "COPY src /src"], "an exception of the ignore file"
    assert build.rebuilt([]) == []
    build.assert_cached(changed=["src/"], but=["COPY . .", "RUN npm run build", "COPY src"])


def test_the_failure_names_steps_and_causes(project: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        LaminaBuild(project).assert_cached(changed=["docs/", "src/a"], but=["COPY src"])
    assert str(caught.value).splitlines() == [
        "a change of docs/, src/a runs 2 steps again:",
        "  line 5: COPY . .  (it takes src/a)",
        "  line 6: RUN npm run build  (a step before it does)",
    ]


def test_other_contexts_targets_and_arguments(project: Path) -> None:
    (project / "sub").mkdir()
    (project / "sub/Other").write_text("ARG V=1\nFROM a:$V AS one\nCOPY x /x\nFROM b:1\nCOPY y /y\n")
    (project / "sub/x").write_text("x")
    (project / "sub/y").write_text("y")
    build = LaminaBuild(project)("sub", dockerfile="sub/Other", target="one", args={"V": "2"})
    assert build.steps() == ["COPY x /x"]
    build.assert_cached(changed=["y"])


def test_links_and_single_files(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to("../real")
    (tmp_path / "Dockerfile").write_text("FROM a:1\nCOPY folder /f\nCOPY --from=b:1 /x /x\n")
    build = LaminaBuild(tmp_path)
    assert build.rebuilt(["folder/link"]) == ["COPY folder /f", "COPY --from=b:1 /x /x"]
    assert build.rebuilt(["real"]) == []


def test_pytest_finds_the_fixture(project: Path) -> None:
    (project / "test_image.py").write_text(
        "def test_docs(lamina_build):\n    lamina_build.assert_cached(changed=['docs/'])\n"
        "def test_src(lamina_build):\n    lamina_build.assert_cached(changed=['src/'])\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "lamina.testing.pytest_plugin",
        "--rootdir",
        ".",
        "test_image.py",
    ]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout
    assert "COPY . .  (it takes src/)" in done.stdout
