"""Generated from proto/agent/v1."""
