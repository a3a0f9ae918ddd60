"""Generated from proto/pipeline."""
