from __future__ import annotations

import pytest

from lamina.dockerfile.flags import FLAGS, parse_flags
from lamina.dockerfile.splitting import SplitError, split_line


def test_kinds() -> None:
    flags = parse_flags("COPY", split_line("COPY --from= --link --parents=False --exclude=a --exclude=b x y").flags)
    assert (flags.string("from"), flags.string("chown")) == ("", None)
    assert (flags.boolean("link"), flags.boolean("parents")) == (True, False)
    assert flags.strings("exclude") == ("a", "b")
    assert flags.word("link").text == "--link"


@pytest.mark.parametrize(
    "line", ["COPY --frm=x a", "COPY --link=1 a", "COPY --link= a", "COPY --from a", "COPY --from=a --from=b c", "USER --x y"]
)
def test_refused(line: str) -> None:
    with pytest.raises(SplitError):
        parse_flags(line.split()[0], split_line(line).flags)


def test_hints() -> None:
    for line, hint in (
        ("COPY --chwon=x a", "did you mean --chown?"),
        ("USER --chown=x a", "USER takes no flags"),
        ("FROM --zzz=x a", "FROM takes --platform"),
    ):
        with pytest.raises(SplitError) as caught:
            parse_flags(line.split()[0], split_line(line).flags)
        assert caught.value.hint in (hint, "--chown belongs to COPY")


def test_every_kind_is_known() -> None:
    assert {kind for flags in FLAGS.values() for kind in flags.values()} == {"bool", "string", "strings"}
