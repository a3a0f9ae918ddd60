"""Generated from proto/stream."""
