"""Reruns on both databases: of the whole, or from the failed step with all that succeeded."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.access.model import SYSTEM
from pilothouse.engine.errors import NothingFailed, RunActive, RunNotFound
from pilothouse.fleet.model import TaskStatus
from pilothouse.pipelines.spec import SpecError
from pilothouse.wire import entries
from support.kernel import PROJECT, Kernel

FAILED = TaskStatus.FAILED
ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
TWO = "jobs: [{name: j, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"

THREE = """
jobs:
  - {name: build, steps: [{name: a, uses: dummy}]}
  - {name: test, dependsOn: [build], steps: [{name: b, uses: dummy}, {name: c, uses: dummy}, {name: d, uses: dummy}]}
  - {name: ship, dependsOn: [test], steps: [{name: e, uses: dummy}]}
"""


async def failed_at_c(kernel: Kernel, agent: Any) -> str:
    run_id = await kernel.run(THREE)
    await kernel.ack(agent)
    await kernel.tell("a1", 1, agent.last.id, "step.output", {"name": "tag", "value": "v1"})
    await kernel.report(agent)
    await kernel.do(agent)
    await kernel.do(agent, FAILED)
    assert kernel.view(run_id)["status"] == "failed"
    return run_id


async def test_rerun_of_the_whole_runs_everything(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    old = await failed_at_c(kernel, agent)
    new = await kernel.rerun(old, from_failed=False)
    for _ in range(5):
        await kernel.do(agent)
    assert agent.names[3:] == ["a", "b", "c", "d", "e"]
    assert agent.tasks[3].workspace != agent.tasks[0].workspace
    view = kernel.view(new)
    assert (view["status"], view["rerun_of"]) == ("succeeded", old)
    assert [len(s["attempts"]) for job in view["jobs"] for s in job["steps"]] == [1] * 5
    assert kernel.view(old)["status"] == "failed", "the old one stays as it was"


async def test_rerun_from_the_failed_step_keeps_what_succeeded(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    old = await failed_at_c(kernel, agent)
    new = await kernel.rerun(old, from_failed=True)
    assert agent.names[3:] == ["c"]
    assert agent.last.workspace == agent.tasks[1].workspace, "where b left its files"
    assert not agent.last.fresh_workspace
    view = kernel.view(new)
    assert [(s["name"], s["status"], s["kept"]) for job in view["jobs"] for s in job["steps"]] == [
        ("a", "succeeded", True),
        ("b", "succeeded", True),
        ("c", "queued", False),
        ("d", "pending", False),
        ("e", "pending", False),
    ]
    assert kernel.step(new, "a")["outputs"] == {"tag": "v1"}
    assert view["jobs"][2]["finished_at"] is None, "ship has not even begun"
    assert kernel.step(new, "e")["finished_at"] is None
    for _ in range(3):
        await kernel.do(agent)
    assert kernel.view(new)["status"] == "succeeded"
    assert kernel.told(new, entries.RUN_COMPLETED)[0]["outputs"] == {"tag": "v1"}
    tries = kernel.step(new, "c")["attempts"]
    assert [t["status"] for t in tries] == ["failed", "succeeded"], "attempts of the run before are kept"
    assert [t["status"] for t in kernel.step(new, "a")["attempts"]] == ["succeeded"]


CLEANED = """
jobs:
  - name: lint
    steps: [{name: try, uses: dummy, continueOnError: true}, {name: note, uses: dummy}]
  - name: ship
    dependsOn: [lint]
    steps:
      - {name: warn, uses: dummy, continueOnError: true}
      - {name: push, uses: dummy}
      - {name: clean up, uses: dummy, when: failure()}
"""


async def test_what_came_after_the_failed_step_is_done_again(kernel: Kernel) -> None:
    """For example cleanup after it. A step that failed with continueOnError stays completed."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(CLEANED)
    for status in (FAILED, TaskStatus.SUCCEEDED, FAILED, FAILED, TaskStatus.SUCCEEDED):
        await kernel.do(agent, status)
    assert kernel.view(run_id)["status"] == "failed"
    for _ in range(2):  # the rerun of a rerun the same
        before = len(agent.names)
        run_id = await kernel.rerun(run_id, from_failed=True)
        await kernel.do(agent, FAILED)
        await kernel.do(agent)
        assert agent.names[before:] == ["push", "clean up"]
        assert kernel.view(run_id)["status"] == "failed"
    run_id = await kernel.rerun(run_id, from_failed=True)
    await kernel.do(agent)
    view = kernel.view(run_id)
    assert view["status"] == "succeeded"
    assert [(s["name"], s["status"], s["kept"]) for job in view["jobs"] for s in job["steps"]] == [
        ("try", "failed", True),
        ("note", "succeeded", True),
        ("warn", "failed", True),
        ("push", "succeeded", False),
        ("clean up", "skipped", False),
    ]


SHIPPED = """
jobs:
  - {name: build, steps: [{name: a, uses: dummy}]}
  - {name: test, dependsOn: [build], steps: [{name: b, uses: dummy}, {name: c, uses: dummy}]}
  - {name: docs, dependsOn: [build], steps: [{name: d, uses: dummy}]}
  - {name: report, dependsOn: [test], when: always(), steps: [{name: e, uses: dummy}, {name: f, uses: dummy}]}
  - {name: mail, dependsOn: [report], steps: [{name: g, uses: dummy}]}
  - {name: alarm, dependsOn: [report], when: failure(), steps: [{name: h, uses: dummy}]}
"""


@pytest.mark.parametrize("second", [TaskStatus.SUCCEEDED, FAILED])
async def test_what_depends_on_what_failed_is_done_again(kernel: Kernel, second: TaskStatus) -> None:
    """Even where it succeeded, or failed later than at its first step: it has seen what is no longer so."""
    agent = await kernel.agent("a1", slots=1)
    run_id = await kernel.run(SHIPPED)
    while not kernel.load(run_id).status.over:
        name = agent.last.name
        await kernel.do(agent, FAILED if name == "c" else second if name == "f" else TaskStatus.SUCCEEDED)
    before = len(agent.names)
    again = await kernel.rerun(run_id, from_failed=True)
    while not kernel.load(again).status.over:
        await kernel.do(agent)
    assert agent.names[before:] == ["c", "e", "f", "g"]
    view = kernel.view(again)
    assert view["status"] == "succeeded"
    kept = {step["name"]: step["kept"] for job in view["jobs"] for step in job["steps"]}
    assert kept == {**dict.fromkeys("abd", True), **dict.fromkeys("cefgh", False)}
    report = next(task for task in agent.tasks[before:] if task.name == "e")
    assert report.fresh_workspace
    assert [t["status"] for t in kernel.step(again, "e")["attempts"]] == ["succeeded", "succeeded"]


async def test_a_rerun_needs_its_secrets_still(kernel: Kernel) -> None:
    await kernel.secret("TOKEN", "hunter2-secret")
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: a, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
    )
    await kernel.do(agent, FAILED)
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, PROJECT, "TOKEN"))
    for from_failed in (False, True):
        with pytest.raises(SpecError, match='needs secret "TOKEN", which this project does not have'):
            await kernel.rerun(run_id, from_failed=from_failed)


async def test_attempts_are_kept_over_many_reruns(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await failed_at_c(kernel, agent)
    for _ in range(2):
        run_id = await kernel.rerun(run_id, from_failed=True)
        await kernel.do(agent, FAILED)
    run_id = await kernel.rerun(run_id, from_failed=True)
    await kernel.do(agent)
    tries = kernel.step(run_id, "c")["attempts"]
    assert [t["status"] for t in tries] == ["failed", "failed", "failed", "succeeded"]
    assert len({t["step_run_id"] for t in tries}) == 4


async def test_reruns_that_cannot_be(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    with pytest.raises(RunActive):
        await kernel.rerun(run_id, from_failed=False)
    await kernel.do(agent)
    with pytest.raises(NothingFailed):
        await kernel.rerun(run_id, from_failed=True)
    with pytest.raises(RunNotFound):
        await kernel.rerun("nothing", from_failed=False)


async def test_a_cancelled_run_can_go_on_from_where_it_was(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TWO)
    await kernel.do(agent)
    await kernel.cancel(run_id)
    new = await kernel.rerun(run_id, from_failed=True)
    await kernel.do(agent)
    assert agent.names == ["a", "b", "b"]
    assert kernel.view(new)["status"] == "succeeded"
