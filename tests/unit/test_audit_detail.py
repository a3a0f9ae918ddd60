"""The details of an audit record are bounded, whatever a use case puts in."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.identity.audit import MAX_DETAIL, MAX_ITEMS, MAX_TEXT, bounded

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=700),
    lambda inner: st.lists(inner, max_size=60) | st.dictionaries(st.text(max_size=600), inner, max_size=60),
    max_leaves=200,
)


@given(st.dictionaries(st.text(max_size=700), VALUES, max_size=60))
def test_details_are_bounded(detail: dict[str, Any]) -> None:
    assert len(orjson.dumps(bounded(detail))) <= MAX_DETAIL


@pytest.mark.parametrize(
    "detail",
    [{}, {"a": 1, "b": None, "c": ["x", {"y": True}]}, {"text": "x" * MAX_TEXT}, {"l": [1] * MAX_ITEMS}],
)
def test_small_ones_stay_as_they_are(detail: dict[str, Any]) -> None:
    assert bounded(detail) == detail


def test_long_ones_are_cut() -> None:
    assert bounded({"text": "x" * 10_000}) == {"text": "x" * (MAX_TEXT - 1) + "…"}
    assert bounded({"list": list(range(1000))}) == {"list": list(range(MAX_ITEMS))}
    assert bounded({str(n): "é" * MAX_TEXT for n in range(40)}) == {"omitted": [str(n) for n in range(40)]}
