"""The actions that a step may use, and their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pilothouse.pipelines.spec.messages import APPROVER_ROLES
from pilothouse.wire.bounds import MAX_APPROVALS

ArgumentKind = Literal["text", "path", "text_or_list", "number", "whole", "boolean", "list", "map", "any"]

_KINDS: Mapping[ArgumentKind, tuple[str, tuple[type, ...]]] = {
    "text": ("a text", (str, int, float)),
    "path": ("a directory in the workspace, such as src", (str, int, float)),
    "text_or_list": ("a text or a list of texts", (str, int, float, list)),
    "number": ("a number", (int, float)),
    "whole": ("a whole number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "list": ("a list", (list,)),
    "map": ("a map", (dict,)),
}


@dataclass(frozen=True, slots=True)
class Argument:
    """``least`` and ``most``: bounds of a whole number; ``options``: the only texts that are allowed."""

    kind: ArgumentKind = "text"
    required: bool = False
    least: int = 0
    most: int = 0
    options: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        if self.kind == "any":
            return "a value"
        if self.options:
            return "one or several of " + ", ".join(self.options)
        bounds = f" from {self.least} to {self.most}" if self.kind == "whole" else ""
        return _KINDS[self.kind][0] + bounds

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is valid; a text with an expression is, since its value is not known yet."""
        if self.kind == "any" or (isinstance(value, str) and "${{" in value):
            return True
        if isinstance(value, bool):
            return self.kind == "boolean"
        if self.kind == "text_or_list" and isinstance(value, list):
            return all(isinstance(item, str) and self._offers(item) for item in value)
        if self.kind == "whole":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and self.least <= value <= self.most
        return isinstance(value, _KINDS[self.kind][1]) and self._offers(value)

    def _offers(self, value: Any) -> bool:
        """Whether it is one of the options, or is not known yet."""
        return not self.options or value in self.options or (isinstance(value, str) and "${{" in value)


def leaves_workspace(path: str) -> str:
    """Why a path cannot be inside of the workspace, judged by its text; "" if it can."""
    if "\0" in path:
        return "holds a NUL character"
    if path.startswith("/"):
        return "is an absolute path"
    depth = 0
    for part in path.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            return "leads out of the workspace"
    return ""


@dataclass(frozen=True, slots=True)
class ActionSchema:
    """``arguments`` by name (camelCase; snake_case is accepted too); ``open``: other arguments are accepted."""

    arguments: Mapping[str, Argument] = field(default_factory=dict)
    open: bool = False


# By "uses/action", or by "uses" alone if it has no actions.
ActionRegistry = Mapping[str, ActionSchema]

_PATTERNS = Argument("text_or_list", required=True)
_NO_FILES = Argument()

_SHELL = {"shell": Argument("text_or_list"), "workingDirectory": Argument("path")}

BUILTIN_ACTIONS: ActionRegistry = {
    "shell/command": ActionSchema({"command": Argument(required=True), **_SHELL}),
    "shell/script": ActionSchema({"script": Argument(required=True), **_SHELL}),
    "scm/checkout": ActionSchema(open=True),
    "approval/wait": ActionSchema(
        {
            "message": Argument(),
            "count": Argument("whole", least=1, most=MAX_APPROVALS),
            "roles": Argument("text_or_list", options=APPROVER_ROLES),
            "users": Argument("text_or_list"),
        }
    ),
    "window/wait": ActionSchema(
        {"days": Argument("text_or_list"), "from": Argument(), "to": Argument(), "timezone": Argument()}
    ),
    "pipeline/run": ActionSchema({"pipeline": Argument(required=True), "variables": Argument("map")}),
    "artifacts/upload": ActionSchema(
        {
            "name": Argument(required=True),
            "path": _PATTERNS,
            "ifNoFilesFound": _NO_FILES,
            "retentionDays": Argument("number"),
            "overwrite": Argument("boolean"),
            "archive": Argument("boolean"),
            "compressionLevel": Argument("number"),
            "includeHidden": Argument("boolean"),
        }
    ),
    "artifacts/download": ActionSchema(
        {"name": Argument(), "path": Argument("path"), "merge": Argument("boolean")}
    ),
    "reports/junit": ActionSchema(
        {
            "path": _PATTERNS,
            "name": Argument(),
            "ifNoFilesFound": _NO_FILES,
            "failOnFailure": Argument("boolean"),
            "includeHidden": Argument("boolean"),
        }
    ),
    "reports/dotenv": ActionSchema({"path": _PATTERNS, "ifNoFilesFound": _NO_FILES}),
    "http/request": ActionSchema(
        {
            "url": Argument(required=True),
            "method": Argument(),
            "headers": Argument("map"),
            "body": Argument(),
            "json": Argument("any"),
            "timeout": Argument(),
            "maxBytes": Argument("number"),
            "followRedirects": Argument("boolean"),
            "expectStatus": Argument("any"),
        }
    ),
    "dummy/run": ActionSchema(open=True),
}


def actions_of(registry: ActionRegistry, uses: str) -> list[str]:
    """The actions of ``uses``, sorted; [""] if it has none; [] if it is unknown."""
    if uses in registry:
        return [""]
    return sorted(key.partition("/")[2] for key in registry if key.partition("/")[0] == uses)


def infer_action(registry: ActionRegistry, uses: str, given: frozenset[str]) -> list[str]:
    """The possible actions of a step that names none: the only one, or those whose required arguments it has."""
    actions = actions_of(registry, uses)
    if len(actions) <= 1:
        return actions
    return [
        action
        for action in actions
        if (required := _required(registry[f"{uses}/{action}"])) and required <= given
    ]


def _required(schema: ActionSchema) -> frozenset[str]:
    return frozenset(name for name, argument in schema.arguments.items() if argument.required)
