"""Receives log lines and events of step attempts from agents: masked, in order, and exactly once."""
