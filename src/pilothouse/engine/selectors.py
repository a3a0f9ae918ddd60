"""Matches agents' labels against steps' selectors, and describes mismatches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilothouse.engine.graph import LabelExpression, Selector


def match_selector(selector: Selector | None, labels: Mapping[str, str]) -> str | None:
    """None if ``labels`` match, otherwise the first unmet requirement: ``os=arm64``, ``gpu Exists``."""
    if selector is None:
        return None
    for key, value in selector.match_labels.items():
        if labels.get(key) != value:
            return f"{key}={value}"
    for expression in selector.match_expressions:
        if not _matches(expression, labels):
            return _describe(expression)
    return None


def combined(selectors: Iterable[Selector | None]) -> Selector | None:
    """One selector with the requirements of all these; ``None`` if they have none."""
    labels: dict[str, str] = {}
    expressions: list[LabelExpression] = []
    for selector in selectors:
        if selector is None:
            continue
        for key, value in selector.match_labels.items():
            if labels.setdefault(key, value) != value:
                expressions.append(LabelExpression(key, "In", (value,)))
        expressions += [one for one in selector.match_expressions if one not in expressions]
    return Selector(labels, tuple(expressions)) if labels or expressions else None


def requirements(selector: Selector | None) -> list[str]:
    """What a selector requires, as :func:`match_selector` names it."""
    if selector is None:
        return []
    labels = [f"{key}={value}" for key, value in selector.match_labels.items()]
    return labels + [_describe(expression) for expression in selector.match_expressions]


def _matches(expression: LabelExpression, labels: Mapping[str, str]) -> bool:
    label = labels.get(expression.key)
    match expression.operator:
        case "In":
            return label in expression.values
        case "NotIn":
            return label not in expression.values
        case "Exists":
            return label is not None
        case "DoesNotExist":
            return label is None
    number, bound = _integer(label), _integer(expression.values[0])
    if number is None or bound is None:
        return False
    return number > bound if expression.operator == "Gt" else number < bound


def _integer(text: str | None) -> int | None:
    """As in Kubernetes, Gt and Lt compare integers; other labels do not match."""
    try:
        return int(text[:20]) if text else None
    except ValueError:
        return None


def _describe(expression: LabelExpression) -> str:
    values = ", ".join(expression.values)
    match expression.operator:
        case "In" | "NotIn":
            return f"{expression.key} {expression.operator} ({values})"
        case "Gt" | "Lt":
            return f"{expression.key} {expression.operator} {values}"
    return f"{expression.key} {expression.operator}"
