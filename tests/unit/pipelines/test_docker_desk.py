"""The shim and the other end of its mailbox, with the machine's own sh."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.pipelines.docker.desk import Call, CallGone, Desk
from lamina.pipelines.docker.options import Usage
from lamina.pipelines.docker.shim import shim

Serve = Callable[[Call], int]
SHELLS = [["/bin/sh"], ["/bin/busybox", "sh"], ["/bin/bash"]]


@contextlib.contextmanager
def desk(tmp_path: Path, serve: Serve) -> Iterator[Path]:
    """The script, while its desk is open."""
    box = tmp_path / "box"
    box.mkdir()
    script = tmp_path / "docker"
    script.write_bytes(shim(str(box)))
    script.chmod(0o755)
    with ThreadPoolExecutor(16) as pool:
        opened = Desk(box, pool, serve)
        try:
            yield script
        finally:
            opened.end()
            opened.join()


def call(script: Path, *words: str, stdin: bytes = b"", shell: list[str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*(shell or ["/bin/sh"]), str(script), *words], input=stdin, capture_output=True, cwd=script.parent, timeout=180, check=False
    )


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox", "bash"])
def test_words_streams_and_exit_code(tmp_path: Path, shell: list[str]) -> None:
    if not os.path.exists(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")

    def serve(one: Call) -> int:
        one.out(f"{one.cwd}|{one.words!r}\n")
        one.err("oops\n")
        one.out(b"\0\xff")
        return 300

    with desk(tmp_path, serve) as script:
        done = call(script, "a b", "", "*", 'q"\n$x', shell=shell)
    assert done.stdout == f"{tmp_path}|{['a b', '', '*', 'q' + chr(34) + chr(10) + '$x']!r}\n".encode() + b"\0\xff"
    assert done.stderr == b"oops\n"
    assert done.returncode == 300 & 255
    assert [path.name for path in (tmp_path / "box").iterdir()] == ["ask"]


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox", "bash"])
def test_the_step_reads_and_writes_its_own_files(tmp_path: Path, shell: list[str]) -> None:
    if not os.path.exists(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")
    (tmp_path / "in put").write_bytes(b"x" * 300_000)
    (tmp_path / "empty").touch()
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx" / "in put").touch()

    def serve(one: Call) -> int:
        assert len(b"".join(one.file("in put") or ())) == 300_000
        assert b"".join(one.file("empty") or (b"none",)) == b""
        assert one.file("missing") is None
        assert one.folder("missing") is None
        assert b"in put" in b"".join(one.folder("ctx") or ())
        assert one.variable("HOME_OF_IT") == "a 'b' \"c\""
        assert one.variable("NOT_SET_AT_ALL") is None
        assert one.variable("x; touch evil") is None
        with one.writing("out put") as write:
            write(b"y" * 300_000)
        with pytest.raises(Usage), one.writing("missing/deep"):
            pass
        with pytest.raises(Usage):
            one.file("a\nexit 0")
        one.out(b"".join(one.stdin()))
        return 0

    os.environ["HOME_OF_IT"] = "a 'b' \"c\""
    try:
        with desk(tmp_path, serve) as script:
            done = call(script, "x", stdin=b"z" * 200_000, shell=shell)
    finally:
        del os.environ["HOME_OF_IT"]
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 200_000, b"")
    assert (tmp_path / "out put").read_bytes() == b"y" * 300_000
    assert not (tmp_path / "evil").exists()


def test_input_that_nobody_asked_for_stays(tmp_path: Path) -> None:
    with desk(tmp_path, lambda one: 0) as script:
        loop = f"while read -r line; do {script} x; echo $line; done"
        done = subprocess.run(["/bin/sh", "-c", loop], input=b"1\n2\n3\n", capture_output=True, timeout=180, check=True)
    assert done.stdout == b"1\n2\n3\n"


def test_calls_at_once_do_not_mix(tmp_path: Path) -> None:
    together = threading.Barrier(8, timeout=90)

    def serve(one: Call) -> int:
        together.wait()
        for _ in range(200):
            one.out(one.words[0] * 100 + "\n")
        return 0

    with desk(tmp_path, serve) as script:
        each = " & ".join(f"{script} {number} > {tmp_path}/o{number}" for number in range(8))
        subprocess.run(["/bin/sh", "-c", f"{each} & wait"], timeout=180, check=True)
    for number in range(8):
        assert (tmp_path / f"o{number}").read_text() == (str(number) * 100 + "\n") * 200


def test_a_signal_is_passed_on_and_a_killed_shim_is_noticed(tmp_path: Path) -> None:
    begun, stopped, gone = threading.Event(), threading.Event(), threading.Event()

    def serve(one: Call) -> int:
        one.on_stop(stopped.set)
        one.out("begun\n")  # somebody reads it from now on
        begun.set()
        if one.words == ["kill"]:
            try:
                while True:
                    one.out(b"x" * 1000)
            except CallGone:
                gone.set()
                raise
        assert stopped.wait(90)
        return 143

    with desk(tmp_path, serve) as script:
        with subprocess.Popen(["/bin/sh", script, "term"], cwd=tmp_path) as process:
            assert begun.wait(90)
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 143
        begun.clear()
        with subprocess.Popen(["/bin/sh", script, "kill"], cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            assert begun.wait(90)
            os.killpg(process.pid, signal.SIGKILL)
        assert gone.wait(90)


def test_nothing_in_the_mailbox_is_believed(tmp_path: Path) -> None:
    """A call whose folder is a link, whose pipes are files or links, or which does not exist, is no call."""
    served: list[object] = []

    def serve(one: Call) -> int:
        served.append(one)
        return 0

    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("ctl", "rep"):
        os.mkfifo(outside / name)
    (outside / "words").write_bytes(b"/\0/\0x\0")
    with desk(tmp_path, serve) as script:
        box = tmp_path / "box"
        (box / "1.0").symlink_to(outside)
        (box / "2.0").mkdir()
        (box / "2.0" / "ctl").write_text("")
        (box / "3.0").mkdir()
        os.mkfifo(box / "3.0" / "ctl")
        os.mkfifo(box / "3.0" / "rep")
        (box / "3.0" / "words").symlink_to(outside / "words")
        with open(box / "ask", "wb", buffering=0) as ask:
            ask.write(b"1.0\n2.0\n3.0\n4.0\n../outside\n\xff\n" + b"9" * 3000 + b"\n")
        assert call(script, "good").returncode == 0
    assert len(served) == 1


def test_without_a_desk_it_says_so(tmp_path: Path) -> None:
    script = tmp_path / "docker"
    script.write_bytes(shim(str(tmp_path / "box")))
    done = call(script, "version")
    assert done.returncode == 1
    assert done.stderr == b"docker: this step has no docker service\n"
