"""What agents say of themselves, as the fleet understands it."""

from __future__ import annotations

from typing import Any

from pilothouse.fleet import messages
from pilothouse.fleet.model import Task
from pilothouse.wire.agent.v1 import agent_pb2 as pb


def test_every_agent_has_the_labels_os_and_arch() -> None:
    request = pb.RegisterRequest(agent_id="a", os="linux", arch="amd64", labels={"zone": "x"})
    assert messages.profile(request).labels == {"os": "linux", "arch": "amd64", "zone": "x"}
    request.labels["arch"] = "emulated"
    assert messages.profile(request).labels["arch"] == "emulated", "its own word counts"
    assert messages.profile(pb.RegisterRequest(agent_id="a")).labels == {}


def task(**fields: Any) -> Task:
    given = dict.fromkeys(("run_id", "pipeline_id", "job_id", "job_name", "name", "uses", "action"), "")
    return Task("t", "step", index=0, args={}, workspace="w", **{**given, "env": {}, **fields})


def test_a_variable_that_the_spec_sets_is_not_there_as_a_bare_secret_too() -> None:
    """An agent that exports secrets under their names would put it over the text around it."""
    env = {"AUTH": "Bearer hunter2", "URL": "https://x/?k=key-1"}
    message = messages.step_run(task(env=env, secrets={"AUTH": "hunter2", "KEY": "key-1"}))
    assert dict(message.env) == env
    assert dict(message.secrets) == {"KEY": "key-1"}
    assert set(message.mask) == {"hunter2", "key-1"}, "all of them are kept out of the log"


def test_a_step_run_says_what_it_belongs_to() -> None:
    facts: dict[str, Any] = {
        **{"pipeline_name": "shop", "branch": "main", "commit_sha": "9fceb02", "tag": "v1", "event": "push"},
        "background": True,
    }
    message = messages.step_run(task(**facts))
    assert {name: getattr(message, name) for name in facts} == facts
