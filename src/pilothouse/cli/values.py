"""Values of the command line that need no conversion, kept away from typer's, which loads pydantic for any of them:
a quarter of what a short command costs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, get_args, get_origin


def spare_conversion(params: Iterable[Any]) -> None:
    """Have these parameters of a command ask typer only for values that are not yet what they are to be."""
    for param in params:
        if "get_runtime_param" in vars(param):
            continue
        direct = _Direct(param.type_descriptor.annotation, param.get_runtime_param)
        param.get_runtime_param = direct.itself


class _Direct:
    """Stands in for typer's conversion of one parameter; ``annotation`` is the type of its values."""

    def __init__(self, annotation: Any, conversion: Any) -> None:
        self._annotation = annotation
        self._conversion = conversion

    def itself(self) -> _Direct:
        """In place of the method that makes the conversion."""
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command gets it. Raises typer's error for one that cannot be."""
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
    """Whether a value is of that very type; text is looked at, since an argument may hold bytes that are none."""
    return type(value) is kind and (kind is not str or value.isprintable())
