"""A domain is added in the places that docs/architecture.md lists, and in no others.

A copy of the source tree gets a small domain (``support.new_domain``): a table with its migration, routes, a stream,
public events, a run of its own kind with a gate of its own, background work, a metric, a job of the worker pool and
a command. A real server runs from the copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pilothouse.wire.stream.v1 import stream_pb2 as pb
from support.bodies import plain_error
from support.databases import Backend
from support.new_domain import add_domain, places
from support.pages import quoted, rows, section
from support.rpc_streams import streams
from support.server import Server, running
from support.watchers import sse

UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy, with the domain."""
    directory = tmp_path_factory.mktemp("tree")
    add_domain(directory)
    return directory


@pytest.fixture
def server(tree: Path, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the copy, on each kind of database in turn."""
    monkeypatch.setenv("PYTHONPATH", str(tree / "src"))
    with running(tmp_path, database_url=backend.create()) as server:
        yield server


def test_the_list_of_places() -> None:
    table = rows(section("architecture.md", "## Adding a domain"), 2)
    assert {place for row in table for place in quoted(row[0])} == places()


async def test_a_new_domain(server: Server, tree: Path) -> None:
    viewer = server.user("viewer", "viewer")
    made = _pilot(server, tree, "note", "write", "two words").strip()

    shown = server.ask("GET", f"/notes/{made}", viewer)
    assert shown == {"text": "two words", "words": 2}, "its route, its table, its job in a worker"
    plain_error(server.call("GET", f"/notes/{UNKNOWN}"), 404, "NOTE_NOT_FOUND")
    plain_error(
        server.call("POST", "/notes", viewer, json={"text": "x"}), 403, "AUTH_INSUFFICIENT_PERMISSIONS"
    )
    plain_error(server.call("GET", "/events?stream=note/nothing"), 404, "NOTE_NOT_FOUND")

    assert await _stream(server, viewer, made) == ["note.written", "note.archived"], "background work"
    assert "\npilothouse_notes 1.0\n" in httpx.get(f"{server.url}/metrics").text
    assert await _public_events(server, made) == ["arcentra.note.created", "arcentra.note.completed"]
    _gate(server, made)
    assert server.failures() == []


def _gate(server: Server, note: str) -> None:
    """The run that follows the note is of the domain's own kind; its gate was settled when the note was archived."""
    [summary] = server.ask("GET", "/workflow-runs")["runs"]
    assert (summary["kind"], summary["name"]) == ("note", f"note {note}")
    run = server.ask("GET", f"/workflow-runs/{summary['id']}")
    [step] = run["jobs"][0]["steps"]
    assert (step["status"], step["gate"], step["outputs"]) == ("succeeded", "note", {"note": note})
    assert run["status"] == "succeeded"
    [gate] = server.ask("GET", f"/gates?run={run['id']}")["gates"]
    assert (gate["kind"], gate["status"]) == ("note", "closed")
    assert gate["message"] == f"until note {note} is archived"


def _pilot(server: Server, tree: Path, *words: str) -> str:
    """What a command of the copy prints."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tree), "PYTHONPATH": str(tree / "src")}
    environment |= {"PILOT_SERVER": server.url, "PILOT_TOKEN": server.admin}
    command = [sys.executable, "-m", "pilothouse", *words]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


async def _stream(server: Server, token: str, note: str) -> list[str]:
    """The types of the first two entries of a note's stream."""
    found: list[str] = []
    async with sse(f"{server.url}/api/v1/events?stream=note/{note}", token) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                found.append(line.removeprefix("event: "))
            if len(found) == 2:
                break
    return found


async def _public_events(server: Server, note: str) -> list[str]:
    """The types of the first two public events of a note, over gRPC."""
    async with streams(server) as client:
        call = client.follow(pb.StreamEventsRequest(resource_ids=[note], resource_type="note"), "start")
        events = await call.next(2)
        assert {(event.resource_id, event.resource_type) for event in events} == {(note, "note")}
        assert events[0].title == "Note two words: created"
        return [event.type for event in events]


def test_the_import_contracts_of_the_copy(tree: Path) -> None:
    """They cover the new package: its import of a package above it is found."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    checked = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    wrong = tree / "src/pilothouse/notes/wrong.py"
    wrong.write_text("import pilothouse.pipelines.model\n")
    try:
        checked = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    finally:
        wrong.unlink()
    assert checked.returncode == 1
    assert "pilothouse.notes.wrong" in checked.stdout
