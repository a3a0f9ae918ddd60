"""Pipelines: definitions of runs, kept with their specs, triggered by people and programs."""
