from __future__ import annotations

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.sarif import sarif
from lamina.diagnostics.span import Source, Span

SOURCE = Source("f.yml", "a\nb\n")


def test_findings_with_and_without_places() -> None:
    found = [
        Diagnostic("warning", "x/b", "second", Span(SOURCE, 2, 3, 2, 5), "do this"),
        Diagnostic("info", "x/a", "whole line", Span(SOURCE, 1)),
        Diagnostic("error", "x/b", "nowhere"),
    ]
    document = sarif(found, version="1")
    assert document["version"] == "2.1.0"
    runs = document["runs"]
    assert isinstance(runs, list)
    assert runs[0]["tool"]["driver"]["rules"] == [{"id": "x/a"}, {"id": "x/b"}]
    first, second, third = runs[0]["results"]
    assert (first["ruleId"], first["ruleIndex"], first["level"]) == ("x/b", 1, "warning")
    assert first["message"]["text"] == "second (do this)"
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "f.yml"
    assert place["region"] == {"startLine": 2, "startColumn": 3, "endLine": 2, "endColumn": 5}
    assert second["level"] == "note"
    assert second["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}
    assert "locations" not in third
