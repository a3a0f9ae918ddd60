"""Generate src/pilothouse/cli/commands.json, the data of shell completion, from the command tree.

    python tools/generate_commands.py            write it
    python tools/generate_commands.py --check    exit 1 if the file is out of date

Building the commands at every completion would be too slow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from pilothouse.cli.app import build

FILE = Path(__file__).resolve().parents[1] / "src" / "pilothouse" / "cli" / "commands.json"
_SHORT = 60
"""Maximum length of the help text of a candidate."""


def generated() -> str:
    """The file's text: an object by command path, one command per line."""
    lines = [
        f"{json.dumps(path)}: {json.dumps(command)}"
        for path, command in commands(typer.main.get_command(build()), ())
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A command and its subcommands by path."""
    inner = {name: each for name, each in getattr(command, "commands", {}).items() if not each.hidden}
    params = [param for param in command.params if not param.hidden]
    yield (
        " ".join(path),
        {
            "commands": {name: each.get_short_help_str(_SHORT) for name, each in inner.items()},
            "arguments": [argument(each) for each in params if each.param_type_name == "argument"],
            "options": [option(each) for each in params if each.param_type_name == "option"],
        },
    )
    for name, each in inner.items():
        yield from commands(each, (*path, name))


def argument(param: Any) -> dict[str, Any]:
    """An argument: name, choices, and whether it takes all remaining words."""
    return {"name": param.name, "choices": choices(param), "many": param.nargs == -1}


def option(param: Any) -> dict[str, Any]:
    """An option with all its spellings, longest first."""
    spellings = sorted((*param.opts, *param.secondary_opts), key=len, reverse=True)
    return {
        "name": param.name,
        "spellings": spellings,
        "flag": bool(param.is_flag),
        "choices": choices(param),
        "help": param.help or "",
    }


def choices(param: Any) -> list[str] | None:
    """The choices of a parameter, if any."""
    given = param.type_descriptor.choices
    return None if given is None else [str(getattr(each, "value", each)) for each in given]


def main(arguments: list[str]) -> int:
    """Write or check the file; returns the exit code."""
    text = generated()
    if arguments != ["--check"]:
        FILE.write_text(text, "utf-8")
    elif FILE.read_text("utf-8") != text:
        print(f"{FILE} is out of date: run python tools/generate_commands.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
