"""How a step is carried out: `process` (default), `dummy` (tests and benchmarks), containers.

`base` has what every executor takes and gives; `output` turns what a step writes into what is reported.
"""
