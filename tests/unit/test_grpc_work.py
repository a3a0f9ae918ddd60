"""Step attempts as agents on gRPC receive them."""

from __future__ import annotations

from typing import Any

from pilothouse.engine.grpc_work import step_run
from pilothouse.engine.step_payload import Checkout, CheckoutPack, StepPayload
from pilothouse.fleet.model import Task
from pilothouse.wire.agent.v1 import agent_pb2 as pb

SECRETS = {"AUTH": "hunter2", "KEY": "key-1"}


def task(
    *, timeout: float = 0, secrets: dict[str, str] | None = None, mask: tuple[str, ...] = (), **fields: Any
) -> Task:
    given = dict.fromkeys(("run_id", "pipeline_id", "job_id", "job_name", "name", "uses", "action"), "")
    payload = StepPayload(**{**given, "index": 0, "args": {}, "workspace": "w", "env": {}, **fields})
    return Task("t", "step", payload, "p", timeout, secrets or {}, mask)


def test_a_variable_that_the_spec_sets_is_not_there_as_a_bare_secret_too() -> None:
    """An agent that exports secrets under their names would put it over the text around it."""
    env = {"AUTH": "Bearer hunter2", "URL": "https://x/?k=key-1"}
    message = step_run(task(env=env, secrets=SECRETS))
    assert dict(message.env) == env
    assert dict(message.secrets) == {"KEY": "key-1"}
    assert set(message.mask) == {"hunter2", "key-1"}, "all of them are kept out of the log"


def test_a_step_run_has_its_owner() -> None:
    facts: dict[str, Any] = {
        **{"pipeline_name": "shop", "branch": "main", "commit_sha": "9fceb02", "tag": "v1", "event": "push"},
        "background": True,
    }
    message = step_run(task(**facts))
    assert {name: getattr(message, name) for name in facts} == facts


def test_every_field_is_on_the_wire() -> None:
    names = {"run_id": "r", "pipeline_id": "p", "job_id": "j", "job_name": "job", "name": "s", "uses": "u"}
    pack = CheckoutPack("/pack", "p256", 3, "cache")
    given = task(
        **names,
        action="run",
        index=2,
        args={"command": "true"},
        image="debian",
        attempt=3,
        checkout=Checkout("/url", "s256", 7, (pack,)),
        continue_on_error=True,
        fresh_workspace=True,
        last_in_job=True,
        timeout=90.0,
        mask=("other", "hunter2"),
        secrets=SECRETS,
    )
    expected = pb.StepRun(
        step_run_id="t",
        pipeline_id="p",
        pipeline_run_id="r",
        job_id="j",
        job_name="job",
        step_name="s",
        step_index=2,
        uses="u",
        action="run",
        args={"command": "true"},
        workspace="w",
        timeout="1m30s",
        image="debian",
        secrets=SECRETS,
        continue_on_error=True,
        run_on_agent=True,
        checkout=pb.Checkout(
            url="/url",
            sha256="s256",
            size=7,
            packs=[pb.CheckoutPack(url="/pack", sha256="p256", size=3, repository="cache")],
        ),
        attempt=3,
        last_in_job=True,
        mask=["hunter2", "key-1", "other"],
        fresh_workspace=True,
    )
    assert step_run(given) == expected
    assert step_run(task()).timeout == ""


def test_a_task_shows_no_secret_when_it_is_printed() -> None:
    shown = repr(task(secrets=SECRETS, mask=("other",), env={"AUTH": "hunter2"}))
    assert "hunter2" not in shown
    assert "other" not in shown
