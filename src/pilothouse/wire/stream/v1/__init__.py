"""Generated from proto/stream/v1."""
