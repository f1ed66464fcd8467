"""Our side of the zygote, against stand-ins for child.py: each way in which it can end. Real runs are in testing/conformance/sandbox.py."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lamina.sandbox import zygoteprocess
from lamina.sandbox.protocols import Bind, Overlay, SandboxSetupFailed, SandboxSpec, SecretFile, SubMount, Tmpfs
from lamina.sandbox.zygote import Zygote, document

GOOD = {"exit_code": 3, "signal": None, "timed_out": False, "max_rss": 5, "cpu": 0.5}
CHILD = """
import json, os, socket, struct, sys
control = socket.socket(fileno=int(sys.argv[1]))
while True:
    message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
    if not message:
        sys.exit()
    out, err, run = descriptors
    connection = socket.socket(fileno=run)
    size = struct.unpack("!I", connection.recv(4))[0]
    body = b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    spec = json.loads(body)
    os.write(out, b"to stdout ")
    os.write(out, str(len(sys.argv)).encode())
    os.write(err, ",".join(sorted(os.environ)).encode())
    ANSWER
    os.close(out), os.close(err), connection.close()
"""


class Cancel:
    """A token that remembers who is to be told."""

    def __init__(self) -> None:
        self.acts: list[Callable[[], None]] = []

    def cancelled(self) -> bool:
        return False

    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        self.acts.append(act)
        return lambda: self.acts.remove(act)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Zygote]]:
    zygotes: list[Zygote] = []

    def make(answer: str) -> Zygote:
        child = tmp_path / "child.py"
        child.write_text(CHILD.replace("ANSWER", textwrap.indent(textwrap.dedent(answer), " " * 4).strip()))
        monkeypatch.setattr(zygoteprocess, "_CHILD", child)
        zygotes.append(Zygote(userxattr=False))
        return zygotes[-1]

    yield make
    for item in zygotes:
        item.close()


def spec(folder: Path, **more: object) -> SandboxSpec:
    return SandboxSpec(Overlay((), folder / "upper", folder / "work"), ("/bin/true",), ("SECRET=hush",), **more)  # type: ignore[arg-type]  # fields by name


def test_a_report_and_its_output(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    one = made(f"connection.sendall({json.dumps(GOOD).encode()!r}.replace(b'null', b'null') + b'\\n')")
    got: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def on_output(stream: str, data: bytes) -> None:
        got[stream] += data

    cancel = Cancel()
    for _ in range(2):  # the same process for both
        report = one.run(spec(tmp_path), on_output, cancel)
        assert (report.exit_code, report.max_rss, report.cpu_seconds) == (3, 5, 0.5)
    assert got["stdout"] == b"to stdout 2" * 2
    assert set(got["stderr"].decode().replace("PATHLC", "PATH,LC").split(",")) <= {"LC_ALL", "PATH", "PATHLC_ALL", "LC_CTYPE"}, (
        "nothing of our environment"
    )
    assert cancel.acts == [], "a later cancel must not reach a run that is over"


def test_a_set_up_that_failed(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    one = made("""connection.sendall(b'{"setup_error": "mounts: Permission denied"}\\n')""")
    with pytest.raises(SandboxSetupFailed, match="could not be set up: mounts: Permission denied"):
        one.run(spec(tmp_path), lambda stream, data: None, Cancel())


def test_a_helper_that_was_killed(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    one = made("pass")
    with pytest.raises(SandboxSetupFailed, match="was killed"):
        one.run(spec(tmp_path), lambda stream, data: None, Cancel())


def test_a_zygote_that_is_gone(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    one = made("os._exit(1)")
    for _ in range(2):
        with pytest.raises(SandboxSetupFailed) as caught:
            one.run(spec(tmp_path), lambda stream, data: None, Cancel())
        assert "Traceback" not in caught.value.message


def test_cancelling_asks_for_an_end(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    one = made(f"connection.sendall({json.dumps(GOOD).encode()!r}.replace(b'3', str(connection.recv(1)[0]).encode(), 1) + b'\\n')")

    class Now(Cancel):
        def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
            import threading

            threading.Timer(0.01, act).start()
            return lambda: None

    assert one.run(spec(tmp_path), lambda stream, data: None, Now()).exit_code == ord("T")


def test_closing_twice_and_before_the_first_run(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    one = made("pass")
    one.close()
    one.close()
    one = made(f"connection.sendall({json.dumps(GOOD).encode()!r} + b'\\n')")
    one.run(spec(tmp_path), lambda stream, data: None, Cancel())
    used = one._process
    assert used is not None
    one.close()
    assert used.exit_code == -9
    assert one.run(spec(tmp_path), lambda stream, data: None, Cancel()).exit_code == 3, "a run after closing starts another"


def test_words_that_are_no_unicode(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    """argv, names and messages may hold any bytes: they arrive as they were, both ways."""
    word = b"\xff\x80 caf\xc3\xa9".decode("utf-8", "surrogateescape")
    answer = "connection.sendall(json.dumps({'setup_error': spec['argv'][1] + spec['env'][0]}).encode() + b'\\n')"
    with pytest.raises(SandboxSetupFailed) as caught:
        made(answer).run(
            msgspec.structs.replace(spec(tmp_path), argv=("echo", word), env=(f"A={word}",)), lambda stream, data: None, Cancel()
        )
    assert f"{word}A={word}" in str(caught.value)


def test_the_document(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    (tmp_path / "lower/file").touch()
    overlay = Overlay((tmp_path / "lower",), tmp_path / "u", tmp_path / "w")
    found = document(
        spec(
            tmp_path,
            binds=(Bind(tmp_path, "/d"), Bind(tmp_path / "lower/file", "/f", readonly=False)),
            submounts=(SubMount(overlay, "/m", "/file"), SubMount(overlay, "/n", "/none")),
            tmpfs=(Tmpfs("/t", 5),),
            secrets=(SecretFile("/s", b"\x00\xff", uid=3),),
            hosts=(("db", "10.0.0.1"),),
            hostname="me",
            network="none",
        ),
        userxattr=True,
    )
    json.dumps(found)
    assert [(b["is_file"], b["readonly"]) for b in found["binds"]] == [(False, True), (True, False)]
    assert [m["is_file"] for m in found["submounts"]] == [True, False]
    assert (found["secrets"][0]["data"], found["secrets"][0]["uid"]) == ("00ff", 3)
    assert found["hosts_file"].splitlines()[-2:] == ["127.0.1.1\tme", "10.0.0.1\tdb"]
    assert found["resolv_conf"] == "", "without a network there is nobody to ask"
    assert found["userxattr"] is True


def test_an_output_that_cannot_be_handed_on_ends_the_run(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    """Nobody reads the build's output any more: what the run has is closed, and its end is waited for."""

    def on_output(stream: str, data: bytes) -> None:
        raise BrokenPipeError(32, "gone")

    one = made(f"connection.recv(1); connection.sendall({json.dumps(GOOD).encode()!r} + b'\\n')")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BrokenPipeError):
        one.run(spec(tmp_path), on_output, Cancel())
    one.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_output_after_the_answer_is_handed_on(made: Callable[[str], Zygote], tmp_path: Path) -> None:
    got: list[bytes] = []
    late = f"connection.sendall({json.dumps(GOOD).encode()!r} + b'\\n'); assert not connection.recv(1); os.write(out, b'!' * 200000)"
    assert made(late).run(spec(tmp_path), lambda stream, data: got.append(data), Cancel()).exit_code == 3
    assert b"".join(got).count(b"!") == 200000
