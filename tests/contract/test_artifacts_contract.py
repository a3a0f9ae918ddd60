"""Artifacts and reports on both databases: what belongs to a run, also after a rerun, and what retention deletes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pilothouse.access.model import Principal
from pilothouse.blobs.objects import LocalObjects
from pilothouse.blobs.service import Blobs
from pilothouse.engine.artifacts.lineage import artifacts_of
from pilothouse.engine.artifacts.model import Artifact
from pilothouse.engine.artifacts.retention import ArtifactRetention
from pilothouse.engine.artifacts.service import Announced, Artifacts
from pilothouse.engine.artifacts.transfer import Transfer
from pilothouse.engine.intake.quotas import IntakeQuotas
from pilothouse.engine.reports import views
from pilothouse.engine.retention import Retention
from pilothouse.fleet.model import TaskStatus
from support.artifacts import files_of
from support.kernel import Kernel, RecorderChannel


async def sent(kernel: Kernel, channel: RecorderChannel, name: str, data: bytes) -> Artifact:
    """An artifact of the step that the agent runs."""
    by = Principal("agent", channel.agent_id, channel.agent_id, None, frozenset(), "", None)
    digest = hashlib.sha256(data).hexdigest()
    wanted = Announced(name=name, file_name=name, format="file", size=len(data), sha256=digest)
    service = kernel.graph.service
    artifact = await kernel.write(lambda tx: service(Artifacts).begin(tx, by, channel.last.id, wanted))

    async def body() -> AsyncIterator[bytes]:
        yield data

    return await service(Transfer).part(by, artifact.id, 0, body(), digest)


def names(kernel: Kernel, run_id: str) -> list[str]:
    with kernel.database.read() as conn:
        return [each.name for each in artifacts_of(conn, run_id)]


def shown(kernel: Kernel, run_id: str) -> dict[str, Any]:
    with kernel.database.read() as conn:
        return views.tests_view(conn, kernel.load(run_id))


async def test_a_rerun_has_the_artifacts_and_reports_of_the_steps_that_it_kept(kernel: Kernel) -> None:
    agent = await kernel.agent()
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: a, uses: dummy}]}, {name: k, dependsOn: [j], steps: [{name: c, uses: dummy}]}]"
    )
    await kernel.ack(agent)
    await sent(kernel, agent, "of a", b"one")
    report = {"kind": "junit", "name": "r", "json": json.dumps({"tests": 1, "passed": 1})}
    await kernel.tell("a1", 1, agent.last.id, "step.report", report)
    await kernel.report(agent)
    await kernel.ack(agent)
    await sent(kernel, agent, "of c", b"two")
    await kernel.report(agent, TaskStatus.FAILED)
    assert names(kernel, run_id) == ["of a", "of c"]
    again = await kernel.rerun(run_id, from_failed=True)
    assert names(kernel, again) == ["of a"]
    assert shown(kernel, again)["summary"]["tests"] == 1


async def test_retention_deletes_bytes_and_rows_with_the_run(kernel: Kernel) -> None:
    agent = await kernel.agent()
    run_id = await kernel.run("jobs: [{name: j, steps: [{name: a, uses: dummy}]}]")
    await kernel.ack(agent)
    await sent(kernel, agent, "kept", b"x" * 100)
    failing = {"tests": 1, "failed": 1, "failing": [{"class": "c", "name": "n", "message": "m"}]}
    await kernel.tell(
        "a1", 1, agent.last.id, "step.report", {"kind": "junit", "name": "r", "json": json.dumps(failing)}
    )
    await kernel.report(agent)
    assert shown(kernel, run_id)["failing"][0]["name"] == "n"
    objects = Path(kernel.graph.settings.data_dir) / "objects"
    assert len(files_of(objects)) == 1
    days = Retention(
        kernel.storage, kernel.journal, kernel.graph.service(Blobs), kernel.graph.service(IntakeQuotas), 1
    )
    kernel.clock.advance(2 * 86_400)
    await kernel.write(days.prune)
    assert names(kernel, run_id) == []
    assert shown(kernel, run_id)["reports"] == []
    deleted = await ArtifactRetention(kernel.storage, LocalObjects(objects)).prune()
    assert (deleted, files_of(objects)) == (1, [])
    assert await ArtifactRetention(kernel.storage, LocalObjects(objects)).prune() == 0
