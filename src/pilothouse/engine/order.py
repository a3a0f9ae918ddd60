"""The order of jobs by their dependencies. Without recursion, since a chain can have thousands of jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def levels(depends: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Levels of jobs, from names and the names they depend on: each job's dependencies are in earlier levels.

    Within a level in the order of ``depends``. Jobs in a cycle, or that depend on one, are omitted.
    """
    place = {name: position for position, name in enumerate(depends)}
    waiting = {name: len(set(needs)) for name, needs in depends.items()}
    dependents: dict[str, list[str]] = {}
    for name, needs in depends.items():
        for need in set(needs):
            dependents.setdefault(need, []).append(name)
    found: list[list[str]] = []
    level = [name for name, count in waiting.items() if not count]
    while level:
        found.append(level)
        freed: list[str] = []
        for name in level:
            for dependent in dependents.get(name, ()):
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    freed.append(dependent)
        level = sorted(freed, key=place.__getitem__)
    return found


def find_cycle(depends: Mapping[str, Collection[str]]) -> list[str]:
    """The names in one cycle, each depending on the next, and the last on the first; [] if there is none."""
    ordered = {name for level in levels(depends) for name in level}
    path: list[str] = []
    name = next((name for name in depends if name not in ordered), "")
    while name and name not in path:
        path.append(name)
        # Each name that could not be ordered depends on another such name.
        name = next(need for need in depends[name] if need not in ordered)
    return path[path.index(name) :] if path else []


class Upstream:
    """The transitive dependencies of jobs, as bit sets: a dense graph has too many pairs for sets of names."""

    def __init__(self, depends: Mapping[str, Collection[str]]) -> None:
        self._bit = {name: 1 << position for position, name in enumerate(depends)}
        self._before: dict[str, int] = {}
        for level in levels(depends):
            for name in level:
                self._before[name] = 0
                for need in depends[name]:
                    self._before[name] |= self._bit[need] | self._before[need]

    def holds(self, earlier: str, name: str) -> bool:
        """Whether ``earlier`` always ends before ``name`` starts."""
        return bool(self._before.get(name, 0) & self._bit.get(earlier, 0))
