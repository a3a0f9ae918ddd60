"""Hints for keys and names of other products, which are listed in foreign_words.py."""

from __future__ import annotations

import re

from pilothouse.pipelines.spec import foreign_words as words
from pilothouse.pipelines.spec.messages import MESSAGES
from pilothouse.pipelines.spec.nodes import Dictionary, Node, Scalar, Sequence
from pilothouse.pipelines.spec.problems import shown

_PLACEHOLDER = re.compile(r"\{(text|list)\|([^}]*)\}")
_ROOT = re.compile(r"([A-Za-z_]+)(?:\.([A-Za-z_]+))?")
_VARIABLE = re.compile(r"\$(?:\{([A-Z_]+)\b|([A-Z_]+)\b)")
_ASSIGNED = re.compile(r"\b([A-Z_]+)=|\bread +(?:-\w+ +)*([A-Z_]+)\b|\bfor +([A-Z_]+)\b")
_SHORT = 40
_HOMES = ("Spec", "Job", "Step")


def key(message: str, name: str, value: Node) -> str:
    """The hint for an unknown key of a message; "" if no other product is known to have it."""
    word = words.KEYS.get(message, {}).get(name)
    if word is not None:
        return f"{shown(name)} is a key of {word.products}: {_filled(word.instead, value)}"
    if message in _HOMES:
        for home in _HOMES:
            ours = MESSAGES[home].spellings.get(name)
            if ours is not None:
                return f"{shown(name)} belongs to {MESSAGES[home].what}, not to {MESSAGES[message].what}"
    if message == "Spec" and isinstance(value, Dictionary) and _is_job(value):
        return f"{shown(name)} looks like a job of {words.GITLAB}: write jobs: [{{name: {name[:_SHORT]}, steps: …}}]"
    return ""


def _is_job(value: Dictionary) -> bool:
    return any(each.text in ("script", "stage", "steps", "extends", "trigger") for each, _ in value.entries)


def _filled(instead: str, value: Node) -> str:
    return _PLACEHOLDER.sub(lambda found: _as(found[1], value) or found[2], instead)


def _as(form: str, value: Node) -> str:
    """The value as one short line; "" if it cannot be."""
    texts = [value] if isinstance(value, Scalar) else list(value) if isinstance(value, Sequence) else []
    plain = [each.text.strip() for each in texts if isinstance(each, Scalar)]
    joined = ", ".join(plain) if form == "list" else plain[0] if len(plain) == 1 else ""
    if len(plain) != len(texts) or not joined or len(joined) > _SHORT or not joined.isprintable():
        return ""
    if "${{" in joined and (root := _ROOT.match(joined.partition("${{")[2].strip())):
        return "" if root[1] in words.EXPRESSIONS else joined
    return f"[{joined}]" if form == "list" else joined


def instead_of_map(message: str, node: Node) -> str:
    """What is right where a message of that name is written as a plain text; "" if that is not known."""
    if message != "Step" or not isinstance(node, Scalar) or node.is_null:
        return ""
    text = " ".join(node.text.split())
    if text in words.STEPS:
        return words.STEPS[text]
    return f"a map such as {{name: test, run: {text}}}" if len(text) <= _SHORT else "a map with name and run"


def instead_of_list(name: str, node: Node) -> str:
    """The same where the list ``name`` is written as a map, as other products write their jobs."""
    if name not in ("jobs", "steps") or not isinstance(node, Dictionary) or not node.entries:
        return ""
    first = " ".join(node.entries[0][0].text.split())[:_SHORT]
    return f'a list: "- name: {first}" in place of "{first}:"'


def action(uses: str) -> str:
    """What replaces an action of GitHub Actions; "" if the text does not look like one."""
    name, at, _ = uses.partition("@")
    if not at and not name.startswith("actions/"):
        return ""
    if "/setup-" in name or name.startswith("setup-"):
        return words.SETUP_ACTION
    return words.ACTIONS.get(name, words.OTHER_ACTION)


def condition(text: str) -> str:
    """What replaces a condition of another product; "" if it is unknown."""
    return words.CONDITIONS.get(text.strip(), "")


def expression(source: str) -> str:
    """What to write in place of a name that ``source`` begins with, such as github.sha; "" if not known."""
    found = _ROOT.match(source)
    if found is None:
        return ""
    return words.EXPRESSIONS.get(found[0], "") or words.EXPRESSIONS.get(found[1], "")


def variables(script: str) -> dict[str, str]:
    """Variables in a shell text that other products set, and what is set here instead ("" for nothing).

    What the text itself assigns is left out.
    """
    if "$" not in script:
        return {}
    used = {match[1] or match[2]: None for match in _VARIABLE.finditer(script)}
    named = [name for name in used if name in words.VARIABLES]
    if not named:
        return {}
    assigned = {name for match in _ASSIGNED.finditer(script) for name in match.groups() if name}
    return {name: words.VARIABLES[name] for name in named if name not in assigned}
