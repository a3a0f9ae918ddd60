"""Jobs of the worker pool that work on graphs of runs."""

from __future__ import annotations

import json

from pilothouse.engine.graph_json import decoded
from pilothouse.engine.names import names_of, names_to_json


def names_job(graph: bytes) -> bytes:
    """The names in all expressions of a graph (``graph_json.encoded``), as JSON of ``names_to_json``."""
    return json.dumps(names_to_json(names_of(decoded(graph.decode())))).encode()
