"""Benchmarks: ratios against a reference implementation in the same run. ``python -m bench [names…] [--quick]``."""
