"""Fixtures that several files of tests share."""

from __future__ import annotations

import os

# Before anything imports gRPC: tests that start processes by fork and exec hold clients and servers of it as well.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from hypothesis import HealthCheck, settings

from support import answers, messages
from support.databases import (
    backend,
    database,
    database_of_servers,
    migrated_postgres,
    migrated_sqlite,
    postgres,
)
from support.kernel import kernel
from support.server import one_server, shared_server

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("pilothouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pilothouse")

# Whatever tests receive is checked against the documents of the API.
answers.watch()
messages.watch()

__all__ = [
    "backend",
    "database",
    "database_of_servers",
    "kernel",
    "migrated_postgres",
    "migrated_sqlite",
    "one_server",
    "postgres",
    "shared_server",
]
