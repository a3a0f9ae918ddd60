"""A run with much output of several kinds, and its expected result."""

from __future__ import annotations

from pathlib import Path

from support.faults.audience import check_surfaces
from support.faults.checker import Journal
from support.faults.fleet import Fleet, dummy, on, shell

LINES = [f"line {n}" for n in range(1, 401)]


def talkative(agent: str, ledger: Path) -> dict[str, object]:
    """Three steps of different kinds at once, and one after the other."""
    print_all = (
        f"echo $PILOT_STEP_RUN_ID >> {ledger}; i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; done"
    )
    paced = f"echo $PILOT_STEP_RUN_ID >> {ledger}; for i in $(seq 1 400); do echo line $i; sleep 0.005; done"
    return on(
        agent,
        {"name": "burst", "steps": [shell("s1", print_all), shell("s2", print_all)]},
        {"name": "paced", "steps": [shell("s1", paced)]},
        {
            "name": "dummy",
            "steps": [dummy("s1", lines=400, interval=0.005, outputs={"o": 1}, progress=[10, 90])],
        },
    )


NODES = ("burst/s1", "burst/s2", "paced/s1", "dummy/s1")


def all_is_right(made: Fleet, run_id: str, ledger: Path, timeout: float = 120) -> None:
    """It has succeeded, with every line once and in order, and each step has run once."""
    assert made.ended(run_id, timeout)["status"] == "succeeded"
    told = ledger.read_text().split()
    assert len(told) == len(set(told)) == 3, "run twice"
    journal = Journal(made.server.data_dir)
    journal.check()
    journal.check_run(run_id, dict.fromkeys(NODES, LINES))
    check_surfaces(made.server, run_id, dict.fromkeys(NODES, LINES))
    assert set(journal.starts(run_id).values()) == {1}
    assert made.server.failures() == []
