"""The built-in actions that need no process of the step: `artifacts`, `reports`, `http` (docs/pipelines.md)."""
