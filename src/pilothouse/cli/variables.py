"""Options for the variables of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from pilothouse.cli.errors import UsageError

Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--var", "--input", metavar="NAME=VALUE", help="Variable or input (NAME=VALUE); repeatable."
    ),
]


def variables_of(pairs: list[str]) -> dict[str, str]:
    """Parse ``NAME=VALUE`` pairs; the last value of a name wins. Raises UsageError."""
    variables = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"--var {pair!r}: expected NAME=VALUE")
        variables[name] = value
    return variables
