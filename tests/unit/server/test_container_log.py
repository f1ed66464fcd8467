from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lamina.server.containers.container import log_bounds
from lamina.server.containers.log import STDERR, STDOUT, Frame, Lines, Log


def test_frames_come_back_with_stream_and_time(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.append(STDOUT, b"one\n", 11)
    log.append(STDERR, b"two\n", 12)
    reader = log.reader()
    found = list(reader.frames(0))
    reader.close()
    assert [(f.stream, f.nano, f.data) for f in found] == [(STDOUT, 11, b"one\n"), (STDERR, 12, b"two\n")]
    assert found[-1].end == log.size
    log.close()
    assert Log(tmp_path / "log").size == log.size


def test_a_reader_reads_on_after_the_file_is_gone(tmp_path: Path) -> None:
    """`docker run --rm`: the container's files go before a client has read the last line."""
    log = Log(tmp_path / "log")
    reader = log.reader()
    log.append(STDOUT, b"late", 1)
    (tmp_path / "log").unlink()
    assert [frame.data for frame in reader.follow(0, lambda: True)] == [b"late"]
    reader.close()


def test_following_gives_everything_that_was_written_before_the_end(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    reader = log.reader()
    over = threading.Event()
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.extend(frame.data for frame in reader.follow(0, over.is_set)))
    thread.start()
    for number in range(200):
        log.append(STDOUT, b"%d\n" % number, number)
    over.set()
    log.wake()
    thread.join(90)
    assert not thread.is_alive()
    assert b"".join(found) == b"".join(b"%d\n" % number for number in range(200))
    log.close()
    reader.close()


def test_lines_are_put_together_for_each_stream() -> None:
    lines = Lines()
    assert lines.feed(Frame(STDOUT, 1, b"a", 0)) == []
    assert [line.data for line in lines.feed(Frame(STDERR, 2, b"x\n", 0))] == [b"x\n"]
    found = lines.feed(Frame(STDOUT, 3, b"b\r\nc\nd", 0))
    assert [(line.nano, line.data) for line in found] == [(1, b"ab\r\n"), (3, b"c\n")]
    assert [line.data for line in lines.rest()] == [b"d"]
    assert lines.rest() == []


def test_a_line_without_an_end_is_cut_before_it_fills_the_memory() -> None:
    lines = Lines()
    assert sum(len(line.data) for n in range(10) for line in lines.feed(Frame(STDOUT, n, b"x" * 65536, 0))) == 655360


def test_a_log_is_bounded_and_begins_with_what_is_kept(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", most=100, files=3)
    early = log.reader()
    for number in range(100):
        log.append(STDOUT, b"%09d\n" % number, number)
    assert len(list(tmp_path.iterdir())) == 3
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * 130
    for reader in (early, log.reader()):
        found = [int(frame.data) for frame in reader.frames(0)]
        assert found == list(range(found[0], 100))
        assert len(found) >= 8
        reader.close()
    log.close()
    again = Log(tmp_path / "log", most=100, files=3)
    again.append(STDOUT, b"%09d\n" % 100, 100)
    reader = again.reader()
    assert [int(frame.data) for frame in reader.frames(0)][-2:] == [99, 100]
    reader.close()
    again.close()


def test_the_writer_waits_for_an_attached_reader_and_not_when_it_must_end(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", most=100, files=2)
    reader = log.reader(waited_for=True)
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            log.append(STDOUT, b"%09d\n" % number, number)
        done.set()
        log.wake()

    writer = threading.Thread(target=write)
    writer.start()
    assert [int(frame.data) for frame in reader.follow(0, done.is_set)] == list(range(200))
    writer.join(90)
    other = log.reader(waited_for=True)
    done.clear()
    writer = threading.Thread(target=write)
    writer.start()
    assert not done.wait(0.05)
    log.hurry()
    assert done.wait(90)
    writer.join(90)
    for each in (reader, other):
        each.close()
    log.close()


def test_a_reader_that_is_gone_or_stuck_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.server.containers.log._STUCK", 0.01)
    before = len(os.listdir("/proc/self/fd"))
    log = Log(tmp_path / "log", most=100, files=2)
    reader = log.reader(waited_for=True)
    for number in range(100):
        log.append(STDOUT, b"%09d\n" % number, number)
    assert len(list(reader.frames(0))) < 20
    reader.close()
    log.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    ("config", "bounds"),
    [
        ({}, (256 << 20, 4)), ({"Config": {"max-size": "10m"}}, (10 << 20, 1)), ({"Config": {"max-size": "1KB", "max-file": "3"}}, (1 << 10, 3)),
        ({"Config": {"max-size": "-1"}}, (0, 1)), ({"Config": {"max-size": "100"}}, (100, 1)), ({"Type": "none"}, (1 << 20, 1)),
    ],
)  # fmt: skip
def test_options_of_logs(config: dict[str, object], bounds: tuple[int, int]) -> None:
    assert log_bounds(config) == bounds


def test_another_process_writes_and_tells(tmp_path: Path) -> None:
    """As the helper of a kept container does: two logs over the same files."""
    writer, ours = Log(tmp_path / "log", 60, 2), Log(tmp_path / "log", 60, 2)
    reader = ours.reader(waited_for=True)
    found: list[bytes] = []
    number = begun = 0
    for count in range(9):
        if writer.size - begun >= 60:
            ours.filled(number, writer.size - begun)  # the reader has come along: it may begin a file
            number, begun = number + 1, writer.size
        writer.append(STDOUT, b"%d" % count, count)
        ours.grown(number, writer.size - begun)
        found += [frame.data for frame in reader.frames(frame_after(found))]
    assert found == [b"%d" % count for count in range(9)]
    assert ours.size == writer.size
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"log.{number - 1}" if number > 1 else "log", f"log.{number}"]
    reader.close()
    writer.close()


def frame_after(found: list[bytes]) -> int:
    return 17 * len(found)  # a head of 16 bytes, and one


def test_what_the_other_process_did_not_tell_is_found(tmp_path: Path) -> None:
    writer, ours = Log(tmp_path / "log", 30, 3), Log(tmp_path / "log", 30, 3)
    writer.append(STDOUT, b"one", 1)
    ours.look_again()
    assert ours.size == writer.size
    writer.append(STDOUT, b"two", 2)
    writer.append(STDOUT, b"three", 3)
    ours.grown(0, (tmp_path / "log").stat().st_size)
    ours.look_again()
    reader = ours.reader()
    assert [frame.data for frame in reader.frames(0)] == [b"one", b"two", b"three"]
    reader.close()
    writer.close()


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 18])
def test_a_frame_that_was_cut_off_goes(tmp_path: Path, cut: int) -> None:
    log = Log(tmp_path / "log")
    for text in (b"one", b"two"):
        log.append(STDOUT, text, 1)
    log.close()
    whole = log.size
    with open(tmp_path / "log", "ab") as file:
        file.write((b"\1\0\0\0\0\0\0\5" + bytes(8) + b"three")[:cut])
    mended = Log(tmp_path / "log")
    mended.mend()
    assert mended.size == whole
    mended.append(STDERR, b"four", 2)
    reader = mended.reader()
    assert [frame.data for frame in reader.frames(0)] == [b"one", b"two", b"four"]
    reader.close()
    mended.close()
