"""Bypasses typer's conversion for values that need none: it imports pydantic, which takes a quarter of the time of
a short command."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

_NUMBER = {
    int: re.compile(r"[0-9]{1,15}", re.ASCII),
    float: re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII),
}
_PLAIN_PATH = {"exists": False, "file_okay": True, "dir_okay": True, "writable": False, "resolve_path": False}
"""Defaults of typer's options for paths: nothing is checked but that an existing file can be read."""


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
        elif isinstance(value, str) and self._is_plain(value, param):
            return self._annotation(value)
        return self._conversion().coerce(value, param=param, ctx=ctx)

    def _is_plain(self, value: str, param: Any) -> bool:
        """Whether the text is valid for a number or a path, without any doubt."""
        info = param.type_descriptor.parameter_info
        if self._annotation in _NUMBER:
            least, most = info.min, info.max
            return (
                _NUMBER[self._annotation].fullmatch(value) is not None
                and (least is None or float(value) >= least)
                and (most is None or float(value) <= most)
            )
        if self._annotation is Path:
            plain = all(getattr(info, name) == usual for name, usual in _PLAIN_PATH.items())
            return plain and value.isprintable() and (os.access(value, os.R_OK) or not os.path.lexists(value))
        return False


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has exactly that type; strings are checked for bytes that are not valid text."""
    return type(value) is kind and (kind is not str or value.isprintable())
