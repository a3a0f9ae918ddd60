"""Generated from proto/steprun."""
