"""``python -m bench [names…] [--quick] [--full]``: run the measures and write docs/performance.md."""

from __future__ import annotations

import argparse
import importlib

from bench.common import Lab, Options

MEASURES = ("fanout",)

def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    options = Options(given.quick, given.full)
    with Lab.open() as lab:
        for name in given.names or MEASURES:
            for row in importlib.import_module(f"bench.{name}").measure(lab, options):
                print(row, flush=True)

main()
