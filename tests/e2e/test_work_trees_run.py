"""Runs of work trees with a real server and a real agent: what steps find, and that they touch nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.layouts import Checkout, checkout_of, commit, git, head, new_repository, write
from support.real_agent import agent
from support.server import Server
from support.waiting import eventually

ENDED = ("succeeded", "failed", "cancelled", "timed_out")


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


def spec(name: str, *commands: str) -> dict[str, Any]:
    selector = {"matchLabels": {"only": name}}
    steps = [
        {"name": f"s{number}", "uses": "shell", "args": {"command": text}, "agentSelector": selector}
        for number, text in enumerate(commands)
    ]
    return {"jobs": [{"name": "j", "steps": steps}]}


def start(server: Server, made: Checkout | bytes | None, body: dict[str, Any], **more: Any) -> str:
    """Send it and start a run."""
    pipeline = server.pipeline(f"p{time.monotonic_ns()}", body)
    if made is None:
        return server.trigger(pipeline, **more)
    if isinstance(made, bytes):
        return server.trigger(pipeline, checkout=server.ask("POST", "/blobs", content=made)["id"], **more)
    packs = {
        name: server.ask("POST", "/blobs", content=data, headers={"X-Content-SHA256": name})["id"]
        for name, data in made.packs.items()
    }
    repositories = [
        {
            "key": described["key"],
            "commit": described["commit"],
            "depth": described["depth"],
            "packs": [packs[name] for name in described["packs"]],
        }
        for described in made.manifest["repositories"]
        if described["commit"]
    ]
    archive = server.ask("POST", "/blobs", content=made.archive)["id"]
    return server.trigger(pipeline, checkout=archive, repositories=repositories, **more)


def view(server: Server, run: str) -> Any:
    return server.ask("GET", f"/workflow-runs/{run}")


async def said(server: Server, run: str, status: str = "succeeded") -> list[str]:
    """The output of the run's steps once it has this status."""
    await eventually(lambda: view(server, run)["status"] in ENDED, 90)
    lines = server.call("GET", f"/workflow-runs/{run}/logs").text.splitlines()
    assert view(server, run)["status"] == status, (view(server, run)["jobs"], lines)
    return lines


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = new_repository(tmp_path / "source", {"README": "hello\n", "a.py": "import os\n"})
    write(made / "README", "changed\n")
    return made


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """Another project, in which the agent has its data, as the default data directory once did."""
    project = new_repository(tmp_path / "project", {"precious": "committed\n"})
    write(project / "precious", "not committed\n")
    write(project / ".gitignore", "*\n")
    return project


@pytest.fixture
async def worker(server: Server, around: Path) -> AsyncIterator[str]:
    name = f"w{time.monotonic_ns()}"
    with agent(server, name, around / ".pilothouse" / "agent"):
        yield name


async def test_a_step_finds_the_work_tree_of_its_author(
    server: Server, worker: str, source: Path, around: Path
) -> None:
    look = "git rev-parse HEAD; git status --porcelain; git branch --show-current; env -i git status -s"
    ruff = f"{Path(sys.executable).with_name('ruff')} check --isolated . || echo found"
    reset = "git reset -q --hard; cat README; git rev-parse --show-toplevel"
    body = spec(
        worker,
        look,
        ruff,
        reset,
        "git commit -q --allow-empty -m x || git stash list; git log --oneline | wc -l",
    )
    run = start(server, checkout_of(source), body, branch="main", dirty=True)
    lines = await said(server, run)
    assert lines[:4] == [head(source), " M README", "main", " M README"]
    assert "found" in lines
    assert lines[-3:-1] == ["hello", view_workspace(around, server, run)]
    assert (around / "precious").read_text() == "not committed\n"
    shown = view(server, run)
    assert (shown["commit_sha"], shown["branch"], shown["dirty"]) == (head(source), "main", True)


def view_workspace(around: Path, server: Server, run: str) -> str:
    work = around / ".pilothouse" / "agent" / "work"
    return str(work / view(server, run)["jobs"][0]["id"])


async def test_a_step_without_a_repository_finds_none(server: Server, worker: str, around: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    outside = (
        "git rev-parse HEAD 2>&1 || true; env -i git -C . status 2>&1 || true; git reset --hard 2>&1 || true"
    )
    lines = await said(server, start(server, None, spec(worker, outside)))
    assert len(lines) == 3
    assert all("not a git repository" in line for line in lines)
    plain = Checkout(manifest={"version": 1, "git": False, "repositories": []})
    plain.add("files/a.py", b"import os\n")
    body = spec(worker, outside, f"{ruff} check --isolated . || echo found")
    lines = await said(server, start(server, plain, body))
    assert all("not a git repository" in line for line in lines[:3])
    assert lines[-1] == "found", "an ignore file around hides nothing"
    assert (around / "precious").read_text() == "not committed\n"


async def test_reruns_and_jobs_side_by_side(server: Server, worker: str, source: Path) -> None:
    body = spec(worker, "cat README; echo mine >> README; git rev-parse HEAD")
    body["jobs"].append({**body["jobs"][0], "name": "k"})
    made = checkout_of(source)
    run = start(server, made, body)
    lines = await said(server, run)
    assert sorted(lines) == sorted(["changed", head(source)] * 2)
    again = server.ask("POST", f"/workflow-runs/{run}/rerun", json={"from": "start"})["id"]
    assert sorted(await said(server, again)) == sorted(["changed", head(source)] * 2)
    [known] = server.ask(
        "GET", "/checkouts/known", params={"repository": made.manifest["repositories"][0]["key"]}
    )["commits"][:1]
    assert known["commit"] == head(source)


async def test_an_agent_without_git_gets_no_work_tree(server: Server, source: Path, tmp_path: Path) -> None:
    """It accepts plain directories; a run with a work tree waits with a reason until git is available."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "echo", "cat", "sleep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    name = f"w{time.monotonic_ns()}"
    data_dir = tmp_path / "agent"
    with agent(server, name, data_dir, PATH=str(programs)):
        assert await said(server, start(server, None, spec(name, "echo works"))) == ["works"]
        run = start(server, checkout_of(source), spec(name, "echo it runs"))

        def reason() -> str:
            return str(view(server, run)["jobs"][0]["steps"][0]["reason"])

        await eventually(lambda: "has git" in reason())
        assert "no online agent has git" in reason()
        assert view(server, run)["status"] == "pending" or view(server, run)["status"] == "running"
    with agent(server, name, data_dir):
        assert await said(server, run) == ["it runs"]
        found = server.ask("GET", f"/agents/{name}")
        assert git(source, "--version").split()[2] in str(found), "the agent tells which git it has"


async def test_what_is_wrong_with_a_checkout_fails_the_step_in_plain_words(
    server: Server, worker: str, source: Path
) -> None:
    made = checkout_of(source)
    [name] = made.packs
    made.manifest["repositories"][0]["commit"] = "1" * 40
    run = start(server, made, spec(worker, "echo ran"))
    assert await said(server, run, "failed") == []
    error = view(server, run)["jobs"][0]["steps"][0]["attempts"][0]["error"]
    assert error.startswith("cannot lay out the work tree: git ls-tree: fatal: ")
    assert commit(source) != "1" * 40
    assert name


async def test_a_plain_upload_is_what_it_was(server: Server, worker: str, tmp_path: Path) -> None:
    """As sent by ``tar czf - . | curl --data-binary @-``."""
    write(tmp_path / "plain/src/x", "x\n")
    (tmp_path / "plain/link").symlink_to("/usr/bin/env")
    data = subprocess.run(
        ["tar", "-C", str(tmp_path / "plain"), "-czf", "-", "."], capture_output=True, check=True
    ).stdout
    lines = await said(
        server, start(server, data, spec(worker, "cat src/x; readlink link; git status 2>&1 || true"))
    )
    assert lines[:2] == ["x", "/usr/bin/env"]
    assert "not a git repository" in lines[2]
