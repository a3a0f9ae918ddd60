"""What others wait for beside the worst legal requests (design.md, invariant 10), against a control in the same run.

The attacks, the neighbour and the verdict are those of ``tests/faults/neighbours``; here are those that a server has
to carry out, since they are within all bounds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator

from bench.common import HERE, Lab, Options, Row, missed

sys.path.insert(0, str(HERE.parent / "tests"))

from faults.neighbours.stage import BAR, HOPS, Report, Stages

LEGAL = (
    "heavy specs of ten",
    "heavy saves",
    "costly conditions",
    "runs of 5,000 steps",
    "outputs that conditions read",
    "a flood of lines",
    "eight million lines",
    "a flood to mask",
    "a flood of events",
    "replays",
    "whole logs",
    "at the limit",
)
QUICK = LEGAL[:2]


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Each in turns with phases without it; the worst of them is the row."""
    directory = lab.directory / "neighbours"
    directory.mkdir()
    with Stages(lambda: directory) as stages, stages.one() as made:
        names = QUICK if options.quick else LEGAL
        reports = {name: made.attack(name, thorough=not options.quick) for name in names}
    name, worst = max(reports.items(), key=lambda pair: pair[1].worst)
    alone, beside = _latest(worst)
    yield Row(
        f"others' p99 beside the worst legal requests ({name})",
        f"{beside * 1e3:.0f} ms",
        f"{alone * 1e3:.0f} ms (without them)",
        f"{worst.worst:+.2f} s",
        f"≤ +{BAR} s",
        worst.worst <= BAR,
        missed(worst.worst, BAR, least=False),
    )


def _latest(report: Report) -> tuple[float, float]:
    """The 99th percentile of the operation that suffered most, without and with the attack; s of a request."""
    kind = max(report.beside, key=lambda kind: report.excess(kind) / HOPS.get(kind, 1))
    hops = HOPS.get(kind, 1)
    return statistics.median_low(report.alone[kind]) / hops, statistics.median(report.beside[kind]) / hops
