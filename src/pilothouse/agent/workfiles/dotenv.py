"""Reads dotenv reports with the rules of GitLab: ``KEY=value`` lines of letters, digits and ``_``, in UTF-8, at most
5 KiB; the last duplicate wins. There are no comments, quotes, substitutions or values of several lines."""

from __future__ import annotations

import re

MAX_BYTES = 5 << 10
MAX_VARIABLES = 150
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class BadDotenv(Exception):
    """The file breaks a rule; the message names the line and holds nothing of it, since it may be a secret."""


def parse(data: bytes) -> dict[str, str]:
    """The variables, in the order of their first line. Raises :class:`BadDotenv`."""
    if len(data) > MAX_BYTES:
        raise BadDotenv(f"it has more than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadDotenv("it is not UTF-8") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise BadDotenv(f"line {number} is not KEY=value (values of several lines are not supported)")
        if not _KEY.fullmatch(key.strip()):
            raise BadDotenv(
                f"line {number}: a key has letters, digits and _, and does not begin with a digit; "
                "comments are not supported"
            )
        if "\0" in value:
            raise BadDotenv(f"line {number} has a NUL character")
        found[key.strip()] = value.strip()
    if len(found) > MAX_VARIABLES:
        raise BadDotenv(f"it has more than {MAX_VARIABLES} variables")
    return found
