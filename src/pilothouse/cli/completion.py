"""Shell completion: commands and options from ``commands.json``, values from a cache.

Never waits for the network: if the cache is older than a few seconds, a background process (``refresh.py``) renews
it for the next call. Shells evaluate completions, so values with special characters are not offered. This module
and its imports avoid typer, dataclasses, typing and pathlib, whose import takes longer than everything else here.
"""

from __future__ import annotations

import json
import os
import re
import sys

from pilothouse.cli.completion_cache import Cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Item = tuple[str, str]
    """A candidate and its description."""

_COMMANDS = os.path.join(os.path.dirname(__file__), "commands.json")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]*")
_HARMLESS = re.compile(r"[^A-Za-z0-9 ._/@+=-]")

# Kind of values a parameter takes, by command group ("" for any) and parameter name.
_LIVE = {
    ("run", "run"): "runs",
    ("", "pipeline"): "pipelines",
    ("pipeline", "name"): "pipelines",
    ("", "project"): "projects",
    ("project", "name"): "projects",
    ("agent", "name"): "agents",
    ("", "context"): "contexts",
    ("config", "name"): "contexts",
}
_NEW = frozenset(
    {("pipeline run", "name"), ("project create", "name"), ("login", "context"), ("agent", "name")}
)
"""Parameters that name a resource to be created."""


def answer(instruction: str) -> str | None:
    """The completion output for the shell; ``None`` to fall back to typer. The words are in the environment."""
    shell = instruction.removeprefix("complete_")
    if shell not in ("bash", "zsh", "fish"):
        return None
    words, incomplete = _typed(shell)
    items = [item for item in items_for(words, incomplete) if item[0].startswith(incomplete)]
    if shell == "bash":
        return "\n".join(value for value, _help in items)
    if shell == "zsh":
        return _for_zsh(items)
    if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        sys.exit(0 if items else 1)
    return "\n".join(f"{value}\t{description}" if description else value for value, description in items)


def _typed(shell: str) -> tuple[list[str], str]:
    """The complete words after ``pilot``, and the incomplete one."""
    if shell == "bash":
        return _typed_in_bash(os.environ.get("COMP_WORDS", ""), int(os.environ.get("COMP_CWORD", "0") or 0))
    text = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words = text.split()[1:]
    if words and not text.endswith(" "):
        return words[:-1], words[-1]
    return words, ""


def _typed_in_bash(line: str, at: int) -> tuple[list[str], str]:
    """Same as :func:`_typed`, from ``COMP_WORDS``, which the script joins with a newline.

    Bash splits ``--output=json`` into three words.
    """
    words = line.split("\n" if "\n" in line else " ")
    incomplete = words[at] if at < len(words) else ""
    return [word for word in words[1:at] if word not in ("", "=")], "" if incomplete == "=" else incomplete


def _for_zsh(items: list[Item]) -> str:
    if not items:
        return "_files"
    words = "\n".join(
        f'"{value}":"{description}"' if description else f'"{value}"' for value, description in items
    )
    return f"_arguments '*: :(({words}))'"


def items_for(words: list[str], incomplete: str) -> Iterator[Item]:
    """Candidates for the next word."""
    with open(_COMMANDS, encoding="utf-8") as file:
        commands: dict[str, Any] = json.load(file)
    path = ""
    command = commands[path]
    given: dict[str, str] = {}
    waiting: Any = None
    taken = 0
    for word in words:
        if waiting is not None:
            given[waiting["name"]], waiting = word, None
        elif word.startswith("-"):
            name, equals, value = word.partition("=")
            option = next((each for each in command["options"] if name in each["spellings"]), None)
            if option is not None and equals:
                given[option["name"]] = value
            elif option is not None and not option["flag"]:
                waiting = option
        elif word in command["commands"]:
            path = f"{path} {word}".lstrip()
            command, taken = commands[path], 0
        else:
            taken += 1
    if waiting is not None:
        yield from _values(path, waiting, given)
    elif incomplete.startswith("-"):
        yield from ((each["spellings"][0], shell_safe(each["help"])) for each in command["options"])
        yield "--help", "Show this message and exit."
    else:
        yield from ((name, shell_safe(description)) for name, description in command["commands"].items())
        arguments = command["arguments"]
        if arguments and (taken < len(arguments) or arguments[-1]["many"]):
            yield from _values(path, arguments[min(taken, len(arguments) - 1)], given)


def _values(path: str, param: dict[str, Any], given: dict[str, str]) -> Iterator[Item]:
    name = param["name"]
    if param["choices"] is not None:
        yield from ((choice, "") for choice in param["choices"])
        return
    kind = _LIVE.get((path.partition(" ")[0], name)) or _LIVE.get(("", name))
    if kind is None or (path, name) in _NEW:
        return
    if kind == "runs":
        yield "last", "newest run of the current pipeline"
    cache = Cache(given.get("server", ""), given.get("context", ""))
    for value, description in cache.contexts() if kind == "contexts" else cache.values(kind):
        if _PLAIN.fullmatch(value):
            yield value, shell_safe(description)


def shell_safe(text: str) -> str:
    """The text without characters that are special to a shell."""
    return _HARMLESS.sub("", text)
