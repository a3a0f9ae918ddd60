"""Declared inputs of a spec: what a run may be given, and the values it then has; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.engine.problems import SpecProblem, did_you_mean, shown

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Input:
    """``default`` None: a value must be given. Values are texts, like all variables."""

    name: str
    type: str = "string"
    default: str | None = None
    choices: tuple[str, ...] = ()

    def refusal(self, value: str) -> str:
        """Why the value does not fit the type; empty if it does."""
        if self.type == "boolean" and value not in ("true", "false"):
            return f"input {shown(self.name)} is true or false, not {shown(value)}"
        if self.type == "number" and not _NUMBER.fullmatch(value):
            return f"input {shown(self.name)} is a number, not {shown(value)}"
        if self.type == "choice" and value not in self.choices:
            few = ", ".join(self.choices[:8]) + (", ..." if len(self.choices) > 8 else "")
            return f"input {shown(self.name)} is one of {few}, not {shown(value)}"
        return ""


def inputs_of(triggers: Iterable[Mapping[str, Any]]) -> tuple[Input, ...] | None:
    """The inputs that the manual trigger of a canonical spec declares; None if it declares none."""
    for trigger in triggers:
        declared = trigger.get("options", {}).get("inputs")
        if trigger["type"] == "manual" and declared is not None:
            return tuple(input_of(one) for one in declared)
    return None


def input_of(options: Mapping[str, Any]) -> Input:
    """One input in its canonical form."""
    return Input(
        options.get("name", ""),
        options.get("type", "string"),
        options.get("default"),
        tuple(options.get("choices", ())),
    )


def check_given(inputs: Iterable[Input], given: Mapping[str, str]) -> list[SpecProblem]:
    """Problems of the variables that a run is given: unknown ones, missing ones, values of another type."""
    known = {one.name: one for one in inputs}
    problems = []
    for name, value in given.items():
        if name not in known:
            said = f"there is no input {shown(name)}{did_you_mean(name, known)}"
            expected = "one of " + ", ".join(list(known)[:8]) if known else "no variables"
            problems.append(SpecProblem(said, 0, 0, expected, f"variables.{name}"))
        elif refused := known[name].refusal(value):
            problems.append(SpecProblem(refused, 0, 0, "", f"variables.{name}"))
    for name, one in known.items():
        if one.default is None and name not in given:
            said = f"input {shown(name)} has no default, and no value is given"
            problems.append(SpecProblem(said, 0, 0, f"--var {name}=…", f"variables.{name}"))
    return problems
