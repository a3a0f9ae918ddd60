"""Which settings may change while the server runs, and what values they may have; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any

from pydantic import SecretStr, TypeAdapter, ValidationError

from pilothouse.access.errors import Refusal
from pilothouse.access.quotas import Quotas
from pilothouse.edge.limits import OFF, RateLimitSettings, parse_rate
from pilothouse.server.settings import Settings

RATES = tuple(f"ratelimit_{field.name}" for field in fields(RateLimitSettings))
QUOTAS = tuple(f"quota_{field.name}" for field in fields(Quotas))
CHANGEABLE = frozenset({*RATES, *QUOTAS, "retention", "artifact_retention"})
"""What admins may change over the API: nothing that locks them out, or decides where data is."""
MOST = 2**53
"""Numbers up to here are exact in JSON, and fit into a statement."""
MASKED = "**********"


def rate_limits(settings: Settings) -> RateLimitSettings:
    """The settings ``ratelimit_…``."""
    return RateLimitSettings(
        **{field.name: getattr(settings, f"ratelimit_{field.name}") for field in fields(RateLimitSettings)}
    )


def parsed(name: str, value: Any) -> Any:
    """The value of a setting. Raises ``SETTING_FIXED``, ``VALIDATION_FAILED``."""
    if name not in Settings.model_fields:
        raise Refusal.of("VALIDATION_FAILED", f"There is no setting {name[:64]!r}", field=name[:64])
    if name not in CHANGEABLE:
        raise Refusal.of(
            "SETTING_FIXED",
            f"{name} cannot change while the server runs: set PILOT_{name.upper()} and restart the server",
            field=name,
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number and Settings.model_fields[name].annotation in (int, float):
        raise _wrong(name, "it is a number")
    if isinstance(value, bool):
        raise _wrong(name, "it is not true or false")
    try:
        found = _type(name).validate_python(value)
    except ValidationError as error:
        raise _wrong(name, error.errors()[0]["msg"]) from None
    if name in RATES:
        _check_rate(name, found)
    elif found > MOST:  # also of a size that was given as a text
        raise _wrong(name, f"it is a number of at most {MOST}")
    return found


def _check_rate(name: str, value: str) -> None:
    if value.strip().lower() == OFF:
        return
    try:
        amount, _ = parse_rate(value)
    except ValueError:
        raise _wrong(name, "it is a rate such as 100/minute, or off") from None
    if not amount:
        raise _wrong(name, "a rate of 0 refuses every request, also the one that would change it back")


def shown(settings: Settings, name: str) -> Any:
    """The value of a setting in JSON; secrets are masked."""
    value = getattr(settings, name)
    if isinstance(value, SecretStr):
        return MASKED
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [str(item) for item in value] if isinstance(value, list) else str(value)


def with_changes(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings in force: those of the server's start, and what was changed since."""
    return settings.model_copy(update=dict(changes))


def _wrong(name: str, why: str) -> Refusal:
    return Refusal.of("VALIDATION_FAILED", f"{name}: {why}", field=name)


@cache
def _type(name: str) -> TypeAdapter[Any]:
    field = Settings.model_fields[name]
    kind: Any = field.annotation
    return TypeAdapter(Annotated[kind, *field.metadata] if field.metadata else kind)
