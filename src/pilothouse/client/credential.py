"""Tokens as they come from files, variables and options."""

from __future__ import annotations

import re

from pilothouse.client.errors import BadToken

_TOKEN = re.compile(r"[!-~]+")


def clean_token(given: str, source: str = "the token") -> str:
    """The token without the whitespace around it, such as a file's last newline; empty if there is nothing else.

    Raises BadToken, which names ``source`` and does not show the token, for what no header could carry.
    """
    token = given.strip()
    if token and not _TOKEN.fullmatch(token):
        raise BadToken(
            f"{source} has spaces, control characters or characters outside ASCII in it (it is not shown)"
        )
    return token
