"""Generated from proto/gateway."""
