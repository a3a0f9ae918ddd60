"""Selectors of labels, as in Kubernetes: when they match, what is said of the first that does not, how two combine."""

from __future__ import annotations

import pytest

from pilothouse.engine.graph import LabelExpression, Selector
from pilothouse.engine.selectors import combined, match_selector


def one(operator: str, *values: str) -> Selector:
    """A selector of one expression of the label ``a``."""
    return Selector(match_expressions=(LabelExpression("a", operator, values),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("selector", "matching", "others", "said"),
    [
        (one("In", "x", "y"), ["x", "y"], ["z", "", None], "a In (x, y)"),
        (one("NotIn", "x", "y"), ["z", "", None], ["x", "y"], "a NotIn (x, y)"),
        (one("Exists"), ["x", ""], [None], "a Exists"),
        (one("DoesNotExist"), [None], ["x", ""], "a DoesNotExist"),
        (one("Gt", "5"), ["6", "10"], ["5", "4", "-9", "x", "6x", "5.5", "", None], "a Gt 5"),
        (one("Lt", "5"), ["4", "-9", "0"], ["5", "6", "10", "x", "4x", "4.5", "", None], "a Lt 5"),
        (Selector({"a": "x"}), ["x"], ["y", "", None], "a=x"),
    ],
)
def test_each_operator(
    selector: Selector, matching: list[str | None], others: list[str | None], said: str
) -> None:
    def labels(value: str | None) -> dict[str, str]:
        return {"b": "x"} if value is None else {"a": value, "b": "x"}

    assert [match_selector(selector, labels(value)) for value in matching] == [None] * len(matching)
    assert [match_selector(selector, labels(value)) for value in others] == [said] * len(others)


def test_a_bound_that_is_no_integer_matches_nothing() -> None:
    assert match_selector(one("Gt", "x"), {"a": "7"}) == "a Gt x"
    assert match_selector(one("Lt", "x"), {"a": "7"}) == "a Lt x"


def test_integers_are_compared_by_their_first_twenty_characters() -> None:
    """A label of a million digits costs no more than a short one."""
    assert match_selector(one("Gt", "9" * 19), {"a": "1" + "0" * 30}) is None
    assert match_selector(one("Gt", "1" * 20), {"a": "1" * 20 + "2"}) == f"a Gt {'1' * 20}"
    assert match_selector(one("Gt", "1" * 19), {"a": "1" * 20}) is None


def test_the_first_unmet_requirement_is_named() -> None:
    both = Selector(
        {"os": "linux", "arch": "arm64"}, (LabelExpression("gpu", "Exists"), LabelExpression("x", "Exists"))
    )
    assert match_selector(both, {}) == "os=linux"
    assert match_selector(both, {"os": "linux"}) == "arch=arm64"
    assert match_selector(both, {"os": "linux", "arch": "arm64"}) == "gpu Exists"
    assert match_selector(both, {"os": "linux", "arch": "arm64", "gpu": ""}) == "x Exists"
    assert match_selector(both, {"os": "linux", "arch": "arm64", "gpu": "", "x": ""}) is None
    assert match_selector(None, {}) is None
    assert match_selector(Selector(), {}) is None


def test_selectors_combine_to_all_their_requirements() -> None:
    gpu, fast = LabelExpression("gpu", "Exists"), LabelExpression("speed", "Gt", ("5",))
    assert combined([None, Selector({"os": "linux"}), None, Selector({"arch": "arm64"}, (gpu,))]) == Selector(
        {"os": "linux", "arch": "arm64"}, (gpu,)
    )
    assert combined([Selector({}, (gpu, fast)), Selector({}, (gpu,))]) == Selector({}, (gpu, fast))
    assert combined([Selector({"os": "linux"}), Selector({"os": "linux"})]) == Selector({"os": "linux"})
    assert combined([Selector({}, (gpu,))]) == Selector({}, (gpu,))


def test_requirements_that_contradict_each_other_match_nothing() -> None:
    found = combined([Selector({"os": "linux"}), Selector({"os": "mac"})])
    assert found == Selector({"os": "linux"}, (LabelExpression("os", "In", ("mac",)),))
    assert match_selector(found, {"os": "linux"}) == "os In (mac)"
    assert match_selector(found, {"os": "mac"}) == "os=linux"


def test_nothing_combined_is_no_selector() -> None:
    assert combined([]) is None
    assert combined([None, Selector(), None]) is None
