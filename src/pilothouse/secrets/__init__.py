"""Secrets: write-only values, encrypted at rest, put into work when it is handed out."""
