from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lamina.oci.canonical import canonical


def test_bytes() -> None:
    assert canonical({"b": 1, "a": [1, "é", None, True], "é": {}, "B": 1.5}) == '{"B":1.5,"a":[1,"é",null,true],"b":1,"é":{}}'.encode()


@given(st.dictionaries(st.text(), st.integers()))
def test_order_of_insertion_does_not_count(values: dict[str, int]) -> None:
    assert canonical(values) == canonical(dict(reversed(values.items())))
