"""The fields of triggers and of their inputs; a part of the list in :mod:`pilothouse.pipelines.spec.messages`."""

from __future__ import annotations

from pilothouse.pipelines.spec.fields import Field

MAX_TRIGGERS = 20
MAX_INPUTS = 100
MAX_CHOICES = 100
TRIGGERS = ("manual", "cron", "event", "webhook")
EVENTS = ("run.created", "run.started", "run.completed")
FINAL = ("succeeded", "failed", "cancelled")
INPUT_TYPES = ("string", "boolean", "number", "choice")

TRIGGER = (
    Field(
        "type",
        "choice",
        "`manual`, `cron` or `event`; `webhook` is warned of: it has no effect yet. Required",
        required=True,
        expected="one of manual, cron, event",
        options=TRIGGERS,
        default="webhook",
    ),
    Field(
        "options",
        "struct",
        "[ManualOptions](#manualoptions), [CronOptions](#cronoptions) or [EventOptions](#eventoptions); of "
        "`webhook` anything",
    ),
    Field("name", "text", "a name of its own; with it the trigger stays the same when its options change"),
)

MANUAL_OPTIONS = (
    Field(
        "inputs",
        "messages",
        "a list of [Input](#input), at most 100: the only variables that a run can be given",
        of="Input",
        most=MAX_INPUTS,
    ),
)

INPUT = (
    Field(
        "name",
        "text",
        "a letter or `_`, then letters, digits, `_`, `-`; 128 in all; none of the spec's `variables`. Required",
        required=True,
        expected="a letter or _, then letters, digits, _ or -",
        pattern=r"[A-Za-z_][A-Za-z0-9_-]{0,127}",
    ),
    Field(
        "type",
        "choice",
        "`string` (default), `boolean` (`true` or `false`), `number` or `choice`",
        options=INPUT_TYPES,
        default="string",
    ),
    Field("description", "text", "kept"),
    Field("default", "text", "the value if none is given; without it every run must be given one"),
    Field("choices", "texts", "of `choice`: the values that are allowed, 1 to 100"),
)

CRON_OPTIONS = (
    Field(
        "schedule",
        "text",
        "five fields: minute, hour, day of the month, month, day of the week, such as `0 3 * * MON-FRI`. Required",
        required=True,
        expected="five fields, such as 0 3 * * MON-FRI",
    ),
    Field("timezone", "text", "a name of the IANA database, such as `Europe/Berlin`; default: `UTC`"),
    Field(
        "startingDeadline",
        "duration",
        "a [duration](#durations) up to `24h`: how late a run may start; default: `1h`",
        zero=True,
    ),
    Field("variables", "text_map", "the variables of its runs"),
)

EVENT_OPTIONS = (
    Field(
        "events",
        "texts",
        "entry types: `run.created`, `run.started`, `run.completed`; at least one. Required",
        required=True,
        options=EVENTS,
    ),
    Field(
        "pipeline",
        "text",
        "name or id of a pipeline of the same project: only events of its runs; default: those of every other "
        "pipeline",
    ),
    Field(
        "statuses",
        "texts",
        "of `run.completed`: `succeeded`, `failed`, `cancelled`; default: any",
        options=FINAL,
    ),
    Field("variables", "text_map", "the variables of its runs"),
)
