"""Capabilities and state reported by agents."""

from __future__ import annotations

from pilothouse.fleet import messages
from pilothouse.wire.agent.v1 import agent_pb2 as pb


def test_every_agent_has_the_labels_os_and_arch() -> None:
    request = pb.RegisterRequest(agent_id="a", os="linux", arch="amd64", labels={"zone": "x"})
    assert messages.profile(request).labels == {"os": "linux", "arch": "amd64", "zone": "x"}
    request.labels["arch"] = "emulated"
    assert messages.profile(request).labels["arch"] == "emulated", "its own word counts"
    assert messages.profile(pb.RegisterRequest(agent_id="a")).labels == {}
