"""Generated from proto/steprun/v1."""
