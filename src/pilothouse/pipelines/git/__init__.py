"""Definitions in git repositories (decisions.md, Arcentra; docs/git.md)."""
