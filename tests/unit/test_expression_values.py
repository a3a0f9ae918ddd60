"""Values of expressions: equality, order, texts, and how large and deep they may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pilothouse.expressions.values import (
    Budget,
    BudgetSpent,
    Fault,
    TypeName,
    compare,
    equal,
    insert_text,
    plain,
    to_text,
    type_name,
)


def test_equality_is_that_of_values() -> None:
    def same(left: Any, right: Any) -> bool:
        return equal(left, right, Budget())

    hour = timedelta(hours=1)
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    alike: list[tuple[Any, Any]] = [
        (1, 1.0),
        ("a", "a"),
        ([1, [2]], (1.0, [2])),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}),
        (noon, noon.astimezone(timezone(hour))),
        (hour, timedelta(minutes=60)),
        (TypeName("int"), TypeName("int")),
    ]
    different: list[tuple[Any, Any]] = [
        (1, True),
        (1, "1"),
        (None, False),
        ([1], [1, 2]),
        ([1, 2], [1]),
        ([1, 2], [1, 3]),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 2}),
        ("a", "b"),
    ]
    assert [same(left, right) for left, right in alike] == [True] * len(alike)
    assert [same(left, right) for left, right in different] == [False] * len(different)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_values_may_be_nested_so_deep() -> None:
    assert equal(nested(64), nested(64), Budget())
    with pytest.raises(Fault) as caught:
        equal(nested(65), nested(65), Budget())
    assert str(caught.value) == "cannot compare values nested more than 64 deep"
    assert plain(nested(64), Budget()) == nested(64)
    assert plain({"a": nested(63)}, Budget()) == {"a": nested(63)}
    with pytest.raises(Fault) as caught:
        plain({"a": nested(64)}, Budget())
    assert str(caught.value) == "the result is nested more than 64 deep"


def test_a_result_may_have_so_many_characters_and_elements() -> None:
    most = ["x" * 30_000, {"k" * 5: "x" * (65_536 - 30_000 - 5 - 5 + 1)}]
    assert plain(most, Budget(99_999)) == most
    with pytest.raises(BudgetSpent) as caught:
        plain([*most, 1], Budget(99_999))
    assert str(caught.value) == "its result has more than 65536 characters and elements"
    assert plain([0] * 65_536, Budget(99_999)) == [0] * 65_536
    with pytest.raises(BudgetSpent):
        plain([0] * 65_537, Budget(99_999))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 2.5),
        (False, True),
        ("a", "b"),
        (timedelta(1), timedelta(2)),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
    ],
)
def test_what_is_ordered(left: Any, right: Any) -> None:
    assert [compare(operator, left, right) for operator in ("<", "<=", ">", ">=")] == [
        True,
        True,
        False,
        False,
    ]
    assert [compare(operator, left, left) for operator in ("<", "<=", ">", ">=")] == [
        False,
        True,
        False,
        True,
    ]
    assert [compare(operator, right, left) for operator in ("<", "<=", ">", ">=")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e14, "100000000000000"),
        (-3.0, "-3"),
        (1e15, "1000000000000000.0"),
        (0.1, "0.1"),
        (timedelta(milliseconds=-1500), "-1s500ms"),
        (timedelta(0), "0s"),
        (TypeName("int"), "int"),
        (datetime(2026, 1, 31, 10, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T08:00:00Z"),
    ],
)
def test_texts(value: Any, text: str) -> None:
    assert to_text(value) == text


def test_what_is_inserted_into_a_text() -> None:
    assert insert_text(None) == ""
    assert insert_text({"ä": [1, "b"]}) == '{"ä":[1,"b"]}'
    assert insert_text((1, 2)) == "[1,2]"
    assert insert_text("a") == "a"
    assert insert_text(True) == "true"
    assert type_name(object()) == "type"
