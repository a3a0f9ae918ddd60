"""Our evaluator against the CEL library's: the same value, or an error from both."""

from __future__ import annotations

import math
from typing import Any

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.expressions import ExpressionError, compile_expression, evaluate

CONTEXT: dict[str, Any] = {
    "variables": {"a": "x", "n": 3, "f": 2.5, "t": True, "l": [1, 2, 3], "m": {"k": "v", "n": None}, "e": []},
}
_ATOMS = st.sampled_from(
    ["1", "0", "-2", "2.5", "true", "false", "null", "'x'", '"yz"', "[]", "[1, 2]", "{'k': 1}", "''", "7 % 4"]
    + [f"variables.{name}" for name in (*CONTEXT["variables"], "missing")]
    + ["variables.m.k", "variables.l[1]", "variables['a']", "has(variables.m.k)", "has(variables.zz)"]
)
_OPERATORS = st.sampled_from(["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in"])


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    macro = st.sampled_from(["all", "exists", "exists_one", "filter", "map"])
    function = st.sampled_from(["size", "string", "int", "double", "dyn"])
    method = st.sampled_from(["contains", "startsWith", "endsWith"])
    return st.one_of(
        st.tuples(inner, _OPERATORS, inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
        st.tuples(_ATOMS, _OPERATORS, _ATOMS, _OPERATORS, _ATOMS).map(" ".join),
        inner.map(lambda p: f"!({p})"),
        inner.map(lambda p: f"-(0 + ({p}))"),  # the library negates booleans, too
        st.tuples(inner, inner).map(lambda p: f"[{p[0]}, {p[1]}]"),
        inner.map(lambda p: f"{{'q': {p}}}.q"),
        st.tuples(inner, inner).map(lambda p: f"{p[0]}[{p[1]}]"),
        st.tuples(inner, macro, inner).map(lambda p: f"{p[0]}.{p[1]}(i, {p[2]})"),
        st.tuples(inner, macro, _OPERATORS, inner).map(lambda p: f"{p[0]}.{p[1]}(i, i {p[2]} {p[3]})"),
        st.tuples(function, inner).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(inner, method, inner).map(lambda p: f"{p[0]}.{p[1]}({p[2]})"),
    )


EXPRESSIONS = st.recursive(_ATOMS, _compound, max_leaves=6)


def ours(source: str) -> Any:
    try:
        return evaluate(compile_expression(source), CONTEXT)
    except ExpressionError as error:
        return error


def theirs(source: str) -> Any:
    try:
        return cel.compile(source).execute(CONTEXT)
    except Exception as error:  # the library raises six different ones
        return error


@settings(max_examples=400)
@given(EXPRESSIONS)
def test_same_as_the_library(source: str) -> None:
    expected, found = theirs(source), ours(source)
    if isinstance(expected, Exception):
        assert isinstance(found, ExpressionError) or _we_do_more(source), (source, expected, found)
    elif not _we_do_less(expected, source):
        assert not isinstance(found, ExpressionError), (source, expected, found.message)
        assert found == expected, source
        assert isinstance(found, bool) == isinstance(expected, bool)


def _we_do_more(source: str) -> bool:
    """CEL has string(true), and an element that decides outweighs another's error; not so in the library."""
    return any(lacking in source for lacking in ("string(", ".all(", ".exists("))


def _we_do_less(value: Any, source: str) -> bool:
    """Infinities are errors here."""
    return "/" in source or (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize(
    "source",
    [
        "variables.a == 'x' && variables.n > 2 || variables.zz",
        "variables.l.map(i, i * 2).filter(i, i > 2).size() == 2",
        "1 + 2 * 3 - 4 / 2 % 3",
        "true ? 1 : false ? 2 : 3",
        "!true || -variables.n < 0",
        "variables.m['k'] + 'a\\u00e9\\n\\x41\\101' + r'\\d' + '''q'q''' + \"\"\"z\"z\"\"\"",
        "'abc'.matches('^[a-c]+$') && !'ab'.matches('c')",
        "[[1, 2], [3]].map(x, x.map(y, y + 1)) == [[2, 3], [4]]",
        "timestamp('2026-01-31T09:30:00Z').getFullYear() == 2026",
        "timestamp('2026-01-31T09:30:00Z').getDayOfWeek()",
        "timestamp('2026-01-31T09:30:00Z').getDayOfYear()",
        "timestamp('2026-01-31T09:30:00Z').getDate() + timestamp('2026-01-31T09:30:00Z').getMonth()",
        "duration('1h30m') + duration('30m') == duration('2h')",
        "timestamp('2026-01-31T10:00:00Z') - timestamp('2026-01-31T09:30:00Z') == duration('30m')",
        "int('12') + int(3.9) + int(-3.9) == 12",
        "0x1F + 1 > 1 && 1e2 + .5 > 100.0",
        "{'a': 1, 'b': {'c': [1, 2, 3]}}.b.c[2]",
        "type(1) == int && type('a') == string && type([]) == list && type({}) == map",
        "type(null) == null_type && type(true) == bool && type(1.5) == double",
        "[1, 2].exists_one(x, x == 1) && [1, 2].all(x, x > 0) && ![].exists(x, true)",
        "'a' in {'a': 1} && !('b' in ['a'])",
    ],
)
def test_same_as_the_library_where_it_matters(source: str) -> None:
    assert not isinstance(theirs(source), Exception), theirs(source)
    assert ours(source) == theirs(source)


@given(st.text(alphabet="ab.()[]{}+-*!&|=<>?:,'\" 1", max_size=14))
def test_we_parse_nothing_that_the_library_refuses(source: str) -> None:
    try:
        compile_expression(source)
    except ExpressionError:
        return
    cel.compile(source)
