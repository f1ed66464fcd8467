"""`filters=` of the API, in both spellings that clients use: {"label": ["a"]} and {"label": {"a": true}}."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from lamina.server.errors import BadRequest
from lamina.server.http.messages import Query

Filters = Mapping[str, Sequence[str]]


def parse(query: Query, known: Sequence[str]) -> dict[str, list[str]]:
    """BadRequest for what is no JSON, has another form, or names a filter that is not in `known`."""
    raw = query.json("filters", {})
    if not isinstance(raw, dict):
        raise BadRequest("invalid filter: an object is expected")
    found: dict[str, list[str]] = {}
    for name, values in raw.items():
        if isinstance(values, str):
            values = [values]
        if isinstance(values, dict):
            values = [value for value, on in values.items() if on]
        if not isinstance(values, list):
            raise BadRequest(f"invalid filter '{name}'")
        if name not in known:
            raise BadRequest(f"invalid filter '{name}'")
        found[name] = [str(value) for value in values]
    return found


def labels_match(filters: Filters, labels: Mapping[str, str] | None) -> bool:
    """Every `label` is there, and none of `label!`."""
    have = labels or {}

    def has(wanted: str) -> bool:
        name, equals, value = wanted.partition("=")
        return name in have and (not equals or have[name] == value)

    return all(has(wanted) for wanted in filters.get("label", ())) and not any(has(wanted) for wanted in filters.get("label!", ()))


def name_matches(wanted: Sequence[str], name: str) -> bool:
    """docker's `name` filter: a part of the name, or a regular expression that is found in it."""
    import re

    for pattern in wanted:
        if pattern in name:
            return True
        try:
            if re.search(pattern, name):
                return True
        except re.error:
            continue
    return not wanted


def reference_matches(pattern: str, familiar: str) -> bool:
    """`reference=` of image lists: with a tag all of the name, without one the repository; `*` stays within a path's part."""
    repository = familiar.rpartition(":")[0] if ":" in familiar.rpartition("/")[2] else familiar
    candidates = [familiar, repository]
    parts = pattern.split("/")
    for candidate in candidates:
        have = candidate.split("/")
        if len(parts) == len(have) and all(fnmatch.fnmatchcase(one, want) for one, want in zip(have, parts)):
            return True
    return False


def truth(values: Sequence[str], name: str) -> bool:
    """A boolean filter's value."""
    value = values[0].lower() if values else ""
    if value in ("true", "1", "t"):
        return True
    if value in ("false", "0", "f"):
        return False
    raise BadRequest(f"invalid filter '{name}={value}'")
