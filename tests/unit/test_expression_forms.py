"""The forms of expressions: literals, trees with their places, texts with expressions in them, bounds of length."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pilothouse.expressions import (
    ExpressionError,
    check_length,
    compile_condition,
    compile_expression,
    evaluate,
    evaluate_when,
    render,
    render_tree,
    secret_names,
)
from pilothouse.expressions.nodes import (
    Binary,
    Call,
    Comprehension,
    Conditional,
    Index,
    ListLiteral,
    Literal,
    MapLiteral,
    Name,
    Select,
    Unary,
)
from pilothouse.expressions.parser import parse
from pilothouse.expressions.templates import TemplateExpression, split_template
from pilothouse.expressions.tokens import Token, tokenize
from pilothouse.expressions.values import Budget

SYNTAX = "EXPRESSION_SYNTAX"
ROOTS = "one of variables, env, run, job, step, jobs, secrets"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("0x1F", 31),
        ("0XfFU", 255),
        ("12u", 12),
        ("12U", 12),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.5e-2", 0.015),
        ("2.0E+1", 20.0),
        ("-9223372036854775808", -9223372036854775808),
        ("-0.5", -0.5),
        ("--1", 1),
        ("'a'", "a"),
        ('"it\'s"', "it's"),
        ("'''it's\n''two'''", "it's\n''two"),
        ('"""say "hi" """', 'say "hi" '),
        (r"r'a\n'", "a\\n"),
        (r'R"a\d"', "a\\d"),
        (r"r'''a'\b'''", "a'\\b"),
        (r"'\a\b\f\n\r\t\v'", "\a\b\f\n\r\t\v"),
        (r"'\\\?\"\'\`'", "\\?\"'`"),
        (r"'\x41\u00e9\U0001F600\101\377'", "Aé😀A\xff"),
        (r"'a\tb\\c'", "a\tb\\c"),
        ("1 // one\n + 2 // two", 3),
        ("[1, 2,]", [1, 2]),
        ("{'a': 1,}", {"a": 1}),
        ("[]", []),
        ("{}", {}),
        ("(((1)))", 1),
        ("!!true", True),
    ],
)
def test_literals(source: str, value: Any) -> None:
    found = evaluate(source, {})
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("source", "message", "offset", "expected"),
    [
        (r"'a\ud800'", r"\ud800 is no Unicode character", 2, ""),
        (r"'\udfff'", r"\udfff is no Unicode character", 1, ""),
        (r"'\U00110000'", r"\U00110000 is no Unicode character", 1, ""),
        (r"'ab\q'", r"unknown escape \q", 3, r"a backslash itself is written \\, or the text as r'...'"),
        ("'ab", "the text that opens with ' is never closed", 0, ""),
        ("1 + 'ab\n'", "the text that opens with ' is never closed", 4, ""),
        ("'ab\r'", "the text that opens with ' is never closed", 0, ""),
        ("'ab\\'", "the text that opens with ' is never closed", 0, ""),
        ('r"""ab"', 'the text that opens with r""" is never closed', 0, ""),
        ("1 + b'x'", "byte strings are not supported", 4, ""),
        ('rb"x"', "byte strings are not supported", 0, ""),
        ("1 & 2", "unexpected character '&'", 2, "&& for and"),
        ("1 | 2", "unexpected character '|'", 2, "|| for or"),
        ("a = 1", "unexpected character '='", 2, "== to compare"),
        ("1 # 2", "unexpected character '#'", 2, ""),
        ("9223372036854775808", "the integer does not fit into 64 bits", 0, ""),
        ("1 + -9223372036854775809", "the integer does not fit into 64 bits", 4, ""),
        ("1 2", 'unexpected "2"', 2, "an operator or the end of the expression"),
        ("(1", "the expression ends too early", 2, '")"'),
        ("[1 2]", 'unexpected "2"', 3, '","'),
        ("[1", "the expression ends too early", 2, '","'),
        ("{'a' 1}", 'unexpected "1"', 5, '":"'),
        ("{'a': 1 'b': 2}", "unexpected \"'b'\"", 8, '","'),
        ("1 ? 2", "the expression ends too early", 5, '":"'),
        ("run.", "the expression ends too early", 4, 'a name after "."'),
        ("run['a'", "the expression ends too early", 7, '"]"'),
        ("1 + in", 'unexpected "in"', 4, "a value"),
        ("1 OR 2", 'unexpected "OR"', 2, '"||" instead of "OR"'),
        ("1 AND 2", 'unexpected "AND"', 2, '"&&" instead of "AND"'),
        ("true or false", 'unexpected "or"', 5, '"||" instead of "or"'),
        ("NOT true", 'unexpected "true"', 4, '"!" instead of "NOT"'),
        ("1 " + "x" * 50, f'unexpected "{"x" * 40}"', 2, "an operator or the end of the expression"),
        ("* 2", 'unexpected "*"', 0, "a value"),
        ("has(run.x, run.y)", "has() takes one field", 0, "has(variables.name)"),
        ("1 + has(1)", "has() takes one field", 4, "has(variables.name)"),
        ("[1].all(x)", "all() takes a name and an expression", 4, "all(name, expression)"),
        ("[1].filter(x, true, 1)", "filter() takes a name and an expression", 4, "filter(name, expression)"),
        ("[1].map('x', 1)", "map() takes a name and an expression", 4, "map(name, expression)"),
    ],
)
def test_what_is_no_expression(source: str, message: str, offset: int, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source)
    error = caught.value
    assert (error.code, error.message, error.offset, error.expected) == (SYNTAX, message, offset, expected)


@pytest.mark.parametrize(
    ("source", "tree"),
    [
        (
            "1 + 2 * 3",
            Binary(2, "+", Literal(0, 1), Binary(6, "*", Literal(4, 2), Literal(8, 3))),
        ),
        (
            "1 - 2 - 3",
            Binary(6, "-", Binary(2, "-", Literal(0, 1), Literal(4, 2)), Literal(8, 3)),
        ),
        (
            "a || b && c == d",
            Binary(2, "||", Name(0, "a"), Binary(7, "&&", Name(5, "b"), Binary(12, "==", Name(10, "c"), Name(15, "d")))),
        ),
        ("!a.b", Unary(0, "!", Select(1, Name(1, "a"), "b"))),
        ("- 5", Literal(0, -5)),
        ("-(5)", Unary(0, "-", Literal(2, 5))),
        ("!-a", Unary(0, "!", Unary(1, "-", Name(2, "a")))),
        (" a['k'][0]", Index(1, Index(1, Name(1, "a"), Literal(3, "k")), Literal(8, 0))),
        ("f(1, 'a')", Call(0, "f", (Literal(2, 1), Literal(5, "a")))),
        ("a.f(1)", Call(2, "f", (Name(0, "a"), Literal(4, 1)))),
        ("has(a.b.c)", Select(0, Select(4, Name(4, "a"), "b"), "c", test=True)),
        ("[1, [null]]", ListLiteral(0, (Literal(1, 1), ListLiteral(4, (Literal(5, None),))))),
        ("{'a': true}", MapLiteral(0, ((Literal(1, "a"), Literal(6, True)),))),
        (
            "a.map(x, x > 1, x)",
            Comprehension(2, "map", Name(0, "a"), "x", Binary(11, ">", Name(9, "x"), Literal(13, 1)), Name(16, "x")),
        ),
        ("a.all(x, x)", Comprehension(2, "all", Name(0, "a"), "x", None, Name(9, "x"))),
        (
            "a ? b : c ? d : e",
            Conditional(0, Name(0, "a"), Name(4, "b"), Conditional(8, Name(8, "c"), Name(12, "d"), Name(16, "e"))),
        ),
        ("1 in a", Binary(2, "in", Literal(0, 1), Name(5, "a"))),
        ("a.b < 1", Binary(4, "<", Select(0, Name(0, "a"), "b"), Literal(6, 1))),
    ],
)  # fmt: skip
def test_trees(source: str, tree: Any) -> None:
    assert parse(tokenize(source)) == tree


def test_tokens_have_their_places() -> None:
    assert tokenize("a.b >= r'x' // end") == [
        Token("name", "a", "a", 0, 1),
        Token("operator", ".", ".", 1, 2),
        Token("name", "b", "b", 2, 3),
        Token("operator", ">=", ">=", 4, 6),
        Token("text", "r'x'", "x", 7, 11),
        Token("end", "", "", 18, 18),
    ]


@pytest.fixture
def deep_stack() -> Iterator[None]:
    """Where mutants are tried, each function is called through another."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(4 * usual)
    yield
    sys.setrecursionlimit(usual)


@pytest.mark.usefixtures("deep_stack")
def test_an_expression_may_be_so_long_and_deep() -> None:
    assert evaluate("1" + " " * 4095, {}) == 1
    with pytest.raises(ExpressionError) as caught:
        compile_expression("1" + " " * 4096)
    assert caught.value.message == "the expression has 4097 characters, the bound is 4096"
    assert caught.value.code == "EXPRESSION_TOO_BIG"
    assert evaluate("(" * 63 + "1" + ")" * 63, {}) == 1
    assert evaluate("1" + " + 1" * 63, {}) == 64
    for deeper in ("(" * 64 + "1" + ")" * 64, "1" + " + 1" * 64, "[" * 65 + "]" * 65, "!" * 64 + "true"):
        with pytest.raises(ExpressionError) as caught:
            compile_expression(deeper)
        assert caught.value.message == "the expression is nested more than 64 deep"
    assert evaluate("[1, 2].map(x, [" + "(" * 50 + "x" + ")" * 50 + "])", {}) == [[1], [2]]


# -- texts with expressions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("${{ a }}", [TemplateExpression(0, 0, "a")]),
        ("x${{a}}y${{ b }}", ["x", TemplateExpression(1, 0, "a"), "y", TemplateExpression(8, 1, "b")]),
        ("$${{ a }} ${{ b }}", ["${{ a }} ", TemplateExpression(10, 1, "b")]),
        ("a $${{", ["a ${{"]),
        ("${{ {'a': {'b': 1}} }}", [TemplateExpression(0, 0, "{'a': {'b': 1}}")]),
        ("${{ '}}' }}${{ b }}", [TemplateExpression(0, 0, "'}}'"), TemplateExpression(11, 1, "b")]),
        (r"${{ '\'}}' }}", [TemplateExpression(0, 0, r"'\'}}'")]),
        (r"${{ r'\' }}", [TemplateExpression(0, 0, r"r'\'")]),
        ('${{ """}}""" }}', [TemplateExpression(0, 0, '"""}}"""')]),
        ("${{ '${{' }} ${{ c }}", [TemplateExpression(0, 0, "'${{'"), " ", TemplateExpression(13, 2, "c")]),
        ("${{ a }}}", [TemplateExpression(0, 0, "a"), "}"]),
    ],
)
def test_the_parts_of_a_text(text: str, parts: list[Any]) -> None:
    assert split_template(text) == parts


@pytest.mark.parametrize(
    ("text", "offset", "expected"),
    [
        ("ab ${{ a", 3, "}} at its end"),
        ("${{ a }} ${{ b }", 9, "}} at its end"),
        ("${{ '}}' ", 0, "}} at its end, outside of quotes and braces"),
        ("${{ { }}", 0, "}} at its end, outside of quotes and braces"),
        ("}} ${{ r'a", 3, "}} at its end"),
    ],
)
def test_an_expression_that_is_not_closed(text: str, offset: int, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        split_template(text)
    error = caught.value
    assert (error.code, error.message, error.offset, error.expected) == (
        *(SYNTAX, "${{ is never closed"),
        *(offset, expected),
    )


def test_a_failure_names_the_expression_and_its_place() -> None:
    long = "variables.x + '" + "a" * 100 + "'"
    with pytest.raises(ExpressionError) as caught:
        render("ab ${{ " + long + " }}", {"variables": {}})
    assert caught.value.message == (
        f'in ${{{{ {long[:80]} }}}}: there is no key "x"; test with has(...) if it may be missing'
    )
    assert (caught.value.code, caught.value.offset, caught.value.expected) == ("EXPRESSION_FAILED", 3, "")
    with pytest.raises(ExpressionError) as caught:
        render("${{ nope }}", {})
    assert (caught.value.code, caught.value.expected) == ("EXPRESSION_UNKNOWN_NAME", ROOTS)


def test_a_rendered_text_is_bounded_to_the_character() -> None:
    context = {"variables": {"t": "x" * 65_536, "y": "y"}}
    text = "${{ variables.t }}" * 4
    assert len(render("a" + text, context, budget=Budget(10**6))) == 4 * 65_536 + 1
    with pytest.raises(ExpressionError) as caught:
        render(text + "${{ variables.y }}", context, budget=Budget(10**6))
    assert caught.value.code == "EXPRESSION_TOO_EXPENSIVE"
    assert caught.value.message == ("the expressions of one text give 262145 characters, the bound is 262144")


def test_the_expressions_of_a_step_are_bounded_together() -> None:
    one = "${{ " + "1" * 4096 + " }}"
    most = {"a": [one, (one, one)], "b": {"c": [one] * 4, "d": one + " and text"}, "e": 5, "f": None}
    with pytest.raises(ExpressionError) as caught:
        check_length({**most, "g": "${{ 1 }}"})
    assert caught.value.code == "EXPRESSION_TOO_EXPENSIVE"
    assert caught.value.message == (
        "the expressions of a step have 32769 characters together, the bound is 32768"
    )
    check_length(most)
    check_length("no expression " * 5000)
    with pytest.raises(ExpressionError, match="never closed"):
        check_length(["${{ 1"])


def test_a_tree_shares_a_budget() -> None:
    assert render_tree({"a": ["${{ 1 }}", ("b", 5, None, True)]}, {}) == {"a": [1, ["b", 5, None, True]]}
    budget = Budget(4)
    assert render_tree(["${{ 1 }}", "${{ 2 }}"], {}, budget=budget) == [1, 2]
    assert budget.steps == 0
    with pytest.raises(ExpressionError, match="too many steps"):
        render_tree(["${{ 1 }}"], {}, budget=budget)


# -- secrets, conditions ------------------------------------------------------------------------------------


@dataclass
class Part:
    """As steps and jobs of specs are."""

    text: str
    more: Any


def test_the_secrets_that_a_tree_names() -> None:
    optional = "${{ has(secrets.B) ? secrets.B : 'b' }}"
    tree = Part("${{ secrets.A }}", [Part(optional, None), ("x${{ secrets['C'] }}",), 5, {"k": "secrets.D"}])
    assert secret_names(tree) == {"A", "B", "C"}
    assert secret_names(tree, needed=True) == {"A", "C"}
    assert secret_names([]) == secret_names(None) == secret_names("text") == frozenset()
    assert secret_names("${{ always() ? secrets.E : '' }}") == {"E"}, "whether it fits is checked elsewhere"
    with pytest.raises(ExpressionError):
        secret_names({"a": "${{ 1 + }}"})


def test_what_an_expression_refers_to() -> None:
    found = compile_expression(
        "has(secrets.A) && 'b' in variables && jobs['j'].x == env.E && env[run.x] == ''"
    )
    told = [(one.root, one.key, one.offset, one.tested) for one in found.references]
    assert told == [
        ("secrets", "A", 4, True),
        ("variables", "b", 25, True),
        ("jobs", "j", 38, False),
        ("env", "E", 53, False),
        ("env", None, 62, False),
        ("run", "x", 66, False),
    ]
    assert found.roots == {"secrets", "variables", "jobs", "env", "run"}
    assert (found.secrets, found.jobs) == (frozenset({"A"}), frozenset({"j"}))
    assert not found.needed_secrets
    assert found.tested == {("secrets", "A"), ("variables", "b")}
    assert compile_expression("size([1]) + int('2')").functions == {"size", "int"}


@pytest.mark.parametrize(
    ("when", "code", "message", "offset", "expected"),
    [
        (
            "  ${{   1 }}",
            "EXPRESSION_NOT_BOOLEAN",
            "when needs a condition that gives true or false",
            8,
            'a condition such as variables.deploy == "yes"',
        ),
        ("secrets.A == 'a'", "EXPRESSION_UNKNOWN_NAME", "secrets are not available in when", 0, ""),
        ("${{ nope }}", "EXPRESSION_UNKNOWN_NAME", 'unknown name "nope"; if it is meant as text, write "nope" in quotes', 4, ROOTS),
        ("true && always(1)", "EXPRESSION_UNKNOWN_NAME", "always() takes no arguments", 8, ""),
        ("${{ true }} && x", SYNTAX, "unexpected character '$'", 0, ""),
    ],
)  # fmt: skip
def test_what_is_no_condition(when: str, code: str, message: str, offset: int, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_condition(when)
    error = caught.value
    assert (error.code, error.message, error.offset, error.expected) == (code, message, offset, expected)


def test_a_condition_that_gives_something_else() -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate_when("variables.x", {"variables": {"x": 1}}, outcome="success")
    assert (caught.value.code, caught.value.message) == (
        "EXPRESSION_NOT_BOOLEAN",
        "when gives a value that is neither true nor false",
    )
    budget = Budget(1)
    with pytest.raises(ExpressionError, match="too many steps"):
        evaluate_when("true", {}, outcome="success", budget=budget)
    assert not evaluate_when(" ", {}, outcome="skipped")
    assert not evaluate_when("1 / 0 == 1", {}, outcome="failure"), "it is not looked at"
