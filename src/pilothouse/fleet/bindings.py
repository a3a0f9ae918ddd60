"""What a registration token allows: which agents it registers, the projects they serve, their labels; pure.

decisions.md, "StreamSpace", the paragraph on registration tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import orjson

from pilothouse.wire.bounds import MAX_ENTRIES, MAX_ENTRY

_NAME = re.compile(r"[A-Za-z0-9._*?\[\]!-]+")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*(=[^\x00]*)?")
_OWN_LABELS = frozenset({"os", "arch"})
"""Labels that every agent has by itself; allowed unless a token says something about the key."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Restrictions of an agent, from the token that it registered with.

    ``projects``: ids of those whose work it gets, ``None`` for all; ``labels``: the keys, or ``key=value``, that
    it may have, ``None`` for any.
    """

    projects: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None

    def serves(self, project: str) -> bool:
        """Whether work of this project may go to the agent."""
        return self.projects is None or project in self.projects

    def refused(self, labels: Mapping[str, str]) -> list[str]:
        """Those labels, as ``key=value``, that are not among the allowed ones."""
        if self.labels is None:
            return []
        allowed = frozenset(self.labels)
        limited = {entry.partition("=")[0] for entry in allowed}
        return [
            f"{key}={value}"
            for key, value in labels.items()
            if key not in allowed
            and f"{key}={value}" not in allowed
            and (key in limited or key not in _OWN_LABELS)
        ]


UNBOUND = Binding()
"""All projects, any labels."""


def names_agent(patterns: Collection[str], agent_id: str) -> bool:
    """Whether one of these names or globs (``*``, ``?``, ``[…]``) is this agent's name."""
    return any(fnmatchcase(agent_id, pattern) for pattern in patterns)


def problem(kind: str, entries: Sequence[str]) -> str:
    """Why a token cannot list these ``agents`` or ``labels``; empty if it can."""
    if len(entries) > MAX_ENTRIES:
        return f"a registration token lists at most {MAX_ENTRIES} {kind}"
    shape = _NAME if kind == "agents" else _LABEL
    for entry in entries:
        if len(entry) > MAX_ENTRY or not shape.fullmatch(entry):
            form = "names of agents or globs" if kind == "agents" else "KEY or KEY=VALUE"
            return f"{kind}: {entry[:40]!r} is not valid: {form}, at most {MAX_ENTRY} characters each"
    return ""


def listed(entries: tuple[str, ...] | None) -> str | None:
    """Names, projects or labels as they are stored."""
    return None if entries is None else orjson.dumps(entries).decode()


def unlisted(text: str | None) -> tuple[str, ...] | None:
    """The opposite of :func:`listed`."""
    return None if text is None else tuple(orjson.loads(text))
