"""A manifest of five thousand lists in each other, or text that is no UTF-8, came through as a RecursionError or UnicodeDecodeError."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lamina.oci.config import parse_config
from lamina.oci.manifest import InvalidDocument, parse_document

DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize("reader", [parse_document, parse_config])
@pytest.mark.parametrize("body", [b'{"manifests":' + DEEP + b"}", b'{"x":' + DEEP + b"}", b'{"os":"\xff\xc5","mediaType":"\xc5"}'])
def test_one_clear_line(reader: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(InvalidDocument, match=r"^not a"):
        reader(body)
