"""Arguments of gates that make no sense, on both databases: the step fails, and the run goes on to its end."""

from __future__ import annotations

import pytest

from support.kernel import Kernel
from support.pipelines import define, start

NUL = "\\0"
FAIL = [
    ("uses: approval, args: {users: 5}", "users is a list of at most 50 names"),
    ("uses: approval, args: {users: '${{ 5 }}'}", "users is a list of at most 50 names"),
    ("uses: approval, args: {roles: '${{ jobs }}'}", "roles is a list of at most 50 names"),
    ("uses: approval, args: {roles: '${{ [[]] }}'}", "roles is a list of at most 50 names"),
    ("""uses: approval, args: {roles: ['${{ "king" }}']}""", "there is no role"),
    ("uses: approval, args: {count: '${{ 1.5 }}'}", "count is a whole number from 1 to 20"),
    ("""uses: approval, args: {count: '${{ "2" }}', users: ['${{ "a" }}']}""", "it needs 2 approvals"),
    ("uses: window, args: {days: 5}", "days are a list of"),
    ("uses: window, args: {days: '${{ 1.5 }}'}", "days are a list of"),
    ("uses: window, args: {days: '${{ [[1], {}] }}'}", "days are a list of"),
    (f'uses: window, args: {{timezone: "UTC{NUL}"}}', "timezone is a name"),
    (f'uses: pipeline, args: {{pipeline: "a{NUL}b"}}', "No pipeline with ID"),
    ("uses: pipeline, args: {pipeline: '${{ jobs }}'}", "No pipeline with ID"),
]


@pytest.mark.parametrize(("step", "reason"), FAIL)
async def test_a_gate_that_makes_no_sense_fails(kernel: Kernel, step: str, reason: str) -> None:
    run_id = await start(kernel, await define(kernel, "odd", step))
    await kernel.pump()
    [job] = kernel.view(run_id)["jobs"]
    assert (job["status"], job["steps"][0]["reason"].startswith(reason)) == ("failed", True), job


async def test_a_message_with_a_character_that_cannot_be_stored(kernel: Kernel) -> None:
    step = f'uses: approval, args: {{message: "a{NUL}b", users: ["x{NUL}y"]}}'
    run_id = await start(kernel, await define(kernel, "nul", step))
    await kernel.pump()
    assert kernel.step(run_id, "s")["reason"] == "waits for approval: needs user x\ufffdy: a\ufffdb"
    await kernel.cancel(run_id)
    assert kernel.view(run_id)["status"] == "cancelled"
