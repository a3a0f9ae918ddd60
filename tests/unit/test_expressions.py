"""Expressions: evaluation, linting and limits."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.expressions import (
    ExpressionError,
    cleans_up,
    compile_condition,
    compile_expression,
    evaluate,
    evaluate_when,
    render,
    render_tree,
    secret_names,
)
from pilothouse.expressions.values import MAX_STEPS, Budget

CONTEXT: dict[str, Any] = {
    "variables": {"tag": "v1.4", "count": "3", "flag": "true", "a-b": "hyphen"},
    "run": {"branch": "main", "number": 7, "startedAt": "2026-01-31T09:30:00Z", "labels": ["x", "y"]},
    "jobs": {"unit-test": {"outputs": {"coverage": 81.5}}, "build": {"outputs": {}}},
    "secrets": {"TOKEN": "hunter2"},
    "env": {},
    "job": {"name": "deploy"},
    "step": {},
}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('variables.tag + "-rc"', "v1.4-rc"),
        ('jobs["unit-test"].outputs.coverage > 80', True),
        ('run.branch in ["main", "release"]', True),
        ('run.branch == "main" ? "prod" : "dev"', "prod"),
        ("int(variables.count) * 2 - 1", 5),
        ("has(jobs.build.outputs.tag)", False),
        ('!has(variables.x) || variables.x == "1"', True),
        ("variables.x == '1' || true", True),
        ("run.labels.exists(l, l == 'y') && run.labels.all(l, size(l) == 1)", True),
        ("run.labels.map(l, l + '!')", ["x!", "y!"]),
        ("[1, 2, 3].filter(n, n % 2 == 1).map(n, n > 1, n * n)", [9]),
        ("[1, 2, 3].exists_one(n, n > 2)", True),
        ('variables.tag.matches("^v[0-9]+")', True),
        ('variables.tag.startsWith("v") && variables.tag.endsWith("4") && variables.tag.contains(".")', True),
        ('timestamp(run.startedAt) + duration("1h30m")', "2026-01-31T11:00:00Z"),
        ('duration("90m") - duration("30m")', "1h"),
        ("timestamp(run.startedAt).getMonth()", 0),
        ("{'a': [1, 2.5, null, true], 'b': {}}", {"a": [1, 2.5, None, True], "b": {}}),
        ("string(1.0) + string(true) + string(run.number)", "1true7"),
        ("'A,b'.lowerAscii().split(',').join('-')", "a-b"),
        ("type(run.number) == int && type('') == string", True),
        ("-7 / 2 == -3 && -7 % 2 == -1 && 1 == 1.0 && true != 1", True),
        ("-9223372036854775808 < 0", True),
        (r"'é\n\u00e9\x41' + r'\n'", "é\néA\\n"),
        ("1 + 2 * 3 - 4 // a remark", 3),
        ("run.number == 7 ? [1][0] : [1][9]", 1),
    ],
)
def test_gives_the_value(source: str, value: object) -> None:
    result = evaluate(source, CONTEXT)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("source", "message", "offset"),
    [
        ("variables.nope", 'there is no key "nope"; test with has(...) if it may be missing', 0),
        ("1 + jobs.build.outputs.tag", 'there is no key "tag"; test with has(...) if it may be missing', 4),
        ('"a" + 1', "cannot compute string + int; convert with string(...)", 4),
        ("1 + 1.5", "cannot compute int + double; convert with int(...) or double(...)", 2),
        ("1 / 0", "division by zero", 2),
        ("9223372036854775807 + 1", "the integer does not fit into 64 bits", 20),
        ("run.labels[2]", "the list has 2 elements, there is none at [2]", 0),
        ("run.number.x", "an int has no field x", 0),
        ("run.number && true", '"&&" needs true or false, this is an int', 0),
        ('int("x")', "int() cannot read this string as an integer", 0),
        ("run.number.startsWith('a')", "startsWith() needs a string, this is an int", 11),
        ("'a' < 1", "cannot compare string < int", 4),
        ("variables[secrets.TOKEN]", "there is no such key", 0),
        ("'x'.matches('[')", "the pattern of matches() is not a valid regular expression", 4),
        ("[true][true]", "a list cannot be indexed by a bool", 0),
    ],
)
def test_failure_has_place_and_reason_without_values(source: str, message: str, offset: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(source, CONTEXT)
    assert (caught.value.code, caught.value.message) == ("EXPRESSION_FAILED", message)
    assert caught.value.offset == offset
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "code", "message", "offset", "expected"),
    [
        ("1 +", "SYNTAX", "the expression ends too early", 3, "a value"),
        ("", "SYNTAX", "the expression is empty", 0, ""),
        ("run.branch = 'x'", "SYNTAX", "unexpected character '='", 11, "== to compare"),
        ("true and false", "SYNTAX", 'unexpected "and"', 5, '"&&" instead of "and"'),
        ("not true", "SYNTAX", 'unexpected "true"', 4, '"!" instead of "not"'),
        ("[1, 2", "SYNTAX", "the expression ends too early", 5, '","'),
        ("run..x", "SYNTAX", 'unexpected "."', 4, 'a name after "."'),
        ("size(1,)", "SYNTAX", 'unexpected ")"', 7, "an argument"),
        ("'abc", "SYNTAX", "the text that opens with ' is never closed", 0, ""),
        (
            r"'\d'",
            "SYNTAX",
            r"unknown escape \d",
            1,
            r"a backslash itself is written \\, or the text as r'...'",
        ),
        ("b'x'", "SYNTAX", "byte strings are not supported", 0, ""),
        ("99999999999999999999", "SYNTAX", "the integer does not fit into 64 bits", 0, ""),
        (
            "run.labels.map(1, 2)",
            "SYNTAX",
            "map() takes a name and an expression",
            11,
            "map(name, expression)",
        ),
        ("has(run)", "SYNTAX", "has() takes one field", 0, "has(variables.name)"),
        (
            "jobs.unit-test.outputs.x > 1",
            "SYNTAX",
            "jobs.unit-test is read as a subtraction, because of the hyphen",
            0,
            'jobs["unit-test"]',
        ),
        (
            "1 + env.A-B-C",
            "SYNTAX",
            "env.A-B-C is read as a subtraction, because of the hyphen",
            4,
            'env["A-B-C"]',
        ),
        (
            "run.branch == main",
            "UNKNOWN_NAME",
            'unknown name "main"; if it is meant as text, write "main" in quotes',
            14,
            "one of variables, env, run, job, step, jobs, secrets",
        ),
        (
            "variable.x",
            "UNKNOWN_NAME",
            'unknown name "variable"; did you mean variables?',
            0,
            "one of variables, env, run, job, step, jobs, secrets",
        ),
        (
            "'a'.startswith('a')",
            "UNKNOWN_NAME",
            "unknown function startswith(); did you mean startsWith()?",
            4,
            "",
        ),
        ("size()", "SYNTAX", "size() is given 0 arguments, its receiver included", 0, "1"),
        ("always()", "UNKNOWN_NAME", "always() is only available in when", 0, ""),
        (
            "secrets[run.x]",
            "UNKNOWN_NAME",
            "a secret must be named in the text of the expression, so that only it is handed out",
            0,
            "secrets.NAME",
        ),
        ("[1].map(x, x)[0] + x", "UNKNOWN_NAME", 'unknown name "x"; if it is meant', 19, "one of"),
        ("1" * 4097, "TOO_BIG", "the expression has 4097 characters, the bound is 4096", 0, ""),
        ("(" * 65 + "1", "TOO_BIG", "the expression is nested more than 64 deep", 64, ""),
        ("1" + "+1" * 64, "TOO_BIG", "the expression is nested more than 64 deep", 2, ""),
    ],
)
def test_linter_reports_problems(source: str, code: str, message: str, offset: int, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source)
    assert caught.value.code == f"EXPRESSION_{code}"
    assert caught.value.message.startswith(message)
    assert caught.value.offset == offset
    assert caught.value.expected.startswith(expected)
    assert bool(caught.value.expected) == bool(expected)


@pytest.mark.parametrize(
    "source", ["variables.a-variables.b", "run.number - run.x", "run.number-1", "env.a - b.c", "'jobs.a-b'"]
)
def test_real_subtractions_are_left_alone(source: str) -> None:
    try:
        compile_expression(source)
    except ExpressionError as error:
        assert "hyphen" not in error.message


def test_references_of_an_expression() -> None:
    expression = compile_expression(
        'secrets.TOKEN + secrets["OTHER"] + jobs["unit-test"].outputs.x + jobs.build.outputs.y + env.A '
        "+ ['q'].map(run, run)[0]"
    )
    assert expression.secrets == {"TOKEN", "OTHER"}
    assert expression.jobs == {"unit-test", "build"}
    assert expression.roots == {"secrets", "jobs", "env"}
    assert secret_names({"a": ["${{ secrets.A }}", {"b": "x${{ secrets['B'] }}y"}], "c": 1}) == {"A", "B"}


# -- texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${{ run.number }}", 7),
        ("${{ run.labels }}", ["x", "y"]),
        (" ${{ run.number }}", " 7"),
        ("app:${{ variables.tag }}-${{ run.number }}", "app:v1.4-7"),
        (
            "${{ true }}/${{ 1.0 }}/${{ null }}/${{ ['a', 1] }}/${{ {'k': {'n': 1}} }}",
            'true/1//["a",1]/{"k":{"n":1}}',
        ),
        ("${{ '}}' }}", "}}"),
        ('${{ "a\\"}}" + r\'\\\' }}', 'a"}}\\'),
        ("${{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
        ("$${{ run.number }} costs $5", "${{ run.number }} costs $5"),
        ("$$${{ x", "$${{ x"),
        ("a }} b", "a }} b"),
    ],
)
def test_renders(text: str, value: object) -> None:
    assert render(text, CONTEXT) == value


def test_renders_a_tree() -> None:
    tree = {"a": ["${{ run.number }}", {"${{ key }}": "n${{ run.number }}"}], "b": 1, "c": None}
    assert render_tree(tree, CONTEXT) == {"a": [7, {"${{ key }}": "n7"}], "b": 1, "c": None}


def test_a_text_that_fails_names_the_expression() -> None:
    with pytest.raises(ExpressionError) as caught:
        render("ab ${{ run.number }} ${{ run.nope }}", CONTEXT)
    assert caught.value.offset == 21
    assert caught.value.message.startswith('in ${{ run.nope }}: there is no key "nope"')


def test_an_expression_that_is_never_closed() -> None:
    with pytest.raises(ExpressionError) as caught:
        render("ab ${{ run.number }", CONTEXT)
    assert (caught.value.message, caught.value.offset) == ("${{ is never closed", 3)
    assert caught.value.expected == "}} at its end"


# -- conditions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "success", "failure", "cancelled"),
    [
        ("", True, False, False),
        ("always()", True, True, True),
        ("success()", True, False, False),
        ("failure()", False, True, False),
        ("${{ always() && run.number == 7 }}", True, True, True),
        ("run.branch == 'main'", True, False, False),
        ("run.branch == 'dev'", False, False, False),
        ("true", True, False, False),
        ("success() || failure()", True, True, False),
        ("cancelled()", False, False, True),
        ("!cancelled()", True, True, False),
        ("!failure()", True, False, False),
        ("!success()", False, True, False),
        ("failure() || cancelled()", False, True, True),
        ("always() && !failure()", True, False, True),
    ],
)
def test_when(when: str, success: bool, failure: bool, cancelled: bool) -> None:
    found = [evaluate_when(when, CONTEXT, outcome=outcome) for outcome in ("success", "failure", "cancelled")]
    assert found == [success, failure, cancelled]


def test_work_that_cleans_up_after_a_cancel_tells_how_its_own_job_goes() -> None:
    whens = {"success()": True, "failure()": False, "cancelled()": True, "!cancelled()": False, "": True}
    assert {when: evaluate_when(when, CONTEXT, outcome="success", cancelled=True) for when in whens} == whens


def test_which_conditions_may_hold_after_a_cancel() -> None:
    whens = [
        "always()",
        "cancelled()",
        "!cancelled()",
        "",
        "success()",
        "failure()",
        "true",
        "not CEL",
        "'always()'",
    ]
    assert [when for when in whens if cleans_up(when)] == ["always()", "cancelled()", "!cancelled()"]


@pytest.mark.parametrize(
    ("source", "tested", "needed"),
    [
        ("secrets.A", set(), {"A"}),
        ("has(secrets.A) ? secrets.A : ''", {("secrets", "A")}, set()),
        ('"A" in secrets ? secrets["A"] : secrets.B', {("secrets", "A")}, {"B"}),
        ('has(variables.x) && "y" in variables', {("variables", "x"), ("variables", "y")}, set()),
        ('["v"].exists(variables, has(variables.x))', set(), set()),
    ],
)
def test_status_checks_of_an_expression(source: str, tested: set[object], needed: set[str]) -> None:
    expression = compile_expression(source)
    assert expression.tested == tested
    assert expression.needed_secrets == needed


@pytest.mark.parametrize(
    ("when", "code", "message", "offset"),
    [
        ("'text'", "NOT_BOOLEAN", "when needs a condition that gives true or false", 0),
        ("${{ 1 + 1 }}", "NOT_BOOLEAN", "when needs a condition that gives true or false", 4),
        ("secrets.A == ''", "UNKNOWN_NAME", "secrets are not available in when", 0),
        ("${{ nope }}", "UNKNOWN_NAME", 'unknown name "nope"', 4),
        ("failure(1)", "UNKNOWN_NAME", "failure() takes no arguments", 0),
    ],
)
def test_condition_that_cannot_be_one(when: str, code: str, message: str, offset: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_condition(when)
    assert caught.value.code == f"EXPRESSION_{code}"
    assert caught.value.message.startswith(message)
    assert caught.value.offset == offset


def test_condition_that_turns_out_not_to_be_one() -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate_when("run.branch", CONTEXT, outcome="success")
    assert caught.value.code == "EXPRESSION_NOT_BOOLEAN"


# -- bounds -----------------------------------------------------------------------------------------------

HOSTILE = {
    "nested loops": "variables.list.map(x, variables.list.map(y, x + y))",
    "errors in nested loops": "variables.list.exists(x, variables.list.exists(y, y.z))",
    "absorbed errors": "variables.list.all(x, x.y || true)",
    "growing text": "['a']" + ".map(x, x + x)" * 40 + "[0]",
    "growing tree": "[1]" + ".map(x, [x, x, x, x, x, x])" * 30,
    "equal trees": "[1]" + ".map(x, [x, x, x, x])" * 30 + " == [1]" + ".map(x, [x, x, x, x])" * 30,
    "long text": "variables.text + variables.text",
    "texts in a loop": "variables.list.map(x, variables.half + variables.half)",
    "replacing": "variables.half.replace('a', variables.half)",
    "splitting": "variables.list.map(x, variables.text.split('').join(''))",
    "case": "variables.list.map(x, variables.text.upperAscii())",
    "searching": "variables.list.map(x, variables.text.contains(variables.needle))",
    "patterns": "variables.list.all(x, !variables.text.matches('(.*.*.*a?)*x'))",
    "many patterns": "variables.list.all(x, !'a'.matches('" + ".*" * 120 + "x'))",
    "comparing": "variables.list.all(x, variables.list == variables.list)",
    "membership": "variables.list.all(x, !(-1 in variables.list))",
}
BIG = {
    "variables": {
        "list": list(range(10_000)),
        "text": "a" * 65_536,
        "half": "a" * 32_000,
        "needle": "a" * 3000 + "b" + "a" * 3000,
    }
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_expressions_are_stopped(name: str) -> None:
    compiled = compile_expression(HOSTILE[name])
    started = time.process_time()
    with pytest.raises(ExpressionError) as caught:
        evaluate(compiled, BIG)
    assert caught.value.code == "EXPRESSION_TOO_EXPENSIVE"
    # Takes milliseconds; the bound only shows that the budget works.
    assert time.process_time() - started < 2


def test_patterns_are_bounded() -> None:
    with pytest.raises(ExpressionError, match="repeats more than 64 times by count"):
        evaluate("variables.a.matches('((a{1,99}){1,99}){1,99}')", {"variables": {"a": "a"}})
    with pytest.raises(ExpressionError, match="has 300 characters, the bound is 256"):
        evaluate("variables.a.matches('" + "a" * 300 + "')", {"variables": {"a": "a"}})
    # Short, but its automaton has 76,000 states: one for each range of letters, 64 times.
    with pytest.raises(ExpressionError, match="the pattern of matches\\(\\) is too large"):
        evaluate(r"variables.a.matches('\\pL{64}')", {"variables": {"a": "a"}})


def test_patterns_have_the_syntax_of_re2() -> None:
    text = {"variables": {"a": "v1.4\u0663 é\nz", "broken": "\ud800"}}
    assert evaluate(r"variables.a.matches('^v\\d+\\.\\d')", text) is True
    assert evaluate(r"variables.a.matches('4\\d')", text) is False  # \d is ASCII
    assert evaluate(r"variables.a.matches('(?m)^z$')", text) is True
    assert evaluate(r"variables.a.matches(' . z')", text) is False  # . is not a line break
    assert evaluate(r"variables.a.matches('\\pN \\pL')", text) is True
    assert evaluate(r"variables.broken.matches('^.$')", text) is True


def test_deep_values_are_refused_not_overflowed() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for source in ("variables.x", "variables.x == variables.x"):
        with pytest.raises(ExpressionError, match="more than 64 deep"):
            evaluate(source, {"variables": {"x": deep}})


def test_one_budget_bounds_a_whole_tree() -> None:
    tree = ["${{ variables.list.filter(x, x < 0) }}"] * 50
    with pytest.raises(ExpressionError) as caught:
        render_tree(tree, {"variables": {"list": list(range(2000))}})
    assert caught.value.code == "EXPRESSION_TOO_EXPENSIVE"


def test_a_text_of_many_expressions_is_bounded() -> None:
    with pytest.raises(ExpressionError) as caught:
        render("${{ variables.text }}" * 5, BIG, budget=Budget(100 * MAX_STEPS))
    assert caught.value.code == "EXPRESSION_TOO_EXPENSIVE"


@given(st.text(max_size=60) | st.text(alphabet="ab.()[]{}+-*/%!&|=<>?:,'\"\\ 1runjobs\n", max_size=60))
def test_any_text_compiles_or_gives_an_expression_error(source: str) -> None:
    for attempt in (source, f"run.{source}", f"[1].map({source})"):
        try:
            evaluate(compile_expression(attempt), CONTEXT)
        except ExpressionError as error:
            assert 0 <= error.offset <= len(attempt)


@given(st.text(max_size=60) | st.text(alphabet="${{}}'\"r\\ 1", max_size=40))
def test_any_text_renders_or_gives_an_expression_error(text: str) -> None:
    try:
        result = render(text, CONTEXT)
    except ExpressionError as error:
        assert 0 <= error.offset <= len(text)
    else:
        assert "${{" in text or result == text
