"""Generated from proto/agent."""
