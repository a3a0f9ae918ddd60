"""Every function and operator of expressions: values, whole messages of failures, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.expressions import ExpressionError, compile_condition, compile_expression, evaluate
from pilothouse.expressions.values import MAX_SIZE, MAX_STEPS, Budget, BudgetSpent

MOMENT = "timestamp('2026-01-31T09:30:05.250Z')"
CONTEXT: dict[str, Any] = {
    "variables": {
        "nan": float("nan"),
        "large": 1e19,
        "list": [1, 2],
        "map": {"k": 1, 2: "two"},
        "none": None,
        "tuple": (1, "a"),
        "text": "x" * 65_536,
        "words": ["a"] * 800,
    }
}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("size('abc') + size([1, 2]) + size({'a': 1}) + variables.tuple.size()", 8),
        ("'abc'.contains('b') && !'abc'.contains('d')", True),
        ("'abc'.startsWith('ab') && !'abc'.startsWith('b')", True),
        ("'abc'.endsWith('bc') && !'abc'.endsWith('b')", True),
        ("[int(3.9), int(-3.9), int('+12'), int('-5'), int(7), int(2.0)]", [3, -3, 12, -5, 7, 2]),
        ("int('9223372036854775807')", 9223372036854775807),
        ("int('-9223372036854775808')", -9223372036854775808),
        ("int(timestamp('1970-01-01T00:00:09.9Z'))", 9),
        ("[uint(0), uint('7')]", [0, 7]),
        ("[double('1.5'), double(3), double(' 2 '), double('1e3')]", [1.5, 3.0, 2.0, 1000.0]),
        ("['true', 'True', 'TRUE', 't', '1', true].all(w, bool(w))", True),
        ("['false', 'False', 'FALSE', 'f', '0', false].exists(w, bool(w))", False),
        ("[string('a'), string(true), string(false), string(-2), string(1.0), string(1.5)]", ["a", "true", "false", "-2", "1", "1.5"]),
        ("string(timestamp('2026-01-31T10:30:00+01:00'))", "2026-01-31T09:30:00Z"),
        ("[timestamp('2026-01-31'), timestamp('2026-01-31T09:30:00')]", ["2026-01-31T00:00:00Z", "2026-01-31T09:30:00Z"]),
        (f"timestamp({MOMENT}) == {MOMENT}", True),
        ("[duration('1h30m'), duration('-90s'), duration(duration('1ms'))]", ["1h30m", "-1m30s", "1ms"]),
        (f"{MOMENT}.getFullYear()", 2026),
        (f"{MOMENT}.getMonth()", 0),
        (f"{MOMENT}.getDate()", 31),
        (f"{MOMENT}.getDayOfMonth()", 30),
        (f"{MOMENT}.getDayOfWeek()", 6),
        ("timestamp('2026-02-01T00:00:00Z').getDayOfWeek()", 0),
        (f"{MOMENT}.getDayOfYear()", 30),
        (f"{MOMENT}.getHours()", 9),
        (f"{MOMENT}.getMinutes()", 30),
        (f"{MOMENT}.getSeconds()", 5),
        (f"{MOMENT}.getMilliseconds()", 250),
        ("'aBÄß'.lowerAscii() + 'aBäß'.upperAscii()", "abÄßABäß"),
        ("' \\ta b\\n'.trim()", "a b"),
        ("'a,b,,c'.split(',') + 'abc'.split('')", ["a", "b", "", "c", "a", "b", "c"]),
        ("['a', 'b'].join() + ['c', 'd'].join('--') + [].join('-')", "abc--d"),
        ("'abab'.replace('b', 'cc') + 'ab'.replace('', '-') + 'ab'.replace('x', 'yy')", "accacc-a-b-ab"),
        ("['abc'.substring(1), 'abc'.substring(0, 2), 'abc'.substring(3), 'abc'.substring(1, 9)]", ["bc", "ab", "", "bc"]),
        ("['abcb'.indexOf('b'), 'abc'.indexOf('d'), 'abc'.indexOf('')]", [1, -1, 0]),
        ("[null, true, 1, 1.5, 'a', {}, [], variables.tuple].map(v, string(type(v)))", ["null_type", "bool", "int", "double", "string", "map", "list", "list"]),
        (f"[string(type({MOMENT})), string(type(duration('1s'))), string(type(int))]", ["timestamp", "duration", "type"]),
        ("dyn(1) == 1 && type(1) == int && type(1) != string", True),
        ("[7 / 2, -7 / 2, 7 / -2, -7 / -2, 7 % 2, -7 % 2, 7 % -2, -7 % -2, 0 / 5, 0 % -5]", [3, -3, -3, 3, 1, -1, 1, -1, 0, 0]),
        ("[5 - 3, 5 * 3, 2.5 * 2.0, 7.0 / 2.0, 1.5 - 0.5, 0.25 + 0.25]", [2, 15, 5.0, 3.5, 1.0, 0.5]),
        ("[-(1), -(1.5), -(-(2))]", [-1, -1.5, 2]),
        ("[-duration('1h'), duration('1h') - duration('2h'), duration('1h') + duration('1m')]", ["-1h", "-1h", "1h1m"]),
        (f"[{MOMENT} + duration('1h'), duration('1h') + {MOMENT}, {MOMENT} - duration('1h')]", ["2026-01-31T10:30:05.250000Z"] * 2 + ["2026-01-31T08:30:05.250000Z"]),
        (f"{MOMENT} - timestamp('2026-01-31T09:30:00Z') == duration('5250ms')", True),
        ("[1 in [1, 2], 3 in [1, 2], 1.0 in [1], 'k' in variables.map, 2 in variables.map, true in {1: 2}]", [True, False, True, True, True, False]),
        ("[1 in variables.tuple, '1' in variables.tuple]", [True, False]),
        ("[variables.map.k, variables.map['k'], variables.map[2], variables.list[1], variables.tuple[0]]", [1, 1, "two", 2, 1]),
        ("[has(variables.map.k), has(variables.map.x)]", [True, False]),
        ("true ? 1 : 1 / 0", 1),
        ("false ? 1 / 0 : 2", 2),
        ("[true || 1 / 0 == 1, 1 / 0 == 1 || true, false && 1 / 0 == 1, 1 / 0 == 1 && false]", [True, True, False, False]),
        ("[[1, 2].all(x, x > 0), [1, 2].all(x, x > 1), [].all(x, false), [0, 1].all(x, 1 / x > 1)]", [True, False, True, False]),
        ("[[1, 2].exists(x, x > 1), [1, 2].exists(x, x > 2), [].exists(x, true), [0, 1].exists(x, 1 / x == 1)]", [True, False, False, True]),
        ("[[1, 2].exists_one(x, x > 1), [1, 2].exists_one(x, x > 0), [1].exists_one(x, x > 1)]", [True, False, False]),
        ("[1, 2, 3].filter(x, x != 2) + [1, 2].map(x, x * 2) + [1, 2].map(x, x > 1, x * 10)", [1, 3, 2, 4, 20]),
        ("variables.map.map(k, k)", ["k", 2]),
        ("[1, 2].map(x, [3].map(x, x)[0] + x)", [4, 5]),
        ("{'a': 1, 2: 'b', 'a': 3}", {"a": 3, "2": "b"}),
    ],
)  # fmt: skip
def test_gives(source: str, value: Any) -> None:
    found = evaluate(source, CONTEXT)
    assert found == value
    assert repr(found) == repr(value), "also of the same types"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("size(1)", "size() needs a string, a list or a map, this is an int"),
        ("'a'.contains(1)", "contains() needs a string, this is an int"),
        ("[1].contains('a')", "contains() needs a string, this is a list"),
        ("'a'.endsWith(null)", "endsWith() needs a string, this is a null_type"),
        ("'a'.matches(1)", "matches() needs a string, this is an int"),
        ("int(true)", "int() cannot read this bool as an integer"),
        ("int(null)", "int() cannot read this null_type as an integer"),
        ("int('1.5')", "int() cannot read this string as an integer"),
        ("int('12345678901234567890')", "int() cannot read this string as an integer"),
        ("int('9999999999999999999')", "int() cannot read this string as an integer"),
        ("int(variables.large)", "int() cannot read this double as an integer"),
        ("int(variables.nan)", "int() cannot read this double as an integer"),
        ("int([])", "int() cannot read this list as an integer"),
        ("uint(-1)", "uint() needs a number that is not negative"),
        ("double('x')", "double() cannot read this string as a number"),
        (f"double('{'1' * 65}')", "double() cannot read this string as a number"),
        ("double(true)", "double() cannot read this bool as a number"),
        ("bool('yes')", 'bool() needs "true" or "false", this is another string'),
        ("bool(1)", 'bool() needs "true" or "false", this is another int'),
        ("string(null)", "cannot turn a null_type into text"),
        ("string([])", "cannot turn a list into text"),
        ("timestamp(1)", "timestamp() needs a string, this is an int"),
        ("timestamp('soon')", "timestamp() needs RFC 3339, such as 2026-01-31T09:30:00Z"),
        ("timestamp('0001-01-01T00:00:00+23:00')", "timestamp() needs RFC 3339, such as 2026-01-31T09:30:00Z"),
        ("duration(1)", "duration() needs a string, this is an int"),
        ("duration('1 year')", "duration() needs a duration such as 30s, 5m or 1h30m"),
        ("'a'.getHours()", "getHours() needs a timestamp, this is a string"),
        ("duration('1s').getMilliseconds()", "getMilliseconds() needs a timestamp, this is a duration"),
        ("1.lowerAscii()", "lowerAscii() needs a string, this is an int"),
        ("[].trim()", "trim() needs a string, this is a list"),
        ("'a'.split(1)", "split() needs a string, this is an int"),
        ("1.split('')", "split() needs a string, this is an int"),
        ("'a'.join()", "join() needs a list, this is a string"),
        ("[].join(1)", "join() needs a string, this is an int"),
        ("['a', 1].join()", "join() needs a string, this is an int"),
        ("'a'.replace('a', 1)", "replace() needs a string, this is an int"),
        ("'a'.substring('a')", "substring() needs an integer, this is a string"),
        ("'a'.substring(true)", "substring() needs an integer, this is a bool"),
        ("'a'.substring(0, 1.5)", "substring() needs an integer, this is a double"),
        ("1.substring(0)", "substring() needs a string, this is an int"),
        ("'abc'.substring(-1)", "substring() has bounds outside of the text"),
        ("'abc'.substring(2, 1)", "substring() has bounds outside of the text"),
        ("'abc'.substring(4)", "substring() has bounds outside of the text"),
        ("'a'.indexOf(1)", "indexOf() needs a string, this is an int"),
        ("!1", '"!" needs true or false, this is an int'),
        ("-'a'", "cannot negate a string"),
        ("-true", "cannot negate a bool"),
        ("1 || true || 2", None),
        ("1 || false", '"||" needs true or false, this is an int'),
        ("true && 'a'", '"&&" needs true or false, this is a string'),
        ("1 ? 2 : 3", '"?" needs true or false, this is an int'),
        ("[1].filter(x, x)", '"filter" needs true or false, this is an int'),
        ("[1].map(x, x, 1)", '"map" needs true or false, this is an int'),
        ("[1].all(x, x)", '"all" needs true or false, this is an int'),
        ("1.all(x, true)", "all() needs a list or a map, this is an int"),
        ("'a'.map(x, x)", "map() needs a list or a map, this is a string"),
        ("true + true", "cannot compute bool + bool"),
        ("'a' + 1", "cannot compute string + int; convert with string(...)"),
        ("1 + 'a'", "cannot compute int + string; convert with string(...)"),
        ("'a' - 'b'", "cannot compute string - string"),
        ("'a' * 2", "cannot compute string * int"),
        ("1 - 1.5", "cannot compute int - double; convert with int(...) or double(...)"),
        ("1.5 % 1.0", "% needs integers"),
        ("1 % 0", "division by zero"),
        ("1.0 / 0.0", "division by zero"),
        ("9223372036854775807 + 1", "the integer does not fit into 64 bits"),
        ("-9223372036854775807 - 2", "the integer does not fit into 64 bits"),
        ("9223372036854775807 * 2", "the integer does not fit into 64 bits"),
        ("-(-9223372036854775807 - 1)", "the integer does not fit into 64 bits"),
        ("(-9223372036854775807 - 1) / -1", "the integer does not fit into 64 bits"),
        ("timestamp('9999-12-31T23:00:00Z') + duration('2h')", "the time lies outside of the years 1 to 9999"),
        ("timestamp('0001-01-01T01:00:00Z') - duration('2h')", "the time lies outside of the years 1 to 9999"),
        ("duration('1s') - timestamp('2026-01-31')", "cannot compute duration - timestamp"),
        ("'1' < 1", "cannot compare string < int"),
        ("null >= null", "cannot compare null_type >= null_type"),
        ("[1] > [2]", "cannot compare list > list"),
        ("1 in 'abc'", '"in" needs a list or a map on its right, this is a string'),
        ("1.5 in {1: 2}", "the key of a map is a string or an integer, not a double"),
        ("{1.5: 1}", "the key of a map must be a string or an integer, not a double"),
        ("{true: 1}", "the key of a map must be a string or an integer, not a bool"),
        ("variables.list.x", "a list has no field x"),
        ("has(variables.list.x)", "a list has no field x"),
        ("variables.map.x", 'there is no key "x"; test with has(...) if it may be missing'),
        ("variables.map[3]", "there is no key 3; test with has(...) if it may be missing"),
        (f"variables['{'k' * 65}']", f'there is no key "{"k" * 64}"; test with has(...) if it may be missing'),
        ("variables['a' + 'b']", "there is no such key"),
        ("variables.list[2]", "the list has 2 elements, there is none at [2]"),
        ("variables.list[1 + 1]", "the list has 2 elements, there is none at this index"),
        ("variables.list[0 - 1]", "the list has 2 elements, there is none at this index"),
        ("variables.list['a']", "a list cannot be indexed by a string"),
        ("variables.map[true]", "a map cannot be indexed by a bool"),
        ("variables.map[1.5]", "a map cannot be indexed by a double"),
        ("'abc'[0]", "a string cannot be indexed by an int"),
        ("variables.nan", "the result is not a finite number"),
        ("run.number", "run has no value here"),
    ],
)  # fmt: skip
def test_fails(source: str, message: str | None) -> None:
    if message is None:
        assert evaluate(source, CONTEXT) is True
        return
    with pytest.raises(ExpressionError) as caught:
        evaluate(source, CONTEXT)
    assert (caught.value.code, caught.value.message) == ("EXPRESSION_FAILED", message)


def test_the_first_of_several_failures_is_told() -> None:
    for source in ("1 / 0 == 1 || variables.x", "[0, 1].all(x, x == 0 ? 1 / x == 1 : variables.x)"):
        with pytest.raises(ExpressionError, match="division by zero"):
            evaluate(source, CONTEXT)


# -- the budget ---------------------------------------------------------------------------------------------


def test_a_budget_is_spent_to_the_step() -> None:
    budget = Budget(5)
    budget.spend(3)
    budget.spend(2)
    assert budget.steps == 0
    with pytest.raises(BudgetSpent) as caught:
        budget.spend(1)
    assert str(caught.value) == "it takes too long to evaluate: too many steps"
    assert Budget().steps == MAX_STEPS
    budget = Budget(1024)
    budget.make(MAX_SIZE)
    assert budget.steps == 0
    with pytest.raises(BudgetSpent) as caught:
        Budget().make(MAX_SIZE + 1)
    assert str(caught.value) == "it makes a value of 65537 characters or elements, the bound is 65536"


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        ("1", 2),  # one for the node, one for the result
        ("1 + 1", 4),
        ("variables.list", 5),  # two nodes, and a list of two
        ("[1, 2].map(x, x)", 9),
        ("variables.text.contains('y')", 5 + 256),
        ("variables.text.indexOf('y')", 5 + 256),
        ("variables.text.trim().size()", 5 + 1024),
        ("variables.text.split('y').size()", 6 + 1024),
        ("variables.text.split('').size()", 6 + 1024 + 8192),
        ("variables.words.join('').size()", 6 + 100 + 12),
        ("variables.words.join('--').size()", 6 + 100 + 37),
        ("variables.text.replace('y', 'zz').size()", 7 + 1024 + 1024),
        ("variables.words.join('').replace('a', 'bbb').size()", 9 + 100 + 12 + 12 + 37),
        ("(variables.words.join('') + variables.words.join('')).size()", 11 + 2 * 112 + 25),
        ("variables.text < variables.text", 6 + 64),
        ("variables.text == variables.text", 6 + 1 + 64),
        ("'a'.matches('b')", 4 + 500 + 1),
        ("variables.text.matches('yz')", 5 + 1024 + 500 + 2 * 257),
        ("'a'.matches('a{2}b{3,4}')", 4 + 500 + 10 * 8),
        ("'a'.matches('a{,5}b{2,}')", 4 + 500 + 10 * 10),
    ],
)
def test_what_it_costs(source: str, steps: int) -> None:
    budget = Budget()
    evaluate(source, CONTEXT, budget=budget)
    assert MAX_STEPS - budget.steps == steps


# -- what is known of an expression before it is evaluated -------------------------------------------------


@pytest.mark.parametrize(
    ("source", "condition"),
    [
        ("true", True),
        ("1", False),
        ("null", False),
        ("[true]", False),
        ("{'a': true}", False),
        ("1 == 1", True),
        ("1 + 1", False),
        ("1 - 1", False),
        ("2 * 2", False),
        ("2 / 2", False),
        ("2 % 2", False),
        ("-run.number", False),
        ("!run.dirty", True),
        ("[1].map(x, x)", False),
        ("[1].filter(x, true)", False),
        ("[1].exists(x, true)", True),
        ("variables.x", True),
        ("size('a')", False),
        ("string(1)", False),
        ("int(1)", False),
        ("double(1)", False),
        ("uint(1)", False),
        ("[].join()", False),
        ("'a'.split('')", False),
        ("'a'.replace('a', 'b')", False),
        ("bool('true')", True),
        ("true ? 1 : 2", True),
    ],
)
def test_what_may_be_a_condition(source: str, condition: bool) -> None:
    if condition:
        compile_condition(source)
        return
    with pytest.raises(ExpressionError) as caught:
        compile_condition(source)
    assert caught.value.code == "EXPRESSION_NOT_BOOLEAN"


@pytest.mark.parametrize(
    ("source", "message", "expected"),
    [
        ("jbos.x", 'unknown name "jbos"; did you mean jobs?', "one of variables, env, run, job, step, jobs, secrets"),
        ("zzz", 'unknown name "zzz"; if it is meant as text, write "zzz" in quotes', "one of variables, env, run, job, step, jobs, secrets"),
        ("frobnicate(1)", "unknown function frobnicate()", ""),
        ("alway()", "unknown function alway(); did you mean always()?", ""),
        ("success()", "success() is only available in when", ""),
        ("join()", "join() is given 0 arguments, its receiver included", "1 to 2"),
        ("'a'.replace('b')", "replace() is given 2 arguments, its receiver included", "3"),
        ("[].join('a', 'b')", "join() is given 3 arguments, its receiver included", "1 to 2"),
    ],
)  # fmt: skip
def test_names_that_are_not_known(source: str, message: str, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source)
    assert (caught.value.message, caught.value.expected) == (message, expected)
