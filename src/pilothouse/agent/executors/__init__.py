"""Executors, which run steps: `process` (default) and `dummy` (tests and benchmarks).

`base` defines their interface; `output` converts the output of a step into log lines and events.
"""
