"""Saved pipelines of a kernel, and runs of them."""

from __future__ import annotations

from pilothouse.access.model import SYSTEM
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.service import Pipelines, TriggerRequest
from support.kernel import PROJECT, Kernel


async def define(kernel: Kernel, name: str, *steps: str) -> str:
    """A pipeline with a job for each of these steps; its id."""
    pipelines = kernel.graph.service(Pipelines)
    jobs = "".join(f"\n  - {{name: j{at}, steps: [{{name: s, {step}}}]}}" for at, step in enumerate(steps))
    spec = compile_source(f"jobs:{jobs}\n")
    made = await kernel.write(lambda tx: pipelines.create(tx, SYSTEM, PROJECT, name))
    await kernel.write(
        lambda tx: pipelines.save_spec(tx, SYSTEM, made.id, spec, expected_head="", message="")
    )
    return made.id


async def start(kernel: Kernel, pipeline_id: str) -> str:
    """A run of which no more is done than in the transaction that starts it."""
    pipelines = kernel.graph.service(Pipelines)
    request = TriggerRequest()
    return (await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, pipeline_id, request))).id
