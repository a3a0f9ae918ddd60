"""Completion for the shell: commands and options from the tree of commands, live values from a cache.

Answers from what is at hand and never waits for the network: where the cache is older than a few seconds, a process
of its own (``refresh.py``) renews it for the next time. A shell evaluates what it is given, so only plain words are
offered, whoever named them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pilothouse.cli.completion_cache import Cache

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


@dataclass(frozen=True, slots=True)
class Item:
    """A word that fits, and what it is."""

    value: str
    help: str = ""


def answer(instruction: str) -> str | None:
    """What the shell wants to hear; ``None`` if typer is to answer. The words so far are in the environment."""
    shell = instruction.removeprefix("complete_")
    if shell not in ("bash", "zsh", "fish"):
        return None
    words, incomplete = _typed(shell)
    items = [item for item in items_for(words, incomplete) if item.value.startswith(incomplete)]
    if shell == "bash":
        return "\n".join(item.value for item in items)
    if shell == "zsh":
        return _for_zsh(items)
    if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        sys.exit(0 if items else 1)
    return "\n".join(f"{item.value}\t{item.help}" if item.help else item.value for item in items)


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
    told = "\n".join(f'"{item.value}":"{item.help}"' if item.help else f'"{item.value}"' for item in items)
    return f"_arguments '*: :(({told}))'"


def items_for(words: list[str], incomplete: str) -> Iterator[Item]:
    """What may come after these words."""
    import typer.main

    from pilothouse.cli.app import app

    command: Any = typer.main.get_command(app)
    path: list[str] = []
    given: dict[str, str] = {}
    waiting: Any = None
    taken = 0
    for word in words:
        if waiting is not None:
            given[waiting.name], waiting = word, None
        elif word.startswith("-"):
            name, equals, value = word.partition("=")
            param = _option(command, name)
            if param is not None and equals:
                given[param.name] = value
            elif param is not None and not param.is_flag:
                waiting = param
        elif word in getattr(command, "commands", {}):
            command, taken = command.commands[word], 0
            path.append(word)
        else:
            taken += 1
    if waiting is not None:
        yield from _values(path, waiting, given)
    elif incomplete.startswith("-"):
        yield from _options(command)
    else:
        yield from _commands(command)
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        if arguments and (taken < len(arguments) or arguments[-1].nargs == -1):
            yield from _values(path, arguments[min(taken, len(arguments) - 1)], given)


def _option(command: Any, name: str) -> Any:
    options = (param for param in command.params if param.param_type_name == "option")
    return next((param for param in options if name in (*param.opts, *param.secondary_opts)), None)


def _options(command: Any) -> Iterator[Item]:
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden:
            longest = max((*param.opts, *param.secondary_opts), key=len)
            yield Item(longest, harmless(param.help or ""))
    yield Item("--help", "Show this message and exit.")


def _commands(command: Any) -> Iterator[Item]:
    for name, each in getattr(command, "commands", {}).items():
        if not each.hidden:
            yield Item(name, harmless(each.get_short_help_str(60)))


def _values(path: list[str], param: Any, given: dict[str, str]) -> Iterator[Item]:
    choices = param.type_descriptor.choices
    if choices is not None:
        yield from (Item(str(getattr(choice, "value", choice))) for choice in choices)
        return
    kind = _LIVE.get((path[0] if path else "", param.name)) or _LIVE.get(("", param.name))
    if kind is None or (" ".join(path), param.name) in _NEW:
        return
    if kind == "runs":
        yield Item("last", "the newest run of the pipeline here")
    cache = Cache.of(given.get("server", ""), given.get("context", ""))
    for value, told in cache.contexts() if kind == "contexts" else cache.values(kind):
        if _PLAIN.fullmatch(value):
            yield Item(value, harmless(told))


def harmless(text: str) -> str:
    """Without what a shell could take for anything but text."""
    return _HARMLESS.sub("", text)
