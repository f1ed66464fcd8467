from __future__ import annotations

import pytest

from lamina.pipelines.tree import Mapping, Scalar, Sequence, YamlError
from lamina.pipelines.yamltext import MAX_DEPTH, parse, resolve


def root(text: str) -> Mapping:
    found = parse(text).root
    assert isinstance(found, Mapping)
    return found


def scalar(text: str, key: str) -> Scalar:
    found = root(text).get(key)
    assert isinstance(found, Scalar)
    return found


def refusal(text: str) -> tuple[str, int, int]:
    with pytest.raises(YamlError) as caught:
        parse(text)
    span = caught.value.spans[0]
    return caught.value.message, span.line, span.column


def test_positions_of_keys_and_values() -> None:
    entry = root("a:\n  - ü: 'x'\n").entries[0]
    assert isinstance(entry.value, Sequence)
    inner = entry.value.items[0]
    assert isinstance(inner, Mapping)
    key = inner.entries[0]
    assert (key.span.line, key.span.column, key.span.end_column) == (2, 5, 6)
    assert (key.value.span.line, key.value.span.column, key.value.span.end_column) == (2, 8, 11)


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", True), ("Off", False), ("~", None), ("", None), ("012", 10), ("0x1f", 31), ("1_000", 1000), ("1.5", 1.5), ("1.2.3", "1.2.3"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("3x", "3x")],
)  # fmt: skip
def test_plain_words_by_yaml_1_1(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


def test_quotes_and_blocks_are_texts() -> None:
    assert scalar("a: 'true'", "a").value == "true"
    assert scalar("a: |\n  1\n", "a").value == "1\n"
    assert scalar("a: !!str 1", "a").value == "1"


def test_a_number_that_is_no_number_does_not_end_the_process() -> None:
    assert scalar("a: 08", "a").text == "08"
    assert scalar(f"a: {'9' * 5000}", "a").text == "9" * 5000


def test_a_key_given_twice_is_refused_at_the_second() -> None:
    message, line, column = refusal("a: 1\nb: 2\na: 3\n")
    assert 'the key "a" is given twice' in message
    assert "line 1" in message
    assert (line, column) == (3, 1)


def test_merge_keys_own_keys_win_and_earlier_mappings_win() -> None:
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 0\n"
    found = root(text).get("z")
    assert isinstance(found, Mapping)
    assert {entry.key: entry.value.value for entry in found if isinstance(entry.value, Scalar)} == {"a": 0, "b": 1, "c": 2}
    assert [entry.merged for entry in found] == [False, True, True]


def test_merging_what_is_no_mapping() -> None:
    assert "merges mappings only" in refusal("x: &x [1]\ny:\n  <<: *x\n")[0]


def test_aliases_share_and_anchors_know_their_use() -> None:
    tree = parse("a: &one {k: v}\nb: *one\nc: &two x\n")
    assert isinstance(tree.root, Mapping)
    assert tree.root.get("a") is tree.root.get("b")
    assert [(anchor.name, anchor.used) for anchor in tree.anchors] == [("one", True), ("two", False)]


def test_an_alias_before_its_anchor() -> None:
    message, line, column = refusal("a: *late\nb: &late x\n")
    assert 'the alias "*late"' in message
    assert (line, column) == (1, 4)


def test_an_alias_inside_its_own_anchor() -> None:
    assert "inside its own anchor" in refusal("a: &a [*a]\n")[0]


def test_a_file_that_explodes_is_refused_and_costs_little() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)]
    assert "more than" in refusal("\n".join(lines))[0]


def test_merging_without_end_is_refused() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(1000))
    merges = "\n".join(f"m{n}: {{<<: *x}}" for n in range(200))
    assert "merge keys copy more than" in refusal(f"x: &x {{{keys}}}\n{merges}\n")[0]


def test_depth_is_bounded() -> None:
    assert f"deeper than {MAX_DEPTH}" in refusal("a: " + "[" * 5000)[0]


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("pipelines:\n  branches:\n    *:\n      - x\n", 3, "must be quoted"),
        ("pipelines:\n\tdefault: x\n", 2, "use blanks"),
        ("a: 1\n<<<<<<< HEAD\nb: 2\n=======\nb: 3\n>>>>>>> x\n", 2, "keep one side"),
        ("a:\n  - echo a: b: c\n", 2, "must be quoted"),
        ("a: @x\n", 1, "must be quoted"),
    ],
)
def test_mistakes_of_real_files_have_a_way_out(text: str, line: int, hint: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert caught.value.spans[0].line == line
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\n---\n",
        "a: \x07\n",
        "a: \ud800\n",
        "? [a]\n: b\n",
        ": b\n",
        "a: !x b\n",
        "a: !!python/object:os.system x\n",
        "a: b\n---\nc: d\n",
    ],
)
def test_every_other_refusal_has_a_place(text: str) -> None:
    assert refusal(text)[1] >= 1


def test_an_empty_document_is_a_scalar_of_nothing() -> None:
    found = parse("--- ~\n").root
    assert isinstance(found, Scalar)
    assert found.value is None


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\r"])
def test_lines_are_counted_as_everyone_counts_them(mark: str) -> None:
    entry = root(f"a: 'x{mark} y'\nbb: 1\n").entries[1]
    assert (entry.span.line, entry.span.column) == (2, 1)
    assert (entry.value.span.line, entry.value.span.column) == (2, 5)


def test_a_character_that_yaml_forbids_is_found_behind_others() -> None:
    assert refusal("ä: ü\nb: ö\x07\n")[1:] == (2, 5)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 'x', *b]\n",
        "x: &x {a: 1}\ny:\n  - <<: *x\n    b: |\n      1\n      2\n  - c # d\n",
        "a: b\na: c\n",
        "a: \x07",
        "\ta: b",
        "*: x",
    ],
)
def test_the_parser_in_python_gives_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> object:
        try:
            return str(parse(text).root)
        except YamlError as error:
            return error.spans[0].line, error.hint

    fast = outcome()
    monkeypatch.delattr("yaml.CSafeLoader", raising=False)
    assert outcome() == fast
