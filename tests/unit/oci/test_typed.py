from __future__ import annotations

import subprocess
import sys
import textwrap

import msgspec
import pytest

from lamina.oci import typed


class Small(msgspec.Struct):
    a: int = 0


def test_what_msgspec_reads() -> None:
    assert typed.json(b'{"a":1}', type=Small) == typed.convert({"a": 1}, Small) == Small(1)
    assert typed.msgpack(msgspec.msgpack.encode({"a": 2}), type=Small) == Small(2)
    assert typed.json(b"[1]", type=list[int]) == [1]
    with pytest.raises(msgspec.ValidationError):
        typed.convert({"a": "x"}, Small)


def test_texts_that_are_no_unicode_are_written_as_go_writes_them() -> None:
    class Words(msgspec.Struct, omit_defaults=True):
        words: tuple[str, ...]
        more: int = 0

    latin = b"J\xfcrgen".decode("utf-8", "surrogateescape")
    assert typed.encode_json(Words((latin, "\ud83d", "ü"))) == '{"words":["J\ufffdrgen","\ufffd","ü"]}'.encode()
    assert typed.encode_json({latin: {"a": latin}}) == '{"J\ufffdrgen":{"a":"J\ufffdrgen"}}'.encode()
    assert typed.encodable(("\udcfc", 1, None)) == ["\ufffd", 1, None]


def test_the_first_use_in_many_threads_at_once() -> None:
    """Without the lock this ends with SIGSEGV nearly always: in a process of its own."""
    program = """
        import sys, threading, typing, msgspec
        from lamina.oci import typed
        sys.setswitchinterval(1e-6)
        for number in range(200):
            fields = [(f"f{one}", typing.Optional[typing.Union[int, float, str]], None) for one in range(15)]
            kind = msgspec.defstruct(f"Kind{number}", fields, array_like=True)
            begin = threading.Barrier(4)
            def read(turn):
                begin.wait()
                typed.convert((1, 2), kind) if turn % 2 else typed.json(b"[1, 2]", type=kind)
            threads = [threading.Thread(target=read, args=(turn,)) for turn in range(4)]
            for one in threads: one.start()
            for one in threads: one.join()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
