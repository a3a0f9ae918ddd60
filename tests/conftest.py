"""Fixtures that several files of tests share."""

from __future__ import annotations

from support.databases import backend, database, migrated_postgres, migrated_sqlite, postgres
from support.kernel import kernel

__all__ = ["backend", "database", "kernel", "migrated_postgres", "migrated_sqlite", "postgres"]
