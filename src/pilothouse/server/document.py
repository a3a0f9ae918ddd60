"""The OpenAPI document of this release without a server: ``python -m pilothouse.server.document``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pilothouse.server.app import build_app
from pilothouse.server.graph import build
from pilothouse.server.settings import Settings


def openapi() -> dict[str, Any]:
    """What ``GET /openapi.json`` answers."""
    with tempfile.TemporaryDirectory() as directory:
        graph = build(Settings.model_validate({"data_dir": Path(directory)}))
        try:
            found: dict[str, Any] = build_app(graph).openapi()
        finally:
            graph.database.close()
    return found


if __name__ == "__main__":
    json.dump(openapi(), sys.stdout, indent=1, ensure_ascii=False)
    print()
