"""Canonical JSON: the only JSON that is ever hashed."""

from __future__ import annotations

import msgspec


def canonical(document: object) -> bytes:
    """UTF-8, no white space, keys sorted by code point."""
    return msgspec.json.encode(document, order="deterministic")
