"""Checks what a step uses: the action is known, and its arguments fit."""

from __future__ import annotations

from typing import Any

from pilothouse.pipelines.spec import foreign
from pilothouse.pipelines.spec.actions import (
    ActionRegistry,
    ActionSchema,
    Argument,
    actions_of,
    infer_action,
    leaves_workspace,
)
from pilothouse.pipelines.spec.approvals import too_few
from pilothouse.pipelines.spec.canonical import camel_case
from pilothouse.pipelines.spec.nodes import Dictionary, Sequence
from pilothouse.pipelines.spec.problems import Mark, child_path, did_you_mean, shown
from pilothouse.pipelines.spec.reader import Fields


def check_uses(step: Fields, args: dict[str, Any], actions: ActionRegistry | None) -> tuple[str, str]:
    """``uses`` and ``action``, the latter inferred where it is missing; problems go to the step's reading.

    The arguments that the action knows get their camelCase names in ``args``. ``run: text`` becomes
    ``uses: shell`` with ``args.command``, as all other code expects.
    """
    if step.node("run") is not None:
        return _run(step, args, actions)
    if actions is None:
        return step.text("uses"), step.text("action")
    known_uses = sorted({key.partition("/")[0] for key in actions})
    uses, action = step.text("uses"), step.text("action")
    if not uses.strip():
        expected = "run: a command; or uses: one of " + ", ".join(known_uses)
        if not isinstance(step.node("uses"), Sequence | Dictionary):
            step.problem(step.mark_of("uses"), "uses", "the step has neither run nor uses", expected)
        return "", action
    if not (available := actions_of(actions, uses)):
        _unknown(step, uses, known_uses)
        return uses, action
    if not action and not (action := _inferred(step, uses, args, actions, available)) and available != [""]:
        return uses, action
    schema = actions.get(f"{uses}/{action}" if action else uses)
    if schema is None:
        message = f"{uses} has no action {shown(action)}{did_you_mean(action, available)}"
        step.problem(
            step.mark_of("action"), "action", message, "one of " + ", ".join(filter(None, available))
        )
    else:
        _check_arguments(step, args, schema, f"{uses}/{action}" if action else uses)
    return uses, action


def _unknown(step: Fields, uses: str, known: list[str]) -> None:
    if hint := foreign.action(uses):
        step.problem(step.mark_of("uses"), "uses", f"{shown(uses)} is an action of another product: {hint}")
        return
    message = f"unknown action {shown(uses)}{did_you_mean(uses, known)}"
    step.problem(step.mark_of("uses"), "uses", message, "one of " + ", ".join(known))


def _run(step: Fields, args: dict[str, Any], actions: ActionRegistry | None) -> tuple[str, str]:
    for name in ("uses", "action"):
        if step.node(name) is not None:
            message = f"a step has run or {name}, not both"
            step.problem(step.mark_of(name), name, message, "only run, which means uses: shell")
    if "command" in args:
        mark = _marks(step).get("command", step.mark_of("args"))
        _add(step, mark, "args.command", "run is the command already", "no args.command beside run")
    args["command"] = step.required("run", "a command, or several lines of them", rendered=True)
    if actions is not None and args["command"]:
        _check_arguments(step, args, actions["shell/command"], "shell/command")
    return "shell", "command"


def _inferred(
    step: Fields, uses: str, args: dict[str, Any], actions: ActionRegistry, available: list[str]
) -> str:
    """The action; "" with a problem if it is ambiguous."""
    given = frozenset(camel_case(name) for name in args)
    meant = infer_action(actions, uses, given)
    if len(meant) == 1:
        return meant[0]
    if step.node("args") is not None and not isinstance(step.node("args"), Dictionary):
        return ""  # reported already, and the action is unknown
    reason = f"{' and '.join(meant)} could both be meant" if meant else "its arguments do not tell which"
    message = f"the step has no action, and {reason}"
    step.problem(step.mark_of("args"), "action", message, "action: " + " or ".join(available))
    return ""


def _check_arguments(step: Fields, args: dict[str, Any], schema: ActionSchema, action: str) -> None:
    marks = _marks(step)
    spelled: dict[str, str] = {}
    for given in list(args):
        name = given if given in schema.arguments else camel_case(given)
        argument = schema.arguments.get(name)
        mark, path = marks.get(given, step.mark_of("args")), child_path("args", given)
        if argument is None:
            if not schema.open:
                message = f"{action} takes no argument {shown(given)}{did_you_mean(given, schema.arguments)}"
                _add(step, mark, path, message, "one of " + ", ".join(schema.arguments))
        elif (first := spelled.setdefault(name, given)) != given:
            _add(step, mark, path, f"{given} and {first} are the same argument", "only one of them")
        else:
            value = args[name] = args.pop(given)
            if message := _wrong_value(argument, value):
                _add(step, mark, path, f"{given} of {action} {message}", argument.expected)
    if action == "approval/wait" and (
        message := too_few(args.get("count", 1), args.get("roles"), args.get("users"))
    ):
        mark = marks.get("count", step.mark_of("args"))
        _add(step, mark, "args.count", message, "roles, or more users")
    for name, argument in schema.arguments.items():
        if argument.required and args.get(name) in (None, ""):
            mark = marks.get(name, step.mark_of("args"))
            _add(step, mark, f"args.{name}", f"{action} needs args.{name}", argument.expected)


def _wrong_value(argument: Argument, value: Any) -> str:
    if not argument.accepts(value):
        return (
            "has a value that is not allowed" if argument.least or argument.options else "has the wrong type"
        )
    if argument.kind == "path" and isinstance(value, str) and "${{" not in value:
        return leaves_workspace(value)
    return ""


def _marks(step: Fields) -> dict[str, Mark]:
    """The place of each argument's name."""
    node = step.node("args")
    return {key.text: key.mark for key, _ in node.entries} if isinstance(node, Dictionary) else {}


def _add(step: Fields, mark: Mark, path: str, message: str, expected: str) -> None:
    step.reading.problems.add(mark, f"{step.path}.{path}", message, expected)
