"""Keys of commits: those of a checkout, without one; hits, seconds, and the order that would have helped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.lower import Options
from lamina.engine.replay import Replay, Sources, replay
from lamina.engine.replay_git import GitTree, NoRepository, Repository
from lamina.layer.context import ContextTree
from lamina.layer.selection import select

ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": os.devnull}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | ENVIRONMENT, check=True, capture_output=True, text=True).stdout.strip()


Commit = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


@pytest.fixture
def commit(project: Path) -> Commit:
    """`commit({"name": "text", "gone": None}, "subject")` -> its id."""

    def make(files: dict[str, str | None], subject: str = "x") -> str:
        for name, text in files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        git(project, "add", "-A")
        git(project, "commit", "-q", "--allow-empty", "-m", subject)
        return git(project, "rev-parse", "HEAD")

    return make


def run(folder: Path, **more: object) -> Replay:
    return replay(folder, environment=ENVIRONMENT, **more)  # type: ignore[arg-type]  # named as there


NODE = "FROM node:22\nWORKDIR /app\nCOPY . .\nRUN npm ci\nRUN npm run build\n"


@pytest.mark.parametrize("ignore", [None, "docs\n*.tmp\n", "*\n!src\n!docs/keep\n", "src/deep\n!src/deep/b\n"])
@pytest.mark.parametrize("source", ["/", "src", "src/deep/b", "*.txt", "link"])
def test_a_commit_has_the_digests_of_its_checkout(project: Path, commit: Commit, source: str, ignore: str | None) -> None:
    (project / "src/deep").mkdir(parents=True)
    (project / "link").symlink_to("src")
    (project / "broken").symlink_to("/nowhere")
    (project / "run").write_text("x")
    (project / "run").chmod(0o775)
    files = {"a.txt": "a", "b.txt": "b", "src/a": "1", "src/deep/b": "2", "docs/x": "d", "docs/keep": "k", "y.tmp": "t", "ä ö": "u"}
    head = commit(dict(files))
    rules = IgnoreRules.parse(ignore) if ignore else None
    with Repository(project, ENVIRONMENT) as repository:
        root = repository.root(head)
        assert root is not None
        tree = GitTree(repository, root, rules, ignore or "")
        real = ContextTree(project, IgnoreRules.parse((ignore or "") + "\n.git\n"))

        def digest(of: GitTree | ContextTree) -> str:
            try:
                return select(of, source).digest()
            except Exception as error:
                return type(error).__name__

        assert digest(tree) == digest(real)
        where = tree.resolve(b"src")
        if where is not None and source == "src":
            assert tree.digest(where).hex() == digest(real)
        if source == "/":
            assert tree.digest(b"").hex() == digest(real)


@pytest.mark.parametrize("ignore", ["", "d\n!**/file\n", "d\n"])
def test_folders_in_folders_by_the_thousand(project: Path, ignore: str) -> None:
    """No Python frame for each: 1500 levels, looked at whole, below an ignored folder, and from the deepest one up."""
    git(project, "commit", "-q", "--allow-empty", "-m", "first")
    inside = b"d/" * 1500
    head = b"commit refs/heads/deep\ncommitter t <t@t> 0 +0000\ndata 4\ndeep\nM 100644 inline "
    subprocess.run(["git", "fast-import", "--quiet"], cwd=project, input=head + inside + b"file\ndata 4\ntext\n", check=True)
    with Repository(project, ENVIRONMENT) as repository:
        (commit,) = repository.commits(1, "deep")
        root = repository.root(commit.id)
        assert root is not None
        seen = ignore != "d\n"
        rules = IgnoreRules.parse(ignore) if ignore else None
        assert (GitTree(repository, root, rules, ignore).entry(inside + b"file") is not None) == seen
        whole = GitTree(repository, root, rules, ignore).digest(b"")
        assert (whole == GitTree(repository, root, IgnoreRules.parse("*"), "*").digest(b"")) == (not seen)


def test_hits_and_misses(project: Path, commit: Commit) -> None:
    commit({"Dockerfile": "FROM a:1\nCOPY src /src\nRUN make\nCOPY docs /docs\n", "src/a": "1", "docs/x": "1"})
    commit({"docs/x": "2"}, "docs")
    commit({"src/a": "2"}, "src")
    commit({"other": "2"}, "nothing that is copied")
    commit({"src/a": "1"}, "back again")
    found = run(project)
    assert [(row.subject, row.hits, row.misses, row.first_miss) for row in found.commits[1:]] == [
        ("docs", 2, 1, "COPY docs /docs"),
        ("src", 0, 3, "COPY src /src"),
        ("nothing that is copied", 3, 0, ""),
        ("back again", 3, 0, ""),
    ]
    assert (found.hits, found.misses, found.hit_rate) == (8, 4, 8 / 12)
    assert run(project, commits=2).misses == 3, "a window knows nothing of what was before it"


def test_seconds_lost(project: Path, commit: Commit) -> None:
    commit({"Dockerfile": "FROM a:1\nCOPY src /src\nRUN make\n", "src/a": "1"})
    commit({"src/a": "2"})
    commit({"src/a": "3"})
    costs = {"RUN make": 10.0}
    found = run(project, sources=Sources(seconds=lambda step, place: costs.get(step.step.text)))
    assert found.seconds_lost == 20
    assert [(row.text, row.misses, row.seconds, row.lost) for row in found.steps] == [
        ("RUN make", 2, 10.0, 20.0),
        ("COPY src /src", 2, None, 0.0),
    ]


def test_the_order_that_would_have_saved_most(project: Path, commit: Commit) -> None:
    commit({"Dockerfile": NODE, "package.json": "{}", "src/a": "1"})
    for number in "2345":
        commit({"src/a": number})
    commit({"package.json": "{ }"})
    best = run(project, sources=Sources(seconds=lambda step, place: 30.0 if step.step.text == "RUN npm ci" else 1.0)).reordering
    assert best is not None
    assert best.order == ("WORKDIR /app", "COPY package.json ./", "RUN npm ci", "COPY . .", "RUN npm run build")
    assert (best.stage, best.runs, best.seconds, best.condition) == ("0", 4, 120.0, "")


def test_a_change_that_a_person_must_judge(project: Path, commit: Commit) -> None:
    commit({"Dockerfile": "FROM a:1\nWORKDIR /app\nCOPY notes /notes\nRUN make-world\n", "notes/x": "1"})
    commit({"notes/x": "2"})
    best = run(project).reordering
    assert best is not None
    assert best.order == ("WORKDIR /app", "RUN make-world", "COPY notes /notes")
    assert best.condition == "if RUN make-world does not use what COPY notes /notes brings"


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM a:1\nWORKDIR /app\nCOPY . .\nRUN make\n",  # it works where the files are
        "FROM a:1\nCOPY src /src\nRUN cc /src/a\n",  # it names them
        "FROM a:1\nCOPY src /etc/apt/\nRUN apt-get update\n",
        "FROM a:1\nWORKDIR /app\nCOPY package.json ./\nRUN npm ci\nCOPY . .\n",
    ],
)
def test_no_order_that_breaks_it(project: Path, commit: Commit, dockerfile: str) -> None:
    commit({"Dockerfile": dockerfile, "package.json": "{}", "src/a": "1"})
    commit({"src/a": "2"})
    commit({"package.json": "{ }"})
    assert run(project).reordering is None


def test_ignore_files_and_text_count_as_of_their_commit(project: Path, commit: Commit) -> None:
    commit({"Dockerfile": "FROM a:1\nCOPY . /x\n", "docs/x": "1"})
    commit({".dockerignore": "docs\n.dockerignore\n"})
    commit({"docs/x": "2"})
    commit({"Dockerfile.dockerignore": "nothing\n"})
    assert [row.misses for row in run(project).commits] == [1, 1, 0, 1]


def test_commits_that_cannot_be_built_are_named(project: Path, commit: Commit) -> None:
    commit({"a": "1"})
    commit({"Dockerfile": "FROM a:1\nCOPY a /a\n"})
    commit({"Dockerfile": "FROM a:1\nCPOY a /a\n"})
    commit({"Dockerfile": "FROM a:1\nCOPY gone /a\n"})
    commit({"Dockerfile": "FROM a:1\nCOPY a /a\n"})
    found = run(project)
    assert [bool(row.error) for row in found.commits] == [True, False, True, True, False]
    assert "there is no Dockerfile" in found.commits[0].error
    assert "'/gone' does not exist" in found.commits[3].error or "gone" in found.commits[3].error
    assert (found.hits, found.misses) == (1, 0)


def test_a_folder_of_the_repository_as_context(project: Path, commit: Commit) -> None:
    commit({"app/Dockerfile": "FROM a:1\nCOPY . /x\n", "other": "1"})
    commit({"other": "2"})
    commit({"app/x": "2"})
    assert [row.misses for row in run(project / "app").commits] == [1, 0, 1]


def test_stages_and_links(project: Path, commit: Commit) -> None:
    text = (
        "FROM a:1 AS b\nCOPY src /src\nRUN make\nFROM a:1 AS unused\nRUN x\nFROM a:1\nCOPY --link docs /docs\nCOPY --from=b /src/out /out\n"
    )
    commit({"Dockerfile": text, "src/a": "1", "docs/x": "1"})
    commit({"docs/x": "2"})
    commit({"src/a": "2"})
    found = run(project)
    assert [row.misses for row in found.commits[1:]] == [2, 3]
    assert {row.text for row in found.steps} == {"COPY src /src", "RUN make", "COPY --link docs /docs", "COPY --from=b /src/out /out"}


def test_nothing_of_the_repository_runs(project: Path, commit: Commit, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    commit({"Dockerfile": "FROM a:1\nCOPY . /x\n", ".gitattributes": "* filter=evil\n"})
    commit({"b": "1"})
    for name in (
        "core.fsmonitor",
        "filter.evil.smudge",
        "filter.evil.clean",
        "core.sshCommand",
        "core.pager",
        "gpg.program",
        "diff.external",
    ):
        git(project, "config", name, f"touch {marker}")
    git(project, "config", "log.showSignature", "true")
    assert run(project).misses == 1
    assert not marker.exists()


def test_no_repository(tmp_path: Path, project: Path, commit: Commit) -> None:
    with pytest.raises(NoRepository):
        run(tmp_path)
    with pytest.raises(NoRepository):
        run(project)  # without a commit
    commit({"a": "1"})
    with pytest.raises(NoRepository):
        run(project, ref="--all")


def test_a_linked_copy_costs_only_itself(project: Path, commit: Commit) -> None:
    text = "FROM a:1\nCOPY --link notes /notes\nWORKDIR /app\nCOPY src /src\nRUN apt-get install -y gcc\n"
    commit({"Dockerfile": text, "notes/x": "1", "src/a": "1"})
    commit({"src/a": "2"})
    commit({"src/a": "3"})
    found = run(project)
    assert [row.misses for row in found.commits[1:]] == [2, 2]
    assert found.reordering is not None
    assert found.reordering.order[-2:] == ("RUN apt-get install -y gcc", "COPY src /src")
    assert found.reordering.runs == 2


def test_an_argument_that_is_another_each_time(project: Path, commit: Commit) -> None:
    early = "FROM a:1\nARG SHA\nRUN one\nRUN two\nRUN three $SHA\n"
    commit({"Dockerfile": early, "x": "1"})
    commit({"x": "2"})
    commit({"x": "3"})
    options = Options(args={"SHA": "v-{commit}"})
    found = run(project, options=options, sources=Sources(seconds=lambda step, place: 5.0))
    assert [row.misses for row in found.commits[1:]] == [3, 3]
    assert found.unnamed_args is not None
    assert (found.unnamed_args.runs, found.unnamed_args.seconds) == (4, 20.0)
    assert run(project).unnamed_args is None
    commit({"Dockerfile": "FROM a:1\nRUN one\nRUN two\nARG SHA\nRUN three $SHA\n"})
    commit({"x": "4"})
    late = run(project, options=options, commits=2)
    assert late.misses == 1
    assert late.unnamed_args is None


@pytest.mark.parametrize(
    ("files", "takes"),
    [
        ({"Dockerfile": "FROM a:1\nCOPY . /x\n"}, "COPY . /x"),
        ({"Dockerfile": "FROM a:1\nCOPY . /x\n", ".dockerignore": "*.log\n"}, "COPY . /x"),
        ({"Dockerfile": "FROM a:1\nCOPY . /x\n", ".dockerignore": ".git\n"}, ""),
        ({"Dockerfile": "FROM a:1\nCOPY src /x\n", "src/a": "1"}, ""),
    ],
)
def test_the_checkouts_own_folder_is_told(project: Path, commit: Commit, files: dict[str, str | None], takes: str) -> None:
    commit(files)
    commit({"other": "1"})
    assert run(project).takes_git == takes
