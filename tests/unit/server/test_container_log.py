from __future__ import annotations

import threading
from pathlib import Path

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
    thread.join(10)
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
