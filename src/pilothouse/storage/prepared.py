"""Statements of the hot path: compiled once, then run on the driver.

SQLAlchemy's execution of a small statement costs several times as much as SQLite's. Everything else uses
``conn.execute``.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql import ClauseElement

from pilothouse.storage import outages
from pilothouse.storage.database import driver

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The text for one driver; ``order``: the names of positional parameters, ``None`` if they are named."""

    text: str
    order: tuple[str, ...] | None
    fixed: dict[str, Any]

    def parameters(self, values: Values) -> Any:
        values = {**self.fixed, **values} if self.fixed else values
        return values if self.order is None else [values[name] for name in self.order]


class Prepared:
    """A statement with bound parameters. Values are texts, numbers, booleans, bytes or ``None``.

    Rows are named tuples of what the driver returns: a boolean is 0 or 1 on SQLite. Lists of values (``IN``) are not
    supported. Raises the driver's errors, and :class:`StorageUnavailable`.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}
        columns = getattr(statement, "exported_columns", None)
        names = [str(column.key) for column in columns] if columns is not None else []
        row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # known only here
        self._row: Callable[[Sequence[Any]], Any] = row._make

    def run(self, conn: Connection, values: Values) -> Any:
        """Execute; returns the driver's cursor."""
        compiled = self._compiled.get(conn.dialect.name) or self._compile(conn)
        if not conn.in_transaction():
            conn.begin()  # as SQLAlchemy does before a first statement
        try:
            return driver(conn).execute(compiled.text, compiled.parameters(values))
        except Exception as error:
            raise outages.translated(conn.engine, error) from error

    def run_many(self, conn: Connection, rows: Sequence[Values]) -> None:
        """Execute once for each of ``rows``."""
        for values in rows:
            self.run(conn, values)

    def all(self, conn: Connection, values: Values) -> list[Any]:
        """All rows."""
        return list(map(self._row, self.run(conn, values).fetchall()))

    def first(self, conn: Connection, values: Values) -> Any | None:
        """The first row, if there is one."""
        found = self.run(conn, values).fetchone()
        return None if found is None else self._row(found)

    def _compile(self, conn: Connection) -> _Compiled:
        compiled: Any = self._statement.compile(dialect=conn.dialect)
        order = tuple(compiled.positiontup) if compiled.positional else None
        fixed = {name: value for name, value in compiled.params.items() if value is not None}
        made = self._compiled[conn.dialect.name] = _Compiled(compiled.string, order, fixed)
        return made
