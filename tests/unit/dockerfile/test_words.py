from __future__ import annotations

import pytest

from lamina.dockerfile.words import Expander, ExpansionError

ENV = {"A": "abc", "B": "x y", "E": "", "P": "/usr/lib/libfoo.so.1", "T": "foo.tar.gz", "D": "$A", "R": "aXbXc"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("$A-${A}", "abc-abc"),
        ("$A_", ""),
        ("$NO", ""),
        ("a$", "a$"),
        ("$ A", "$ A"),
        ("$1x", "x"),
        ("\\$A", "$A"),
        ("'$A'", "$A"),
        ('"$A \\" \\n"', 'abc " \\n'),
        ("${A:-x}${E:-x}${NO:-x}", "abcxx"),
        ("${E-x}${NO-x}", "x"),
        ("${A:+y}${E:+y}${E+z}${NO+z}", "yz"),
        ("${NO:-${B}}", "x y"),
        ("${P#*/}", "usr/lib/libfoo.so.1"),
        ("${P##*/}", "libfoo.so.1"),
        ("${P%.*}", "/usr/lib/libfoo.so"),
        ("${P%%.*}", "/usr/lib/libfoo"),
        ("${T%.tar.?z}", "foo"),
        ("${R/X/-}", "a-bXc"),
        ("${R//X/-}", "a-b-c"),
        ("${P//\\//_}", "_usr_lib_libfoo.so.1"),
        ("${A/b*/}", "a"),
        ("${A//*/q}", "q"),
        ("${R//X/$D}", "abc"),  # Go takes the $A that comes out of D for an empty group
        ("${A?no}${A:?no}", "abcabc"),
        ("<<EOF", "<<EOF"),
    ],
)
def test_results(text: str, result: str) -> None:
    assert Expander().word(text, ENV).result == result


@pytest.mark.parametrize(
    "text",
    [
        "${}",
        "${",
        "${A",
        "${A-",
        "${:x}",
        "${{A}",
        "${A:}",
        "${A=x}",
        "${A,,}",
        "${A[0]}",
        "${NO:?}",
        "${E:?}",
        "${R/}",
        "'",
        '"',
        "'a",
        '"$A',
        "${A#\\a}",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ExpansionError):
        Expander().word(text, ENV)


def test_a_required_variable_says_its_message() -> None:
    with pytest.raises(ExpansionError, match="NO: set it to abc"):
        Expander().word("${NO:?set it to $A}", ENV)


def test_names_that_were_asked_for() -> None:
    found = Expander().word("$A ${NO:-$B} ${E}", ENV)
    assert found.matched == {"A", "B", "E"}
    assert found.unmatched == {"NO"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b", ["a", "b"]),
        ("$B", ["x", "y"]),
        ('"$B" c', ["x y", "c"]),
        ("a\\ b", ["a b"]),
        ("'' x", ["x"]),
        ("", []),
        ("pre${A:-x}", ["abc"]),  # the unfinished word is lost, as in BuildKit
        ("<< EOF x", ["<< EOF", "x"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert Expander().words(text, ENV) == words


def test_the_other_escape_character() -> None:
    assert Expander("`").word("`$A \\$A", ENV).result == "$A \\abc"


def test_modes() -> None:
    assert Expander(raw_quotes=True).word("'a' \"b\"", ENV).result == "'a' \"b\""
    assert Expander(raw_escapes=True).word("\\$A", ENV).result == "\\$A"
    assert Expander(keep_unset=True).word("$NO${NO}${NO:-x}$A", ENV).result == "$NO${NO}${NO:-x}abc"
    assert Expander(quotes=False).word("'$A'", ENV).result == "'abc'"


def test_nesting_has_a_limit() -> None:
    with pytest.raises(ExpansionError, match="too deeply"):
        Expander().word("${X:-" * 5000 + "}" * 5000, {})
