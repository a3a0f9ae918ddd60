"""Triggers of saved specs: when they start runs, with whose rights, and why one did not."""
