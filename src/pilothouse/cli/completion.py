"""Completion for the shell: commands and options from ``commands.json``, live values from a cache.

Answers from what is at hand and never waits for the network: where the cache is older than a few seconds, a process
of its own (``refresh.py``) renews it for the next time. A shell evaluates what it is given, so only plain words are
offered, whoever named them. This module and what it imports do without typer, dataclasses, typing and pathlib: they
take longer to load than all the rest, and a person waits for every answer.
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
    """A word that fits, and what it is."""

_COMMANDS = os.path.join(os.path.dirname(__file__), "commands.json")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]*")
_HARMLESS = re.compile(r"[^A-Za-z0-9 ._/@+=-]")

# What a parameter of that name takes: by the group of its command ("" for any group) and its own name.
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
"""Parameters that name something that is yet to be made."""


def answer(instruction: str) -> str | None:
    """What the shell wants to hear; ``None`` if typer is to answer. The words so far are in the environment."""
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
    return "\n".join(f"{value}\t{told}" if told else value for value, told in items)


def _typed(shell: str) -> tuple[list[str], str]:
    """The whole words after ``pilot``, and the one that is being typed."""
    if shell == "bash":
        return _typed_in_bash(os.environ.get("COMP_WORDS", ""), int(os.environ.get("COMP_CWORD", "0") or 0))
    text = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words = text.split()[1:]
    if words and not text.endswith(" "):
        return words[:-1], words[-1]
    return words, ""


def _typed_in_bash(line: str, at: int) -> tuple[list[str], str]:
    """The same of ``COMP_WORDS``. The script joins the words with the first character of ``IFS``, a newline.

    Bash takes ``--output=json`` for three words, of which ``=`` is one.
    """
    words = line.split("\n" if "\n" in line else " ")
    incomplete = words[at] if at < len(words) else ""
    return [word for word in words[1:at] if word not in ("", "=")], "" if incomplete == "=" else incomplete


def _for_zsh(items: list[Item]) -> str:
    if not items:
        return "_files"
    words = "\n".join(f'"{value}":"{told}"' if told else f'"{value}"' for value, told in items)
    return f"_arguments '*: :(({words}))'"


def items_for(words: list[str], incomplete: str) -> Iterator[Item]:
    """What may come after these words."""
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
        yield from ((each["spellings"][0], harmless(each["help"])) for each in command["options"])
        yield "--help", "Show this message and exit."
    else:
        yield from ((name, harmless(told)) for name, told in command["commands"].items())
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
        yield "last", "the newest run of the pipeline here"
    cache = Cache(given.get("server", ""), given.get("context", ""))
    for value, told in cache.contexts() if kind == "contexts" else cache.values(kind):
        if _PLAIN.fullmatch(value):
            yield value, harmless(told)


def harmless(text: str) -> str:
    """Without what a shell could take for anything but text."""
    return _HARMLESS.sub("", text)
