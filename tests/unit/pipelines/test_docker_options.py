"""Options as docker's CLI reads them."""

from __future__ import annotations

import pytest

from lamina.pipelines.docker.options import Usage, parse
from lamina.pipelines.docker.printing import age, filled, size, table


@pytest.mark.parametrize("words", [["-t", "a", "-aq", "x"], ["-ta", "-qa", "x"], ["x", "--tag=a", "-a", "-q"], ["-aqt=a", "x"]])
def test_one_meaning_in_all_forms(words: list[str]) -> None:
    given = parse("x", words, "-t|--tag", "-a|--all -q")
    assert (given.last("-t"), given.on("-a"), given.on("-q"), given.rest) == ("a", True, True, ["x"])


def test_what_follows_the_image_belongs_to_the_command() -> None:
    given = parse("run", ["--rm", "image", "ls", "-l"], "", "--rm", mixed=False)
    assert given.rest == ["image", "ls", "-l"]


def test_repeated_values_keep_their_order_and_two_hyphens_end_options() -> None:
    given = parse("x", ["-e", "A=1", "-e", "B=2", "--", "-e"], "-e|--env")
    assert given.every("-e") == ["A=1", "B=2"]
    assert given.rest == ["-e"]


def test_a_switch_can_be_given_a_value() -> None:
    assert not parse("x", ["--rm=false"], "", "--rm").on("--rm")


@pytest.mark.parametrize("words", [["--ssh", "x"], ["-z"], ["-t"]])
def test_what_is_not_known_is_one_line(words: list[str]) -> None:
    with pytest.raises(Usage) as raised:
        parse("build", words, "-t")
    assert "\n" not in raised.value.message
    assert raised.value.message.startswith("docker build: ")


def test_templates() -> None:
    values = {"A": {"B": ["x", "y"]}, "Yes": True, "No": None}
    assert filled("{{.A.B}} {{json .A}} {{.Yes}} {{.No}}", values) == '[x y] {"B": ["x", "y"]} true <no value>'
    for template in ("{{range .A}}", "{{.C}}"):
        with pytest.raises(Usage):
            filled(template, values)


def test_printing() -> None:
    assert [size(count) for count in (0, 999, 1234, 2_130_000, 5_000_000_000)] == ["0B", "999B", "1.23kB", "2.13MB", "5GB"]
    assert [age(seconds) for seconds in (-1, 59, 60, 7300, 90000)] == [
        "0 seconds ago", "59 seconds ago", "1 minute ago", "2 hours ago", "1 day ago",
    ]  # fmt: skip
    assert table(("A", "BB"), [["xxx", "y"]]) == "A     BB\nxxx   y"
