from __future__ import annotations

import pytest

from lamina.dockerfile.splitting import SplitError, Word, json_words, split_line, split_once, split_spaces, split_words


def word(text: str) -> Word:
    return Word(text, 0, len(text))


def test_keyword_flags_and_rest_with_their_places() -> None:
    text = '  RUN \t--a=b --c="d e" --f\\ g  x  --y '
    parts = split_line(text)
    assert parts.keyword == Word("RUN", 2, 5)
    assert [flag.text for flag in parts.flags] == ["--a=b", "--c=d e", "--f g"]
    assert [text[flag.start : flag.end] for flag in parts.flags] == ["--a=b", '--c="d e"', "--f\\ g"]
    assert parts.rest.text == "x  --y"
    assert text[parts.rest.start : parts.rest.end] == "x  --y"


def test_two_dashes_end_the_flags() -> None:
    parts = split_line("RUN --a -- --b")
    assert ([flag.text for flag in parts.flags], parts.rest.text) == (["--a"], "--b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b", ["a", "b"]),
        ('a="b c" d', ['a="b c"', "d"]),
        ("a='b\\' c", ["a='b\\'", "c"]),
        ("a\\ b c", ["a\\ b", "c"]),
        ('"" x', ['""', "x"]),
        ("a\\", ["a"]),
        ('"a', ['"a']),
        ("", []),
    ],
)
def test_words_with_quotes(text: str, words: list[str]) -> None:
    assert [item.text for item in split_words(word(text), "\\")] == words


def test_words_under_the_other_escape() -> None:
    assert [item.text for item in split_words(word("a` b c\\ d"), "`")] == ["a` b", "c\\", "d"]


def test_places_of_words() -> None:
    assert split_spaces(Word("a  bc", 5, 10)) == [Word("a", 5, 6), Word("bc", 8, 10)]
    assert split_once(Word("a  b c", 5, 11)) == (Word("a", 5, 6), Word("b c", 8, 11))
    assert split_once(word("a")) is None


def test_json() -> None:
    found = json_words(word(' ["a", "\\u00e9", "\\ud800"] '))
    assert found is not None
    assert [item.text for item in found] == ["a", "é", "\ufffd"]
    assert json_words(word("[]")) == []
    for text in ("a", "[a]", '["a"', '["a"] b', "['a']", "[NaN]", "[" * 3000):
        assert json_words(word(text)) is None
    for text in ('["a", 1]', '[["a"]]', "[null]"):
        with pytest.raises(SplitError):
            json_words(word(text))
