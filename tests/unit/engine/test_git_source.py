from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from lamina.engine.runners.git import CommitMismatch, GitFailed, GitUrl, InvalidGitUrl, _bounded, checkout, parse_git_url, resolve
from lamina.store.removal import remove


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://h/r.git", GitUrl("https://h/r.git")),
        ("https://h/r.git#v1:sub/dir", GitUrl("https://h/r.git", "v1", "sub/dir")),
        ("https://h/r.git#:sub", GitUrl("https://h/r.git", "", "sub")),
        ("https://h/r.git#:../../sub/./x", GitUrl("https://h/r.git", "", "sub/x")),
        ("git@h:o/r.git#main", GitUrl("git@h:o/r.git", "main")),
        ("git@h:o/r", GitUrl("git@h:o/r")),
        ("git://h/r", GitUrl("git://h/r")),
        ("ssh://git@h:22/r#x", GitUrl("ssh://git@h:22/r", "x")),
        ("github.com/o/r#x", GitUrl("https://github.com/o/r", "x")),
        ("https://h/r.git?ref=v1&subdir=a", GitUrl("https://h/r.git", "v1", "a")),
        ("https://h/r.git?branch=b", GitUrl("https://h/r.git", "refs/heads/b")),
        ("https://h/r.git?tag=t&checksum=0123456", GitUrl("https://h/r.git", "refs/tags/t", "", "0123456")),
        ("https://h/r.git?keep-git-dir=1&submodules=false", GitUrl("https://h/r.git", keep_git_dir=True, submodules=False)),
        ("https://h/file.tar.gz", None),
        ("https://h/r", None),
        ("./r.git", None),
        ("r", None),
    ],
)
def test_forms(text: str, url: GitUrl | None) -> None:
    assert parse_git_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "https://h/r.git?x=1",
        "https://h/r.git?ref=a&tag=b",
        "https://h/r.git?ref=a#b",
        "https://h/r.git?checksum=zz",
        "https://h/r.git#--upload-pack=x",
        "https://h/r.git?submodules=perhaps",
    ],
)
def test_refused_forms(text: str) -> None:
    with pytest.raises(InvalidGitUrl):
        parse_git_url(text)


def git(folder: Path, *arguments: str) -> str:
    environment = os.environ | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
    }
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "a").write_text("one")
    (folder / "sub/b").write_text("b")
    (folder / "out").symlink_to("/etc")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "-am", "t", "v1")
    (folder / "a").write_text("two")
    git(folder, "commit", "-qam", "two")
    git(folder, "branch", "side")
    return folder


def test_resolve(repository: Path) -> None:
    remote = repository.as_uri()
    head, first = git(repository, "rev-parse", "HEAD"), git(repository, "rev-parse", "HEAD~")
    assert resolve(GitUrl(remote)) == head
    assert resolve(GitUrl(remote, "side")) == head
    assert resolve(GitUrl(remote, "v1")) == first  # the commit, not the tag object
    assert resolve(GitUrl(remote, "refs/tags/v1")) == first
    assert resolve(GitUrl(remote, "refs/heads/side")) == head
    assert resolve(GitUrl("https://127.0.0.1:1/none.git", first)) == first
    assert resolve(GitUrl(remote, "v1", checksum=first[:9])) == first
    with pytest.raises(CommitMismatch):
        resolve(GitUrl(remote, "v1", checksum=head[:9]))
    with pytest.raises(GitFailed, match="no reference 'none'"):
        resolve(GitUrl(remote, "none"))


def test_checkout(repository: Path, tmp_path: Path) -> None:
    url = GitUrl(repository.as_uri(), "v1")
    checkout(url, resolve(url), tmp_path / "out")
    assert (tmp_path / "out/a").read_text() == "one"
    assert not (tmp_path / "out/.git").exists()
    checkout(GitUrl(url.remote, "", "sub"), resolve(GitUrl(url.remote)), tmp_path / "sub")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["b"]
    checkout(url, resolve(url), tmp_path / "kept", keep_git_dir=True)
    assert git(tmp_path / "kept", "rev-parse", "HEAD") == resolve(url)
    assert not list((tmp_path / "kept/.git/hooks").glob("*")) if (tmp_path / "kept/.git/hooks").exists() else True


@pytest.mark.parametrize("subdir", ["none", "out", "a"])
def test_sub_folder_must_be_a_real_folder(repository: Path, tmp_path: Path, subdir: str) -> None:
    with pytest.raises(GitFailed, match="no folder"):
        checkout(GitUrl(repository.as_uri(), "", subdir), resolve(GitUrl(repository.as_uri())), tmp_path / "x")
    assert {path.name for path in tmp_path.iterdir()} == {"repo"}


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(GitFailed):
        resolve(GitUrl((tmp_path / "none").as_uri()))
    with pytest.raises(GitFailed):
        checkout(GitUrl((tmp_path / "none").as_uri()), "0" * 40, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_users_configuration_does_not_count(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f'[url "file:///nowhere"]\n  insteadOf = {repository.as_uri()}\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert resolve(GitUrl(repository.as_uri())) == git_head(repository)


def git_head(repository: Path) -> str:
    return (repository / ".git/refs/heads/main").read_text().strip()


def test_an_agent_or_a_key_reaches_ssh_and_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[bytes]:
        seen.append(env)
        return subprocess.CompletedProcess(command, 0, b"1" * 40 + b"\tHEAD\n", b"")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/of/the/user")
    url = GitUrl("git@host.example:app.git")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "agent"))
        resolve(url, ssh=tmp_path / "agent")
    resolve(url, ssh=tmp_path / "a key")
    resolve(url)
    assert [env.get("SSH_AUTH_SOCK") for env in seen] == [str(tmp_path / "agent"), None, None]
    assert [f"-i '{tmp_path}/a key'" in env["GIT_SSH_COMMAND"] for env in seen] == [False, True, False]
    assert all("BatchMode=yes" in env["GIT_SSH_COMMAND"] for env in seen)


def test_submodules(repository: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    git(outer, "submodule", "--quiet", "add", repository.as_uri(), "inner")
    git(outer, "commit", "-qm", "with a submodule")
    url = GitUrl(outer.as_uri())
    checkout(url, resolve(url), tmp_path / "with")
    assert (tmp_path / "with/inner/a").read_text() == "two"
    assert not (tmp_path / "with/inner/.git").exists()
    checkout(url, resolve(url), tmp_path / "without", submodules=False)
    assert not (tmp_path / "without/inner/a").exists()


def _deep(repository: Path, levels: int) -> None:
    """A commit with folders in folders, made from git's objects."""
    head = "commit refs/heads/deep\ncommitter t <t@t> 0 +0000\ndata 4\ndeep\n"
    stream = f"{head}M 100644 inline {'d/' * levels}file\ndata 4\ntext\nM 100644 inline .git.1\ndata 4\nkept\n"
    subprocess.run(["git", "fast-import", "--quiet"], cwd=repository, input=stream.encode(), check=True)


def test_a_deep_repository_is_checked_out_and_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    levels = 1200  # more than there may be Python frames
    _deep(repository, levels)
    url = GitUrl(f"file://{repository}", "deep")
    checkout(url, resolve(url), tmp_path / "out")
    assert (tmp_path / "out" / Path(*["d"] * levels) / "file").read_text() == "text"
    assert (tmp_path / "out" / ".git.1").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("git-")] == []
    remove(tmp_path / "out")


def test_files_that_cannot_be_listed_have_no_bound(tmp_path: Path) -> None:
    """The list ended early, and what was seen of it was taken for all."""
    git(tmp_path, "init", "--quiet", ".")
    with pytest.raises(GitFailed, match="cannot be listed"):
        _bounded(GitUrl("https://h/r.git"), "0" * 40, tmp_path)
