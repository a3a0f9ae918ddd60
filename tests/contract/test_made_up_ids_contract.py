"""Ids that were made up around those of runs are looked up without loading these runs, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.engine import ids, lookup
from support.kernel import Kernel

SPEC = "jobs: [{name: a, steps: [{name: s, uses: approval}, {name: t, uses: dummy}]}]"


async def test_only_the_run_that_an_id_is_of_is_loaded(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [await kernel.run(SPEC) for _ in range(5)]
    loaded: list[str] = []
    load = lookup.load_part

    def counted(conn: Any, run_id: str, choose: Any) -> Any:
        loaded.append(run_id)
        return load(conn, run_id, choose)

    monkeypatch.setattr(lookup, "load_part", counted)
    step_runs = [ids.first_step_run_id(run, 0, 1) for run in runs]
    jobs = [ids.job_id(run, 0) for run in runs]
    made_up = [f"{id[:-1]}{'1' if id[-1] == '0' else '0'}" for id in (*step_runs, *jobs, *runs)]
    with kernel.database.read() as conn:
        assert lookup.find_step_runs(conn, made_up) == []
        assert lookup.find_jobs(conn, made_up) == []
        assert [lookup.find_step_run(conn, id) for id in made_up] == [None] * len(made_up)
        assert loaded == []
        assert {part.id for part in lookup.find_step_runs(conn, [step_runs[0], *made_up])} == {step_runs[0]}
        assert loaded == runs[:1]
        assert {part.id for part in lookup.find_jobs(conn, jobs)} == set(jobs)
