"""Reports of tests that steps read (docs/decisions/0016-artifacts.md)."""
