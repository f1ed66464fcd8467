"""Shell words: the expander against recorded results of BuildKit's lexer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lamina.dockerfile.words import Expander, ExpansionError
from lamina.testing.conformance import Outcome, compare, locate


def run(directory: Path) -> Iterator[Outcome]:
    data = json.loads(locate(directory, "cases.json", "lex/cases.json", "dockerfiles/lex/cases.json").read_text(encoding="utf-8"))
    env: dict[str, str] = data["env"]
    for case in data["cases"]:
        mode = case.get("mode", {})
        expander = Expander(
            case.get("escape", "\\"),
            raw_quotes=mode.get("raw_quotes", False),
            raw_escapes=mode.get("raw_escapes", False),
            keep_unset=mode.get("skip_unset_env", False),
            quotes=not mode.get("skip_process_quotes", False),
        )
        name = f"{case['word']!r} {mode or ''}".strip()
        try:
            found = expander.word(case["word"], env)
        except ExpansionError as error:
            yield Outcome(name, () if case["error"] else (f"refused: {error.message}",))
            continue
        if case["error"]:
            yield Outcome(name, (f"accepted as {found.result!r}, recorded is the error {case['error']!r}",))
            continue
        yield Outcome(
            name,
            compare("result", found.result, case["result"])
            + compare("matched", sorted(found.matched), case["matched"] or [])
            + compare("unmatched", sorted(found.unmatched), case["unmatched"] or [])
            + compare("words", list(found.words), case["words"] or []),
        )
