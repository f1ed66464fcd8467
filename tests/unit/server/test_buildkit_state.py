"""Sessions, builds, kept folders and uploads that meet at one engine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lamina.server.buildkit.folders import KeptFolders
from lamina.server.buildkit.sessions import Sessions
from lamina.server.buildkit.state import Builds, Uploads
from lamina.server.errors import ApiError, Conflict
from lamina.testing.buildkitclient import ends


def test_a_build_may_come_before_its_session(tmp_path: Path) -> None:
    sessions = Sessions()
    with ends() as (here, there):
        server = threading.Thread(target=lambda: sessions.serve(here, "one", "key", ["/a/B"]))
        waiting: list[object] = []
        build = threading.Thread(target=lambda: waiting.append(sessions.wait("one", 90)))
        build.start()
        server.start()
        build.join(90)
        found = sessions.wait("one")
        assert waiting == [found]
        assert found.has("/a/b")
        assert not found.has("/a/c")
        with pytest.raises(Conflict):
            sessions.serve(there, "one", "", [])
        gone = threading.Event()
        found.on_close(gone.set)
        there.close()
        assert gone.wait(90)
        server.join(90)
    with pytest.raises(ApiError, match="no active session"):
        sessions.wait("one", 0)


def test_a_build_has_one_name_and_is_remembered_for_a_while() -> None:
    builds = Builds(lambda: 0)
    one = builds.begin("x")
    with pytest.raises(Conflict):
        builds.begin("x")
    assert builds.wait("x") is one
    builds.end("x")
    assert builds.wait("x") is one
    assert builds.begin("x") is not one
    builds.end("x")
    for number in range(40):
        builds.begin(str(number))
        builds.end(str(number))
    assert builds.find("x") is None
    with pytest.raises(ApiError):
        builds.wait("never", 0)


def test_a_build_without_a_function_of_its_clients_says_so() -> None:
    build = Builds(lambda: 0).begin("x")
    assert build.bridge(0) is None
    build.set_bridge(None)
    assert build.bridge() is None


def test_folders_are_kept_one_user_at_a_time(tmp_path: Path) -> None:
    folders = KeptFolders(tmp_path / "contexts")
    with folders.borrow("a") as one:
        (one / "f").write_text("1")
        with folders.borrow("a") as other:
            assert other != one
            assert not list(other.iterdir())
        assert not other.exists()
        assert [(size, used) for _, size, _, used in folders.sizes()] == [(1, True)]
        assert folders.clear() == 0
    with folders.borrow("a") as again:
        assert (again / "f").read_text() == "1"
    with folders.borrow("") as once:
        pass
    assert not once.exists()
    assert folders.clear() == 1
    assert folders.sizes() == []


def test_folders_of_an_engine_that_was_killed_go(tmp_path: Path) -> None:
    for name in ("once/1/files/d", "going/2/x"):
        (tmp_path / "contexts" / name).mkdir(parents=True)
    folders = KeptFolders(tmp_path / "contexts")
    with folders.borrow("a"):
        pass
    assert [path.name for path in (tmp_path / "contexts").iterdir()] == ["kept"]
    assert len(folders.sizes()) == 1


def test_many_builds_of_one_folder_at_a_time(tmp_path: Path) -> None:
    folders = KeptFolders(tmp_path / "contexts")
    failed: list[BaseException] = []
    together = threading.Barrier(8, timeout=90)

    def use() -> None:
        try:
            for turn in range(20):
                with folders.borrow("a") as place:
                    if turn == 0:
                        together.wait()  # all have one: seven of them another folder
                    (place / "files" / "one" / "two").mkdir(parents=True, exist_ok=True)
                    (place / "incoming" / "x").mkdir(parents=True, exist_ok=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert failed == []
    assert len(folders.sizes()) == 1
    assert not list((tmp_path / "contexts" / "going").iterdir())


def test_only_some_folders_are_kept(tmp_path: Path) -> None:
    folders = KeptFolders(tmp_path / "contexts")
    for number in range(20):
        with folders.borrow(str(number)) as place:
            pass
        os.utime(place, (number, number))
    with folders.borrow("last"):
        pass
    assert len(folders.sizes()) == 16


def test_an_upload_and_its_build_meet() -> None:
    uploads = Uploads()
    reading, writing = os.pipe()
    putting = threading.Thread(target=lambda: uploads.put("x", reading, 90))
    putting.start()
    assert uploads.take("x", 90) == reading
    putting.join(90)
    os.close(reading)
    with pytest.raises(ApiError, match="did not come"):
        uploads.take("y", 0)
    with pytest.raises(ApiError, match="took its context"):
        uploads.put("z", writing, 0)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(writing)
