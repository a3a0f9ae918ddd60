"""Environment variables in specs: names and values that the operating system accepts."""

from __future__ import annotations

import re

from pilothouse.pipelines.spec.nodes import Dictionary, Scalar
from pilothouse.pipelines.spec.problems import child_path, shown
from pilothouse.pipelines.spec.reader import Fields

# execve accepts any name without "="; whitespace and control characters are always mistakes.
NAME_PATTERN = r"[^=\s\x00-\x1f\x7f-\x9f]+"
MAX_BYTES = 131_071  # of NAME=value: the limit of Linux
_NAME = re.compile(NAME_PATTERN)
_NAME_EXPECTED = "a name without =, spaces and control characters, such as LOG_LEVEL"


def read_environment(fields: Fields, name: str) -> dict[str, str]:
    """The map ``name`` of a message; a problem for each entry that is not a valid environment variable."""
    found = fields.text_map(name, rendered=True)
    node = fields.node(name)
    if isinstance(node, Dictionary) and not fields.reading.stored:
        for key, value in node.entries:
            _check(fields, name, key, value)
    return found


def _check(fields: Fields, name: str, key: Scalar, value: object) -> None:
    problems, path = fields.reading.problems, child_path(child_path(fields.path, name), key.text)
    if not _NAME.fullmatch(key.text):
        what = f"{shown(key.text)} cannot be the name of an environment variable" if key.text else ""
        problems.add(key.mark, path, what or "an environment variable needs a name", _NAME_EXPECTED)
    if not isinstance(value, Scalar):
        return
    if "\0" in value.text:
        message = (
            f"the value of {shown(key.text)} holds a NUL character, which an environment variable cannot"
        )
        problems.add(value.mark, path, message, "a text without NUL")
    elif len(key.text.encode()) + len(value.text.encode()) + 1 > MAX_BYTES:
        message = f"the value of {shown(key.text)} is too long for an environment variable"
        problems.add(
            value.mark, path, message, f"at most {MAX_BYTES} bytes, the name and = included; or a file"
        )
