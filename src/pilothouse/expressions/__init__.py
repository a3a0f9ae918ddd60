"""CEL expressions of specs: ``${{ … }}`` in texts, and the conditions of ``when`` (decisions.md, "Arcentra").

    compile_expression('variables.tag + "-rc"')      checks, for the linter
    render("app:${{ variables.tag }}", context)      "app:1.4"
    evaluate_when("always()", context, outcome=…)    True

``context`` maps each root (variables, env, run, job, step, jobs, secrets) to plain JSON values; a root that is
left out has no value. Texts of ``secrets`` may be marked; what is made from them then is, too (``secrecy.py``).
Bounds: MAX_SOURCE characters, MAX_DEPTH nodes deep, MAX_STEPS, and MAX_SIZE a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any

from pilothouse.expressions.errors import ExpressionError
from pilothouse.expressions.eval import Evaluator
from pilothouse.expressions.lint import (
    CLEANUP_FUNCTIONS,
    CONDITION_FUNCTIONS,
    Reference,
    check_hyphens,
    check_names,
    gives_no_boolean,
    references,
)
from pilothouse.expressions.nodes import Call, Node, walk
from pilothouse.expressions.parser import parse
from pilothouse.expressions.secrecy import joined
from pilothouse.expressions.templates import TemplateExpression, split_template
from pilothouse.expressions.tokens import tokenize
from pilothouse.expressions.values import MAX_SIZE, MAX_STEPS, Budget, insert_text

__all__ = [
    "TREE_STEPS",
    "Expression",
    "ExpressionError",
    "Reference",
    "check_length",
    "cleans_up",
    "compile_condition",
    "compile_expression",
    "evaluate",
    "evaluate_when",
    "render",
    "render_tree",
    "secret_names",
]

MAX_RENDERED = 4 * MAX_SIZE  # characters of one rendered text
TREE_STEPS = 5 * MAX_STEPS  # steps of all expressions of one tree
MAX_TREE_SOURCE = 32_768  # characters of all expressions of one tree, where that is checked


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. ``jobs``, ``secrets``: the names it refers to as jobs.NAME and secrets.NAME.

    ``tested``: (root, name) of those it tests with ``has(root.NAME)`` or ``"NAME" in root``, so that they are
    optional.
    """

    source: str
    roots: frozenset[str]
    secrets: frozenset[str]
    jobs: frozenset[str]
    functions: frozenset[str]
    tested: frozenset[tuple[str, str]]
    references: tuple[Reference, ...] = field(repr=False)
    root: Node = field(repr=False, compare=False)

    @property
    def needed_secrets(self) -> frozenset[str]:
        """The secrets that it requires."""
        return frozenset(name for name in self.secrets if ("secrets", name) not in self.tested)


@lru_cache(maxsize=1024)
def compile_expression(source: str, *, condition: bool = False) -> Expression:
    """Check ``source``; ``condition`` allows always(), success(), failure() and cancelled().

    Raises ExpressionError.
    """
    root = _parsed(source)
    check_names(root, condition=condition)
    found = references(root)
    for reference in found:
        if reference.root == "secrets" and reference.key is None:
            message = "a secret must be named in the text of the expression, so that only it is handed out"
            raise ExpressionError("EXPRESSION_UNKNOWN_NAME", message, reference.offset, "secrets.NAME")
    return Expression(
        source=source,
        roots=frozenset(reference.root for reference in found),
        secrets=_keys(found, "secrets"),
        jobs=_keys(found, "jobs"),
        functions=frozenset(visit.node.function for visit in walk(root) if isinstance(visit.node, Call)),
        tested=frozenset((one.root, one.key) for one in found if one.tested and one.key is not None),
        references=found,
        root=root,
    )


def _parsed(source: str) -> Node:
    if not source.strip():
        raise ExpressionError("EXPRESSION_SYNTAX", "the expression is empty")
    tokens = tokenize(source)
    check_hyphens(tokens)
    return parse(tokens)


def _keys(found: tuple[Reference, ...], root: str) -> frozenset[str]:
    return frozenset(
        reference.key for reference in found if reference.root == root and reference.key is not None
    )


def compile_condition(source: str) -> Expression:
    """The condition of a ``when``, bare or inside of one ``${{ }}``. Raises ExpressionError."""
    inner, offset = unwrap_condition(source)
    try:
        expression = compile_expression(inner, condition=True)
        if gives_no_boolean(expression.root):
            message = "when needs a condition that gives true or false"
            raise ExpressionError(
                "EXPRESSION_NOT_BOOLEAN", message, 0, 'a condition such as variables.deploy == "yes"'
            )
        if expression.secrets:
            # Secrets are inserted when work is handed out; conditions are evaluated before.
            raise ExpressionError("EXPRESSION_UNKNOWN_NAME", "secrets are not available in when")
    except ExpressionError as error:
        raise ExpressionError(error.code, error.message, error.offset + offset, error.expected) from None
    return expression


def unwrap_condition(source: str) -> tuple[str, int]:
    """The bare expression of a ``when``, and its offset in ``source``."""
    if source.lstrip().startswith("${{"):
        parts = split_template(source.strip())
        if len(parts) == 1 and isinstance(parts[0], TemplateExpression):
            return parts[0].source, max(0, source.find(parts[0].source, source.find("${{") + 3))
    return source, 0


def evaluate(
    expression: Expression | str,
    context: Mapping[str, Any],
    *,
    budget: Budget | None = None,
    conditions: Mapping[str, bool] | None = None,
) -> Any:
    """The value as JSON data: a copy, with times as text. Raises ExpressionError."""
    compiled = compile_expression(expression) if isinstance(expression, str) else expression
    return Evaluator(context, budget or Budget(), conditions or {}).run(compiled.root)


def evaluate_when(
    source: str,
    context: Mapping[str, Any],
    *,
    outcome: str,
    cancelled: bool = False,
    budget: Budget | None = None,
) -> bool:
    """Whether work with this ``when`` is to run, given the ``outcome`` of the work before.

    ``outcome``: "success", "failure", "cancelled" (the run was, before this work could begin), or another word for
    what is none of them; ``cancelled``: what cancelled() gives, true with that outcome. An empty condition is
    ``success()``; one that names no condition function holds only on success too; after a cancel only one that
    names always() or cancelled(). Raises ExpressionError.
    """
    if not source.strip():
        return outcome == "success"
    expression = compile_condition(source)
    needed = CLEANUP_FUNCTIONS if outcome == "cancelled" else CONDITION_FUNCTIONS
    if not expression.functions & needed and outcome != "success":
        return False
    conditions = {
        "always": True,
        "success": outcome == "success",
        "failure": outcome == "failure",
        "cancelled": cancelled or outcome == "cancelled",
    }
    value = evaluate(expression, context, conditions=conditions, budget=budget)
    if not isinstance(value, bool):
        raise ExpressionError("EXPRESSION_NOT_BOOLEAN", "when gives a value that is neither true nor false")
    return value


def cleans_up(source: str) -> bool:
    """Whether this ``when`` names always() or cancelled(), and so may hold after a cancel."""
    if not source.strip():
        return False
    try:
        return bool(compile_condition(source).functions & CLEANUP_FUNCTIONS)
    except ExpressionError:
        return False


def render(text: str, context: Mapping[str, Any], *, budget: Budget | None = None) -> Any:
    """``text`` with its expressions evaluated; a lone ``${{ x }}`` gives the value in its own type.

    Offsets of an ExpressionError are within ``text``.
    """
    budget = budget or Budget()
    parts = split_template(text)
    values = [part if isinstance(part, str) else _rendered(part, context, budget) for part in parts]
    if len(parts) == 1:
        return values[0]
    inserted = [insert_text(value) for value in values]
    added = sum(
        len(insert) for part, insert in zip(parts, inserted, strict=True) if not isinstance(part, str)
    )
    if added > MAX_RENDERED:
        message = f"the expressions of one text give {added} characters, the bound is {MAX_RENDERED}"
        raise ExpressionError("EXPRESSION_TOO_EXPENSIVE", message)
    return joined("".join(inserted), values)


def _rendered(part: TemplateExpression, context: Mapping[str, Any], budget: Budget) -> Any:
    try:
        return evaluate(part.source, context, budget=budget)
    except ExpressionError as error:
        message = f"in ${{{{ {part.source[:80]} }}}}: {error.message}"
        raise ExpressionError(error.code, message, part.offset, error.expected) from None


def render_tree(value: Any, context: Mapping[str, Any], *, budget: Budget | None = None) -> Any:
    """A JSON tree with all its texts rendered, except keys; they share one budget."""
    budget = budget or Budget(TREE_STEPS)
    if isinstance(value, str):
        return render(value, context, budget=budget)
    if isinstance(value, Mapping):
        return {key: render_tree(item, context, budget=budget) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render_tree(item, context, budget=budget) for item in value]
    return value


def check_length(tree: Any) -> None:
    """Bound the expressions in all texts of a tree together, since compiling them takes longer than most evaluations.

    Raises ExpressionError, also for a text that does not compile.
    """
    waiting, size = [tree], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "${{" in value:
                size += sum(len(part.source) for part in split_template(value) if not isinstance(part, str))
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    if size > MAX_TREE_SOURCE:
        message = f"the expressions of a step have {size} characters together, the bound is {MAX_TREE_SOURCE}"
        raise ExpressionError("EXPRESSION_TOO_EXPENSIVE", message)


def secret_names(tree: Any, *, needed: bool = False) -> frozenset[str]:
    """The secrets that the expressions of a tree name: a text, JSON values, or a Spec, Job or Step.

    ``needed``: without those that an expression tests for, as in ``has(secrets.NAME)``. Raises ExpressionError for
    a text that does not compile.
    """
    if isinstance(tree, str):
        if "${{" not in tree:
            return frozenset()
        parts = (part for part in split_template(tree) if not isinstance(part, str))
        compiled = [compile_expression(part.source, condition=True) for part in parts]
        found = [one.needed_secrets if needed else one.secrets for one in compiled]
    elif isinstance(tree, Mapping):
        found = [secret_names(item, needed=needed) for item in tree.values()]
    elif isinstance(tree, list | tuple):
        found = [secret_names(item, needed=needed) for item in tree]
    elif is_dataclass(tree):
        found = [secret_names(getattr(tree, part.name), needed=needed) for part in fields(tree)]
    else:
        return frozenset()
    return frozenset().union(*found)
