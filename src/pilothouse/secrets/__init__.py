"""Secrets: write-only values, encrypted at rest, inserted into tasks when these are sent to agents."""
