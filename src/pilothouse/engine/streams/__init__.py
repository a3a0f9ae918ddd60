"""Stateless functions from a run's journal entries to the messages of each contract."""
