"""``python -m pilothouse``: the ``pilot`` command."""

from __future__ import annotations

import sys

from pilothouse.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
