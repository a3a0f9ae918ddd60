"""Pilothouse: one control plane for clusters, pipelines, releases and desktops, on one replayable journal."""

__version__ = "0.1.0"
