"""The JSON Schema of specs, for editors: made from the table of messages and from the actions.

Draft 2020-12. It accepts what ``parse_spec`` accepts, with its values typed as YAML 1.2 has it. What no schema can
say it leaves to the check: unique names, jobs and variables that exist, expressions that compile, the size of a
duration, paths inside of the workspace, and bounds in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pilothouse.pipelines.spec.actions import ActionRegistry, ActionSchema, Argument, actions_of
from pilothouse.pipelines.spec.fields import Field, Message, snake_case
from pilothouse.pipelines.spec.messages import APPROVAL_TYPES, MESSAGES
from pilothouse.pipelines.spec.notifications import PARAMS

Schema = dict[str, Any]

_SCALAR = ["string", "number", "boolean"]
_TEXT: Schema = {"type": [*_SCALAR, "null"]}
_EXPRESSION: Schema = {"type": "string", "pattern": r"\$\{\{"}
_DURATION = r"^$|^\s*(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ms|[dhms]))+\s*$"
_NOT_ZERO = r"^$|[1-9]"
_ENV_NAME = r"^[^=\s\u0000-\u001f\u007f-\u009f]+$"
_NO_NUL = r"^[^\u0000]*$"
_NOT_BLANK = r"\S"


def json_schema(actions: ActionRegistry) -> Schema:
    """The schema of a whole spec whose steps use these actions."""
    definitions = {name: _message(message) for name, message in MESSAGES.items()}
    _finish_step(definitions["Step"], actions)
    _finish_label_expression(definitions["LabelExpression"])
    _finish_trigger(definitions["Trigger"])
    _finish_job(definitions["Job"])
    _finish_approval(definitions["Approval"])
    _finish_notify_item(definitions["NotifyItem"])
    spec = definitions.pop("Spec")
    for action, schema in actions.items():
        definitions[_name(action)] = _arguments(schema)
    definitions["run"] = _arguments(actions["shell/command"], without="command")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of Pilothouse",
        **spec,
        "$defs": definitions,
    }


def _name(action: str) -> str:
    return "args." + action.replace("/", ".")


def _message(message: Message) -> Schema:
    properties: Schema = {}
    demands: list[Schema] = []
    for field in message.fields:
        spellings = sorted({field.name, snake_case(field.name)}, key=len)
        for spelling in spellings:
            properties[spelling] = {"description": _plain(field.about), **_field(field)}
        if field.required:
            demands.append(_any_of(spellings))
        if len(spellings) > 1:
            demands.append({"not": {"required": spellings}})
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"allOf": demands} if demands else {})


def _any_of(spellings: list[str]) -> Schema:
    wanted = [{"required": [spelling]} for spelling in spellings]
    return wanted[0] if len(wanted) == 1 else {"anyOf": wanted}


def _plain(about: str) -> str:
    """The documentation's Markdown without its links."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", about)


def _field(field: Field) -> Schema:
    match field.kind:
        case "text":
            return _text(field)
        case "texts":
            element: Schema = {"enum": [*field.options]} if field.options else _TEXT
            if field.pattern:
                element = _matching(field.pattern)
            listed: Schema = {"type": "array", "items": element}
            listed |= {"maxItems": field.most} if field.most else {}
            return listed | {"minItems": 1} if field.required else _nullable(listed)
        case "text_map":
            plain = {"not": _EXPRESSION} if field.name == "variables" else {}
            return {"type": ["object", "null"], "additionalProperties": _TEXT | plain}
        case "env":
            return {
                "type": ["object", "null"],
                "propertyNames": {"pattern": _ENV_NAME},
                "additionalProperties": _TEXT | {"pattern": _NO_NUL},
            }
        case "struct":
            return {"type": ["object", "null"]}
        case "boolean":
            return {"enum": [*field.offered, None]} if field.offered else {"type": ["boolean", "null"]}
        case "integer":
            bounds = {"minimum": field.least, "maximum": field.most}
            return {"type": "integer" if field.required else ["integer", "null"], **bounds}
        case "duration":
            nonzero = {} if field.zero else {"allOf": [{"pattern": _NOT_ZERO}]}
            return {"type": ["string", "null"], "pattern": _DURATION, **nonzero}
        case "condition":
            return {"type": ["string", "boolean", "null"]}
        case "choice":
            return _choice(field)
        case "message":
            return _nullable({"$ref": f"#/$defs/{field.of}"})
    least = {"minItems": 1} if field.required else {}
    most = {"maxItems": field.most} if field.most else {}
    items: Schema = {"type": "array", "items": {"$ref": f"#/$defs/{field.of}"}, **least, **most}
    return items if field.required else _nullable(items)


def _nullable(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return schema | {"type": [schema["type"], "null"]}


def _text(field: Field) -> Schema:
    if field.offered is not None:
        return {"enum": [*field.offered, None]}
    if not field.required:
        return {"type": ["string", "null"], "pattern": f"^(?:{field.pattern})?$"} if field.pattern else _TEXT
    return _matching(field.pattern) if field.pattern else {"type": _SCALAR, "pattern": _NOT_BLANK}


def _matching(pattern: str) -> Schema:
    """A text as it is written; numbers and booleans that YAML sees only where all of them match the pattern."""
    schema: Schema = {"type": ["string"], "pattern": f"^(?:{pattern})$"}
    if re.fullmatch(pattern, "true") and re.fullmatch(pattern, "false"):
        schema["type"].append("boolean")
    if re.fullmatch(pattern, "1"):
        schema |= {"type": [*schema["type"], "number"], "minimum": 0}
    return schema


def _choice(field: Field) -> Schema:
    """The words in any case; in the enum as they are usually written, for completion."""
    pattern = "^(?:" + "|".join(map(_any_case, field.options)) + ")$"
    accepted: list[Schema] = [{"enum": [*field.options]}, {"type": "string", "pattern": pattern}]
    return {"anyOf": accepted if field.required else [*accepted, {"enum": ["", None]}]}


def _any_case(word: str) -> str:
    return "".join(f"[{letter.upper()}{letter.lower()}]" for letter in word)


def _arguments(schema: ActionSchema, without: str = "") -> Schema:
    properties: Schema = {}
    demands: list[Schema] = []
    for name, argument in schema.arguments.items():
        if name == without:
            continue
        spellings = sorted({name, snake_case(name)}, key=len)
        properties |= dict.fromkeys(spellings, _argument(argument))
        if argument.required:
            demands.append(_any_of(spellings))
        if len(spellings) > 1:
            demands.append({"not": {"required": spellings}})
    found: Schema = {"type": "object", "properties": properties}
    if not schema.open:
        found["additionalProperties"] = False
    return found | ({"allOf": demands} if demands else {})


def _argument(argument: Argument) -> Schema:
    kinds: Mapping[str, Schema] = {
        "text": {"type": ["string", "number"]},
        "path": {"type": ["string", "number"]},
        "text_or_list": {
            "anyOf": [{"type": ["string", "number"]}, {"type": "array", "items": {"type": "string"}}]
        },
        "number": {"anyOf": [{"type": "number"}, _EXPRESSION]},
        "whole": {
            "anyOf": [{"type": "integer", "minimum": argument.least, "maximum": argument.most}, _EXPRESSION]
        },
        "boolean": {"anyOf": [{"type": "boolean"}, _EXPRESSION]},
        "list": {"anyOf": [{"type": "array"}, _EXPRESSION]},
        "map": {"anyOf": [{"type": "object"}, _EXPRESSION]},
        "any": {},
    }
    found = kinds[argument.kind]
    if argument.options:
        one: Schema = {"anyOf": [{"enum": [*argument.options]}, _EXPRESSION]}
        found = {"anyOf": [*one["anyOf"], {"type": "array", "items": one}]}
    return {**found, "not": {"enum": ["", None]}} if argument.required else found


def _finish_step(step: Schema, actions: ActionRegistry) -> None:
    """A step has ``run`` or ``uses``; what its arguments may be follows from that."""
    uses = sorted({action.partition("/")[0] for action in actions})
    step["properties"]["uses"] |= {"enum": [*uses, None]}
    step["properties"]["uses"].pop("type")
    step["properties"]["run"] = {**step["properties"]["run"], "pattern": _NOT_BLANK}
    runs = {"required": ["run"], "properties": {"run": {"not": {"type": "null"}}}}
    absent: Schema = {"type": "null"}
    beside = {"uses": absent, "action": absent, "args": _nullable({"$ref": "#/$defs/run"})}
    needs = {"required": ["uses"], "properties": {"uses": {"enum": uses}}}
    step["allOf"].append({"if": runs, "then": {"properties": beside}, "else": needs})
    for name in uses:
        used = {"required": ["uses"], "properties": {"uses": {"const": name}}}
        step["allOf"].append({"if": used, "then": _used(name, actions)})


def _used(name: str, actions: ActionRegistry) -> Schema:
    """What a step that uses ``name`` must look like: one of these forms."""
    unnamed: Schema = {"enum": ["", None]}
    available = actions_of(actions, name)
    if available == [""]:
        return _form(*_args(name, actions), unnamed)
    named = {action: _args(f"{name}/{action}", actions) for action in available}
    forms = [_form(*args, {"const": action}) | _also("action") for action, args in named.items()]
    # Without an action the arguments must tell which is meant, and only one may be.
    if len(available) == 1:
        implied = _form(*named[available[0]], unnamed)
    else:
        implied = _form({"oneOf": [args for args, _ in named.values()]}, True, unnamed)
    return {"anyOf": [*forms, implied]}


def _args(full: str, actions: ActionRegistry) -> tuple[Schema, bool]:
    """The arguments of an action, and whether it needs any."""
    needed = any(argument.required for argument in actions[full].arguments.values())
    arguments: Schema = {"$ref": f"#/$defs/{_name(full)}"}
    return (arguments if needed else _nullable(arguments)), needed


def _form(args: Schema, needed: bool, action: Schema) -> Schema:
    form: Schema = {"properties": {"action": action, "args": args}}
    return form | ({"required": ["args"]} if needed else {})


def _also(name: str) -> Schema:
    return {"allOf": [{"required": [name]}]}


def _finish_trigger(trigger: Schema) -> None:
    """The options of a trigger follow from its type; those that demand something must be there."""
    for type, message, needed in (
        ("manual", "ManualOptions", False),
        ("cron", "CronOptions", True),
        ("event", "EventOptions", True),
    ):
        named: Schema = {"required": ["type"], "properties": {"type": {"pattern": f"^{_any_case(type)}$"}}}
        options: Schema = {"$ref": f"#/$defs/{message}"}
        then: Schema = {"properties": {"options": options if needed else _nullable(options)}}
        trigger["allOf"].append({"if": named, "then": then | ({"required": ["options"]} if needed else {})})


_REQUIRED: Schema = {"type": "object", "required": ["required"], "properties": {"required": {"const": True}}}


def _finish_job(job: Schema) -> None:
    """A job has steps, unless it only waits for an approval."""
    steps = job["properties"]["steps"]
    job["properties"]["steps"] = _nullable({key: steps[key] for key in steps if key != "minItems"})
    job["allOf"].remove({"required": ["steps"]})
    approved = {"required": ["approval"], "properties": {"approval": _REQUIRED}}
    some: Schema = {"required": ["steps"], "properties": {"steps": {"type": "array", "minItems": 1}}}
    job["allOf"].append({"if": approved, "else": some})


def _finish_approval(approval: Schema) -> None:
    """Its other fields mean something only if it is required."""
    params = _nullable({"$ref": "#/$defs/ApprovalParams"})
    fields: Schema = {
        "type": {"enum": [*APPROVAL_TYPES, None]},
        "plugin": {"enum": ["", None]},
        "params": params,
    }
    approval["allOf"] = [{"if": _REQUIRED, "then": {"properties": fields}}]


def _finish_notify_item(item: Schema) -> None:
    """The parameters of a notification follow from its plugin."""
    for plugin, message in PARAMS.items():
        named: Schema = {
            "required": ["plugin"],
            "properties": {"plugin": {"pattern": f"^{_any_case(plugin)}$"}},
        }
        params: Schema = {"properties": {"params": {"$ref": f"#/$defs/{message}"}}, "required": ["params"]}
        item["allOf"].append({"if": named, "then": params})


def _finish_label_expression(expression: Schema) -> None:
    """How many values there are follows from the operator."""
    number: Schema = {
        "anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^-?[0-9]{1,18}$"}],
    }
    rules: list[tuple[tuple[str, ...], Schema]] = [
        (
            ("In", "NotIn"),
            {"required": ["values"], "properties": {"values": {"type": "array", "minItems": 1}}},
        ),
        (("Exists", "DoesNotExist"), {"properties": {"values": {"type": ["array", "null"], "maxItems": 0}}}),
        (
            ("Gt", "Lt"),
            {
                "required": ["values"],
                "properties": {"values": {"type": "array", "minItems": 1, "maxItems": 1, "items": number}},
            },
        ),
    ]
    for operators, values in rules:
        named = "^(?:" + "|".join(map(_any_case, operators)) + ")$"
        when: Schema = {"required": ["operator"], "properties": {"operator": {"pattern": named}}}
        expression["allOf"].append({"if": when, "then": values})
