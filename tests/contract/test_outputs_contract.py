"""Outputs on both databases: what an agent sends arrives exactly, or is refused; secrets in it do not arrive."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilothouse.engine.intake.ingest import Taken
from pilothouse.wire import entries
from pilothouse.wire.outputs import MAX_BYTES, MAX_COUNT, MAX_DEPTH
from support.kernel import Kernel, RecorderChannel

SPEC = """
jobs:
  - name: j
    steps:
      - {name: a, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}
      - {name: b, uses: dummy, args: {n: '${{ job.outputs.x }}', more: '${{ job.outputs.x + 1 }}'}}
"""


async def at_work(kernel: Kernel) -> tuple[str, RecorderChannel, str]:
    await kernel.secret("TOKEN", "hunter2-secret")
    agent = await kernel.agent("a1")
    run_id = await kernel.run(SPEC)
    await kernel.ack(agent)
    return run_id, agent, agent.last.id


async def tell(kernel: Kernel, seq: int, task: str, name: str, text: str) -> tuple[Taken, str]:
    receipt = await kernel.tell("a1", seq, task, "step.output", {"name": name, "json": text})
    return receipt.taken, receipt.message


@pytest.mark.parametrize(
    "value",
    [
        9007199254740993,
        -(2**63),
        2**64 - 1,
        0.1,
        1e-300,
        "",
        "a\0b\x7f\u2028🚢",
        None,
        [],
        {"": [{"k": [True, None, 1, 1.0, "1"]}]},
        json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH),
        {"\0": 1},
    ],
    ids=repr,
)
async def test_a_value_arrives_exactly(kernel: Kernel, value: Any) -> None:
    run_id, _, task = await at_work(kernel)
    assert await tell(kernel, 1, task, "x", json.dumps(value)) == (Taken.ACCEPTED, "")
    stored = kernel.step(run_id, "a")["outputs"]["x"]
    assert json.dumps(stored) == json.dumps(value), "of the same types, too"
    [told] = kernel.told(run_id, entries.STEP_OUTPUT)
    assert json.dumps(told["value"]) == json.dumps(value)
    loaded = kernel.load(run_id).jobs[0].steps[0].outputs["x"]
    assert json.dumps(loaded) == json.dumps(value), "and after a restart"


async def test_an_expression_sees_all_digits(kernel: Kernel) -> None:
    _, agent, task = await at_work(kernel)
    await tell(kernel, 1, task, "x", "9007199254740993")
    await kernel.report(agent)
    assert agent.last.args == {"n": 9007199254740993, "more": 9007199254740994}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("1e999", "a double cannot hold exactly"),
        ("18446744073709551616", "more than 64 bits"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        ('"' + "x" * MAX_BYTES + '"', "more than 1048576 bytes"),
        ('"\\ud800"', "unpaired surrogate"),
    ],
    ids=lambda text: text[:20],
)
async def test_what_cannot_be_held_is_refused_and_uses_its_number(
    kernel: Kernel, text: str, reason: str
) -> None:
    run_id, _, task = await at_work(kernel)
    taken, message = await tell(kernel, 1, task, "x", text)
    assert taken is Taken.REJECTED
    assert reason in message
    assert await tell(kernel, 2, task, "y", "1") == (Taken.ACCEPTED, "")
    assert kernel.step(run_id, "a")["outputs"] == {"y": 1}


async def test_a_plain_value_of_another_agent_is_taken_as_it_is(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    for seq, payload in enumerate(
        ({"name": "x", "value": [1, "two"]}, {"name": "y", "json": 7, "value": 8}), 1
    ):
        assert (await kernel.tell("a1", seq, task, "step.output", payload)).taken is Taken.ACCEPTED
    assert kernel.step(run_id, "a")["outputs"] == {"x": [1, "two"], "y": 8}


async def test_the_outputs_of_an_attempt_are_bounded(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    half = json.dumps("x" * (MAX_BYTES // 2))
    assert (await tell(kernel, 1, task, "a", half))[0] is Taken.ACCEPTED
    taken, message = await tell(kernel, 2, task, "b", half)
    assert (taken, message) == (Taken.REJECTED, f"the outputs of a step have at most {MAX_BYTES} bytes")
    assert (await tell(kernel, 3, task, "a", "1"))[0] is Taken.ACCEPTED, "in its place"
    for n in range(1, MAX_COUNT):
        assert (await tell(kernel, 3 + n, task, f"n{n}", "1"))[0] is Taken.ACCEPTED
    taken, message = await tell(kernel, 3 + MAX_COUNT, task, "last", "1")
    assert (taken, message) == (Taken.REJECTED, f"a step has at most {MAX_COUNT} outputs")
    assert len(kernel.step(run_id, "a")["outputs"]) == MAX_COUNT


@pytest.mark.parametrize("size", [1, 40_000])
async def test_secrets_in_outputs_are_masked_wherever_they_stand(kernel: Kernel, size: int) -> None:
    """Of any size: large ones are read in a thread."""
    run_id, _, task = await at_work(kernel)
    value = {"k": ["a hunter2-secret b", {"hunter2-secret": "hunter2\\u002dsecret"}], "n": ["x"] * size}
    text = json.dumps(value).replace("\\\\u002d", "\\u002d")
    assert (await tell(kernel, 1, task, "x", text))[0] is Taken.ACCEPTED
    stored = kernel.step(run_id, "a")["outputs"]["x"]
    assert stored == {"k": ["a *** b", {"***": "***"}], "n": ["x"] * size}
