"""Pipelines: definitions of runs, stored with their specs, and triggered over the API."""
