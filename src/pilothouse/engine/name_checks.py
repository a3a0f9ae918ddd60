"""Checks that a run has all variables and secrets that its spec names; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from pilothouse.engine.names import NamesUsed, NameUse
from pilothouse.engine.problems import MAX_PROBLEMS, SpecError, SpecProblem, did_you_mean, shown


def check_names(
    used: NamesUsed, declared: Collection[str], given: Collection[str], missing_secrets: Iterable[str]
) -> None:
    """Check for missing secrets and variables, and for given variables that are not used.

    ``declared``: the variables with a value in the spec; ``given``: those given for this run. Raises SpecError, whose
    problems have paths, but no lines.
    """
    problems = [
        *_missing_variables(used, {*declared, *given}),
        *_unused_variables(used, declared, given),
        *_missing_secrets(used, missing_secrets),
    ]
    if problems:
        raise SpecError(problems[:MAX_PROBLEMS], "<spec>")


def _missing_variables(used: NamesUsed, variables: Collection[str]) -> Iterator[SpecProblem]:
    for name, use in used.variables.items():
        if name not in variables:
            message = f"{_place(use)} uses variable {shown(name)}, which has no value{did_you_mean(name, variables)}"
            expected = f"a value in the spec or with --var {name}=..., or a test with has(variables.{name})"
            yield SpecProblem(message, 0, 0, expected, use.path)


def _unused_variables(
    used: NamesUsed, declared: Collection[str], given: Collection[str]
) -> Iterator[SpecProblem]:
    known = {*declared, *used.variables, *used.optional_variables}
    if used.computed or not known:  # any variable may be used, or there is none to compare with
        return
    for name in given:
        if name not in known:
            message = f"variable {shown(name)} is given, but nothing in the spec uses it"
            yield SpecProblem(message + did_you_mean(name, known), 0, 0, "", f"variables.{name}")


def _missing_secrets(used: NamesUsed, missing: Iterable[str]) -> Iterator[SpecProblem]:
    for name in missing:
        use = used.secrets[name]
        message = f"{_place(use)} needs secret {shown(name)}, which this project does not have"
        yield SpecProblem(message, 0, 0, f"pilot secret set {name}", use.path)


def _place(use: NameUse) -> str:
    if use.step:
        return f"step {shown(use.step)} of job {shown(use.job)}"
    return f"job {shown(use.job)}" if use.job else "the runtime"
