"""Files that steps hand on to later jobs and to users (docs/decisions/0016-artifacts.md)."""
