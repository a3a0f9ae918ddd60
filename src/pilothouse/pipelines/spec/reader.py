"""Reads the fields of a message from a map; errors are collected as problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pilothouse.pipelines.spec import foreign
from pilothouse.pipelines.spec.canonical import camel_case
from pilothouse.pipelines.spec.fields import Message
from pilothouse.pipelines.spec.nodes import Dictionary, Node, Scalar, Sequence, kind_of
from pilothouse.pipelines.spec.problems import Mark, Problems, child_path, did_you_mean, shown
from pilothouse.wire import durations

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Site:
    """A text with expressions, or a condition; compiled when all jobs are known.

    ``rendered``: its expressions are put in when the step is handed out; elsewhere a text stays as it is.
    """

    node: Scalar
    path: str
    job: str
    condition: bool
    rendered: bool = True


@dataclass(slots=True)
class Reading:
    """The state of parsing one spec. ``job``: the name of the job being read, or "".

    ``stored``: the spec was checked when it was stored, under the rules of that time; later rules do not apply.
    """

    problems: Problems
    stored: bool = False
    sites: list[Site] = field(default_factory=list)
    job: str = ""

    def value(self, node: Node, path: str, *, rendered: bool) -> Any:
        """JSON values, of any type; the texts among them may hold expressions."""
        match node:
            case Scalar():
                self.note(node, path, rendered=rendered)
                return node.value()
            case Sequence():
                return [
                    self.value(item, f"{path}[{index}]", rendered=rendered) for index, item in enumerate(node)
                ]
            case Dictionary():
                return {
                    key.text: self.value(item, child_path(path, key.text), rendered=rendered)
                    for key, item in node.entries
                }
        raise TypeError(f"no such node: {node!r}")

    def text(self, node: Node, path: str, *, rendered: bool = False) -> str | None:
        """A scalar as it is written, whatever type YAML sees in it; None, with a problem, if it is none."""
        if isinstance(node, Scalar):
            self.note(node, path, rendered=rendered)
            return "" if node.is_null else node.text
        self.problems.add(node.mark, path, f"{_last(path)} must be a text, not {kind_of(node)}", "a text")
        return None

    def note(self, node: Scalar, path: str, *, rendered: bool) -> None:
        if "${{" in node.text:
            self.sites.append(Site(node, path, self.job, condition=False, rendered=rendered))

    def fields(self, node: Node, path: str, message: Message) -> Fields | None:
        """The fields of a message; None, with a problem, if ``node`` is no map."""
        if isinstance(node, Dictionary):
            return Fields(self, node, path, message)
        said = f"{_last(path)} must be a map, not {kind_of(node)}"
        expected = foreign.instead_of_map(message.name, node) or f"a map with {_some(message.known)}"
        self.problems.add(node.mark, path, said, expected)
        return None


class Fields:
    """One message, by the names of its fields in camelCase; snake_case is read as well."""

    def __init__(self, reading: Reading, node: Dictionary, path: str, message: Message) -> None:
        self.reading = reading
        self.mark = node.mark
        self.path = path
        self.message = message
        self._values: dict[str, Node] = {}
        first: dict[str, str] = {}
        for key, value in node.entries:
            name = message.spellings.get(key.text)
            if name is None:
                self._unknown(key, value)
            elif name in self._values:
                said = f"{key.text} and {first[name]} are the same field"
                self.problem(key.mark, key.text, said, "only one of them")
            else:
                first[name] = key.text
                self._values[name] = value

    def _unknown(self, key: Scalar, value: Node) -> None:
        said = foreign.key(self.message.name, key.text, value)
        if said:
            self.problem(key.mark, key.text, said)
            return
        known = self.message.known
        said = f"unknown key {shown(key.text)}{did_you_mean(key.text, known)}"
        self.problem(key.mark, key.text, said, "one of " + ", ".join(known))

    def problem(self, mark: Mark, name: str, message: str, expected: str = "") -> None:
        """A problem of the field ``name``, or of the whole message if that is ""."""
        path = child_path(self.path, camel_case(name)) if name else self.path
        self.reading.problems.add(mark, path, message, expected)

    def node(self, name: str) -> Node | None:
        """None if the field is absent or null."""
        node = self._values.get(name)
        return None if isinstance(node, Scalar) and node.is_null else node

    def mark_of(self, name: str) -> Mark:
        """Where the field's value is, else where the message is."""
        node = self._values.get(name)
        return node.mark if node else self.mark

    def lacks(self, name: str) -> bool:
        """Whether a list is absent or empty; of another type it is a problem already."""
        node = self.node(name)
        return node is None or (isinstance(node, Sequence) and not node.items)

    def scalar(self, name: str) -> str:
        """The text of a scalar field as it is written, unchecked; "" if it is absent or no scalar."""
        node = self.node(name)
        return node.text if isinstance(node, Scalar) else ""

    def text(self, name: str, *, rendered: bool = False) -> str:
        node = self.node(name)
        if node is None:
            return ""
        return self.reading.text(node, child_path(self.path, name), rendered=rendered) or ""

    def required(self, name: str, expected: str, *, rendered: bool = False) -> str:
        """A required text; "" with a problem if it is missing."""
        node = self.node(name)
        if node is None or (isinstance(node, Scalar) and not node.text.strip()):
            self.problem(self.mark_of(name), name, f"{self.message.what} has no {name}", expected)
            return ""
        return self.text(name, rendered=rendered)

    def condition(self, name: str) -> str:
        node = self.node(name)
        if isinstance(node, Scalar):
            if node.text.strip():
                site = Site(node, child_path(self.path, name), self.reading.job, condition=True)
                self.reading.sites.append(site)
            return node.text.strip()
        if node is not None:
            self.problem(
                node.mark, name, f"{name} must be a condition, not {kind_of(node)}", "a CEL expression"
            )
        return ""

    def boolean(self, name: str) -> bool:
        node = self.node(name)
        value = node.value() if isinstance(node, Scalar) else node
        if isinstance(value, bool):
            return value
        if node is not None:
            given = shown(node.text) if isinstance(node, Scalar) else kind_of(node)
            self.problem(node.mark, name, f"{name} must be true or false, not {given}", "true or false")
        return False

    def integer(self, name: str, least: int, most: int) -> int:
        """Within the bounds; ``least``, with a problem, if it is missing or is not."""
        node = self.node(name)
        value = node.value() if isinstance(node, Scalar) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        given = f", not {shown(node.text)}" if isinstance(node, Scalar) else ""
        self.problem(self.mark_of(name), name, f"{name} must be a whole number{given}", f"{least} to {most}")
        return least

    def duration(self, name: str, *, zero: bool = False) -> str:
        """Canonical text, "" if absent. ``zero``: whether 0s is allowed."""
        node = self.node(name)
        text = self.text(name) if node else ""
        if node is None or not text:
            return ""
        try:
            duration = durations.parse_duration(text)
        except durations.DurationError as error:
            self.problem(node.mark, name, f"{name}: {error}", durations.EXPECTED)
            return ""
        if not duration.seconds and not zero:
            self.problem(node.mark, name, f"{name} must be longer than 0s", durations.EXPECTED)
        return duration.text

    def choice(self, name: str, options: tuple[str, ...], default: str) -> str:
        """One of ``options``, whatever its case; ``default`` if absent, or with a problem if it is none."""
        text = self.text(name)
        found = next((option for option in options if option.lower() == text.lower()), None)
        if text and found is None:
            message = f"{name} cannot be {shown(text)}{did_you_mean(text, options)}"
            self.problem(self.mark_of(name), name, message, "one of " + ", ".join(options))
        return found or default

    def text_map(self, name: str, *, rendered: bool = False) -> dict[str, str]:
        node = self.node(name)
        if node is None:
            return {}
        path = child_path(self.path, name)
        if not isinstance(node, Dictionary):
            self.problem(
                node.mark, name, f"{name} must be a map of texts, not {kind_of(node)}", "NAME: value"
            )
            return {}
        found = {
            key.text: self.reading.text(value, child_path(path, key.text), rendered=rendered)
            for key, value in node.entries
        }
        return {key: value for key, value in found.items() if value is not None}

    def struct(self, name: str) -> dict[str, Any]:
        """A map of any JSON values."""
        node = self.node(name)
        if node is None:
            return {}
        if not isinstance(node, Dictionary):
            self.problem(node.mark, name, f"{name} must be a map, not {kind_of(node)}", "name: value")
            return {}
        path = child_path(self.path, name)
        value: dict[str, Any] = self.reading.value(node, path, rendered=name == "args")
        return value

    def items(self, name: str) -> Iterator[tuple[Node, str]]:
        """The elements of a list, each with its path."""
        node = self.node(name)
        if isinstance(node, Sequence):
            path = child_path(self.path, name)
            yield from ((item, f"{path}[{index}]") for index, item in enumerate(node))
        elif node is not None:
            expected = foreign.instead_of_list(name, node) or 'a list: "- " before each element'
            self.problem(node.mark, name, f"{name} must be a list, not {kind_of(node)}", expected)

    def messages_of(self, name: str, message: Message, build: Callable[[Fields], T]) -> tuple[T, ...]:
        """A list of messages, each built from its fields."""
        found = (self.reading.fields(item, path, message) for item, path in self.items(name))
        return tuple(build(fields) for fields in found if fields is not None)

    def empty(self, message: Message, build: Callable[[Fields], T]) -> T:
        """A message built from no fields at all, in place of one that was left out."""
        return build(Fields(self.reading, Dictionary(self.mark, 1, ()), self.path, message))

    def message_of(self, name: str, message: Message, build: Callable[[Fields], T]) -> T | None:
        node = self.node(name)
        fields = None if node is None else self.reading.fields(node, child_path(self.path, name), message)
        return None if fields is None else build(fields)


def _last(path: str) -> str:
    return path.rpartition(".")[2] or "the spec"


def _some(known: tuple[str, ...]) -> str:
    return ", ".join(known[:4]) + (", ..." if len(known) > 4 else "")
