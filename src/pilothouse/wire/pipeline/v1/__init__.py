"""Generated from proto/pipeline/v1."""
