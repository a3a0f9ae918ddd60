"""Tokens from files, variables and options."""

from __future__ import annotations

import re

from pilothouse.client.errors import BadToken

_TOKEN = re.compile(r"[!-~]+")


def clean_token(given: str, source: str = "the token") -> str:
    """The token without surrounding whitespace, such as the last newline of a file; can be empty.

    Raises BadToken, which names ``source`` but does not contain the token, for characters not allowed in
    headers.
    """
    token = given.strip()
    if token and not _TOKEN.fullmatch(token):
        raise BadToken(
            f"{source} has spaces, control characters or characters outside ASCII in it (it is not shown)"
        )
    return token
