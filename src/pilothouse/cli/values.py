"""Bypasses typer's conversion for values that need none: it imports pydantic, which takes a quarter of the time of
a short command."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, get_args, get_origin


def skip_conversion(params: Iterable[Any]) -> None:
    """Make these parameters use typer's conversion only for values that do not have the right type yet."""
    for param in params:
        if "get_runtime_param" in vars(param):
            continue
        direct = _Direct(param.type_descriptor.annotation, param.get_runtime_param)
        param.get_runtime_param = direct.itself


class _Direct:
    """Replaces typer's conversion of one parameter; ``annotation`` is the type of its values."""

    def __init__(self, annotation: Any, conversion: Any) -> None:
        self._annotation = annotation
        self._conversion = conversion

    def itself(self) -> _Direct:
        """Replaces the method that creates the conversion."""
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert a value. Raises typer's error if it is invalid."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if several and get_origin(self._annotation) is list:
            (of,) = get_args(self._annotation)
            if all(_fits(each, of) for each in value):
                return list(value)
        elif _fits(value, self._annotation):
            return value
        elif isinstance(self._annotation, type) and issubclass(self._annotation, Enum):
            for member in self._annotation:
                if value == member.value:
                    return member
        return self._conversion().coerce(value, param=param, ctx=ctx)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has exactly that type; strings are checked for bytes that are not valid text."""
    return type(value) is kind and (kind is not str or value.isprintable())
