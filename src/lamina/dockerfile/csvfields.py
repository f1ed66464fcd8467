"""Comma separated values with optional double quotes, as `--mount`, `--output` and `--secret` are written (Go's encoding/csv). Pure."""

from __future__ import annotations


def csv_fields(text: str) -> list[str]:
    """One record; "" is one empty field. Raises ValueError for quotes that do not fit. Control characters are letters as all others."""
    fields: list[str] = []
    pos = 0
    while True:
        if text.startswith('"', pos):
            pos += 1
            field: list[str] = []
            while True:
                end = text.find('"', pos)
                if end < 0:
                    raise ValueError("a double quote is not closed")
                field.append(text[pos:end])
                pos = end + 1
                if text.startswith('"', pos):
                    field.append('"')
                    pos += 1
                    continue
                break
            fields.append("".join(field))
            if pos < len(text) and text[pos] != ",":
                raise ValueError("a double quote stands in the middle of a field")
        else:
            end = text.find(",", pos)
            end = len(text) if end < 0 else end
            if '"' in text[pos:end]:
                raise ValueError("a double quote stands in the middle of a field")
            fields.append(text[pos:end])
            pos = end
        if pos >= len(text):
            return fields
        pos += 1
