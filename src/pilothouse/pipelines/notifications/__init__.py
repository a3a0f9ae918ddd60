"""Notifications of pipelines: which are due, how they are delivered, and what became of them."""
