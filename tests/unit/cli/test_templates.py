"""`--format`."""

from __future__ import annotations

import pytest

from lamina.cli.inputs import BadOption
from lamina.cli.templates import render

VALUES = {"Name": "app", "Size": 3, "Config": {"Env": ["A=1"], "User": ""}, "Gone": None, "On": True}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}:{{ .Size }}", "app:3"),
        ("{{json .Config.Env}}", '["A=1"]'),
        ("{{.Config}}", '{"Env": ["A=1"], "User": ""}'),
        ("{{json .Name}}", '"app"'),
        ("{{.Gone}}", "null"),
        ("a\\tb\\nc", "a\tb\nc"),
        ("plain", "plain"),
    ],
)
def test_render(template: str, text: str) -> None:
    assert render(template, VALUES) == text


def test_everything_as_json() -> None:
    assert render("{{json .}}", {"a": "é"}) == '{"a": "é"}'
    assert render("json", {"a": "é"}) == '{"a": "é"}', "docker's short word for it"
    with pytest.raises(BadOption, match="'table' is not known"):
        render("table {{.a}}", {"a": "é"})


@pytest.mark.parametrize(
    ("template", "hint"), [("{{.Nmae}}", "did you mean .Name?"), ("{{.Config.Envv}}", "did you mean .Env?"), ("{{.Name.x}}", None)]
)
def test_a_field_that_is_not_there(template: str, hint: str | None) -> None:
    with pytest.raises(BadOption) as caught:
        render(template, VALUES)
    assert caught.value.hint == hint


@pytest.mark.parametrize("template", ["{{range .x}}{{end}}", "{{Name}}", "{{.Name", "}}"])
def test_actions_that_are_not_known(template: str) -> None:
    with pytest.raises(BadOption, match="only"):
        render(template, VALUES)
