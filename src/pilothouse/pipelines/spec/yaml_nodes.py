"""Parses YAML (and so JSON) text to a tree of nodes.

Uses the parser's events rather than its loader: tags construct nothing, nesting and the expansion of aliases are
bounded, and duplicate keys are detected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from pilothouse.pipelines.spec.nodes import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_TEXT,
    Dictionary,
    Node,
    NodeError,
    Scalar,
    Sequence,
    kind_of,
)
from pilothouse.pipelines.spec.problems import Mark, Problems, child_path, shown

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_TAGS = {None, "!"} | {_CORE + name for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_JSON_ONLY = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_MERGED = "merge keys (<<) are not supported"
_INSTEAD_OF_MERGING = (
    "the keys written out, or an anchor for the whole value (env: &common {…}, then env: *common); "
    "variables that jobs share go into runtime.env, those that steps share into env of the job"
)
_HINTS = (
    (
        "cannot start any token",
        "a text that begins with @, ` or % goes in quotes",
    ),
    ("mapping values are not allowed", 'a text that holds ": " in quotes, or other indentation'),
    ("',' or '}'", "a comma or }; within { } a text with ${{ }} goes in quotes"),
    ("',' or ']'", "a comma or ]; within [ ] a text with ${{ }} goes in quotes"),
    ("expected <block end>", "the same indentation as the lines it belongs to"),
    ("could not find expected ':'", 'a ":" after the key'),
)


def read_nodes(text: str, problems: Problems) -> Node:
    """The tree of ``text``; a key that comes twice goes to ``problems``. Raises NodeError."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_TEXT:
        raise NodeError(Mark(1, 1), f"the spec has {len(text)} characters, the bound is {MAX_TEXT}")
    if (match := re.search("[\ud800-\udfff]", text)) is not None:
        raise NodeError(_mark_at(text, match.start()), "an unpaired surrogate: the text is not valid Unicode")
    if text.lstrip().startswith("{"):
        text = _as_yaml(text)
    try:
        return _Composer(text, problems).document()
    except yaml.MarkedYAMLError as error:
        raise _unreadable(error, text) from None
    except yaml.reader.ReaderError as error:
        position = min(error.position, len(text))
        raise NodeError(_mark_at(text, position), "a control character, which YAML does not allow") from None


def _as_yaml(json: str) -> str:
    """Rewrites what JSON allows and YAML does not: surrogate pairs as escapes, and a few characters."""
    return _JSON_ONLY.sub(lambda match: f"\\u{ord(match[0]):04x}", _SURROGATES.sub(_joined, json))


def _joined(match: re.Match[str]) -> str:
    point = 0x10000 + ((int(match[2], 16) & 0x3FF) << 10) + (int(match[3], 16) & 0x3FF)
    return f"{match[1]}\\U{point:08x}"


def _mark_at(text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(before.count("\n") + 1, position - before.rfind("\n"))


def _unreadable(error: yaml.MarkedYAMLError, text: str) -> NodeError:
    mark = error.problem_mark or error.context_mark
    place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
    line = text.splitlines()[place.line - 1 : place.line]
    if line and line[0][place.column - 1 :].startswith("\t"):
        return NodeError(place, "a tab, which YAML does not allow here", "spaces for indentation")
    said = ", ".join(filter(None, (error.context, error.problem)))
    hint = next((hint for word, hint in _HINTS if word in said), "")
    if error.context_mark and mark and error.context_mark.line != mark.line:
        said += f", begun on line {error.context_mark.line + 1}"
    return NodeError(place, f"this is not YAML: {said}", hint)


class _Composer:
    def __init__(self, text: str, problems: Problems) -> None:
        self._text = text
        self._problems = problems
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, tuple[Node, int]] = {}  # each with the characters of its texts
        self._count = 0
        self._characters = 0

    def document(self) -> Node:
        """The one document. Raises NodeError if there is none or more."""
        found: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found is not None:
                    raise NodeError(_start(event), "a second document begins here", "one spec in a text")
                found = self._node(next(self._events), "", 1)
        if found is None or (isinstance(found, Scalar) and found.is_null):
            raise NodeError(Mark(1, 1), "the spec is empty", "a map with jobs")
        return found

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        mark = _start(event)
        if depth > MAX_DEPTH:
            raise NodeError(mark, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            if (anchored := self._anchors.get(event.anchor or "")) is None:
                name = shown(event.anchor or "")[1:-1]
                raise NodeError(mark, f"*{name} refers to an anchor that is not complete before it")
            self._grow(anchored[0].weight, anchored[1], mark)
            return anchored[0]
        before = self._characters
        self._grow(1, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0, mark)
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise NodeError(mark, "a value is missing here")
        if event.tag not in _TAGS:
            raise NodeError(mark, f"the tag {shown(str(event.tag))} is not allowed", "plain YAML")
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, path, depth)
        else:
            node = self._dictionary(mark, path, depth)
        if event.anchor:
            self._anchors[event.anchor] = node, self._characters - before
        return node

    def _grow(self, weight: int, characters: int, mark: Mark) -> None:
        self._count += weight
        self._characters += characters
        if self._count > MAX_NODES:
            raise NodeError(mark, f"the spec holds more than {MAX_NODES} values, with every alias expanded")
        if self._characters > MAX_TEXT:
            raise NodeError(
                mark, f"the spec holds more than {MAX_TEXT} characters, with every alias expanded"
            )

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> Scalar:
        plain = not event.style and event.tag not in ("!", _CORE + "str")
        start, end = event.start_mark, event.end_mark
        source = self._text[start.index : end.index] if start and end else ""
        return Scalar(mark, 1, event.value, plain, source)

    def _sequence(self, mark: Mark, path: str, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}[{len(items)}]", depth + 1))
        return Sequence(mark, 1 + sum(item.weight for item in items), tuple(items))

    def _dictionary(self, mark: Mark, path: str, depth: int) -> Dictionary:
        entries: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, path, depth + 1)
            if not isinstance(key, Scalar):
                raise NodeError(key.mark, f"a key must be a text, not {kind_of(key)}")
            value = self._node(next(self._events), child_path(path, key.text), depth + 1)
            if key.text == "<<" and key.plain:
                self._problems.add(key.mark, child_path(path, "<<"), _MERGED, _INSTEAD_OF_MERGING)
                continue
            if (first := entries.setdefault(key.text, (key, value))[0]) is not key:
                message = (
                    f"the key {shown(key.text)} comes twice in this map, first on line {first.mark.line}"
                )
                self._problems.add(key.mark, child_path(path, key.text), message, "every key once")
        weight = 1 + sum(value.weight for _, value in entries.values())
        return Dictionary(mark, weight, tuple(entries.values()))


def _start(event: yaml.Event) -> Mark:
    mark = event.start_mark
    return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
