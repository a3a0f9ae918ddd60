"""Pipelines whose spec is in a git repository: shown, run at a commit, saved, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.checkout_kit import git
from support.forge import TOKEN, Forge, forge
from support.real_agent import agent as real_agent
from support.server import Server, running
from support.waiting import eventually

SPEC = """\
checkout: {depth: 0, tags: true, submodules: true}
jobs:
  - name: build
    steps:
      - name: look
        run: |
          test -z "$(git status --porcelain)"
          echo "head=$(git rev-parse HEAD) branch=$(git rev-parse --abbrev-ref HEAD) commits=$(git rev-list --count HEAD)"
          echo "tags=$(git tag | tr '\\n' ' ') origin=$(git remote get-url origin)"
          echo "module=$(cat libs/inner/inner.txt) commit=$PILOT_COMMIT"
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    with forge(tmp_path_factory.mktemp("forge")) as running_forge:
        yield running_forge


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), git_allow="http", ratelimit_default="off") as made:
        yield made


@pytest.fixture(scope="module")
def clone(served: Forge, server: Server) -> Path:
    """The repository ``shop`` with a submodule and a tag."""
    served.make("inner", {"inner.txt": "of the submodule\n"})
    made = served.make("shop", {".pilot.yaml": SPEC, "a.txt": "1\n"})
    git(made, "tag", "-m", "first", "v1.0")
    git(
        made, "-c", f"http.extraHeader=Authorization: Basic {_basic()}",
        "submodule", "--quiet", "add", "--name", "inner", served.http("inner"), "libs/inner",
    )  # fmt: skip
    git(made, "config", "-f", ".gitmodules", "submodule.inner.url", "../inner.git")
    served.push(made)
    git(made, "push", "-q", "origin", "--tags")
    server.ask("PUT", "/secrets/FORGE", json={"value": TOKEN})
    return made


def _basic() -> str:
    import base64

    return base64.b64encode(f"x:{TOKEN}".encode()).decode()


@pytest.fixture(scope="module", autouse=True)
def agent(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with real_agent(server, "builder", tmp_path_factory.mktemp("agent")):
        yield


def _pipeline(server: Server, name: str, url: str, **more: Any) -> str:
    body = {"name": name, "repoUrl": url, "repoSecret": "FORGE", **more}
    found: str = server.ask("POST", "/pipelines", json=body)["pipelineId"]
    return found


def _head(clone: Path) -> str:
    return git(clone, "rev-parse", "HEAD").decode().strip()


async def test_a_run_is_pinned_to_a_commit_with_its_work_tree(
    server: Server, served: Forge, clone: Path
) -> None:
    pipeline = _pipeline(server, "shop", served.http("shop"))
    shown = server.ask("GET", f"/pipelines/{pipeline}/spec")
    assert (shown["headCommitSha"], shown["branch"], shown["pipelineFilePath"]) == (
        _head(clone),
        "main",
        ".pilot.yaml",
    )
    assert shown["text"] == SPEC
    run = server.trigger(pipeline)
    detail = server.ask("GET", f"/pipelines/{pipeline}/runs/{run}")
    assert detail["commitSha"] == detail["definitionCommitSha"] == _head(clone)
    assert detail["branch"] == "main"
    lines = await _finished(server, run)
    assert f"head={_head(clone)} branch=main commits=2" in lines
    assert f"tags=v1.0  origin={served.http('shop')}" in lines
    assert f"module=of the submodule commit={_head(clone)}" in lines
    assert not any(TOKEN in line for line in lines)


async def test_a_new_commit_costs_only_what_is_new(server: Server, served: Forge, clone: Path) -> None:
    pipeline = _pipeline(server, "again", served.http("shop"))
    await _finished(server, server.trigger(pipeline))
    before = _head(clone)
    (clone / "a.txt").write_text("2\n")
    served.push(clone)
    lines = await _finished(server, server.trigger(pipeline))
    assert any(f"head={_head(clone)} branch=main" in line for line in lines)
    # an older commit, and another branch, of which nobody has run
    lines = await _finished(server, server.trigger(pipeline, commitSha=before))
    assert any(f"head={before}" in line for line in lines)
    git(clone, "push", "-q", "origin", "HEAD:refs/heads/side")
    lines = await _finished(server, server.trigger(pipeline, branch="side"))
    assert any("branch=side" in line for line in lines)


async def test_a_spec_is_saved_as_a_commit(server: Server, served: Forge, clone: Path) -> None:
    pipeline = _pipeline(server, "edited", served.http("shop"))
    head = _head(clone)
    text = SPEC + "# saved\n"
    body = {"spec": text, "expectedHeadCommitSha": head, "commitMessage": "Add a comment"}
    saved = server.ask("POST", f"/pipelines/{pipeline}/spec/save", json=body)
    assert saved["branch"] == "main"
    again = server.ask("POST", f"/pipelines/{pipeline}/spec/save", json=body)
    assert again == saved, "a call whose answer was lost is repeated without effect"
    git(clone, "pull", "-q")
    assert _head(clone) == saved["commitSha"]
    assert git(clone, "log", "-1", "--format=%an|%s").decode().strip() == "admin|Add a comment"
    assert (clone / ".pilot.yaml").read_text() == text
    conflict = server.call("POST", f"/pipelines/{pipeline}/spec/save", json={**body, "spec": SPEC})
    assert (conflict.status_code, conflict.json()["errorCode"]) == (409, "SPEC_CONFLICT")
    server.ask("PUT", f"/pipelines/{pipeline}", json={"saveMode": 2})
    beside = server.ask("POST", f"/pipelines/{pipeline}/spec/save", json={"spec": SPEC})
    assert beside["prBranch"].startswith("pilothouse/edited-")
    git(clone, "fetch", "-q", "origin", beside["prBranch"])
    assert git(clone, "rev-parse", "FETCH_HEAD").decode().strip() == beside["commitSha"]
    assert git(clone, "ls-remote", "origin", "main").decode().split()[0] == saved["commitSha"]


def test_why_a_repository_cannot_be_read(server: Server, served: Forge, clone: Path) -> None:
    cases = [
        ({"repoUrl": served.http("none")}, "REPOSITORY_UNAVAILABLE"),
        ({"repoSecret": "NOTHING"}, "REPOSITORY_UNAVAILABLE"),
        ({"defaultBranch": "gone"}, "REPOSITORY_UNAVAILABLE"),
        ({"pipelineFilePath": "no.yaml"}, "SPEC_NOT_FOUND"),
        ({"pipelineFilePath": "a.txt"}, "SPEC_INVALID"),
    ]
    for number, (fields, code) in enumerate(cases):
        pipeline = _pipeline(
            server, f"broken {number}", served.http("shop"), **{"repoUrl": served.http("shop"), **fields}
        )
        refused = server.call("POST", f"/pipelines/{pipeline}/trigger", json={})
        assert refused.json()["errorCode"] == code, fields
        shown = server.ask("GET", f"/pipelines/{pipeline}")
        assert shown["lastSyncMessage"], fields
        assert shown["lastSyncedAt"] > 0
        assert TOKEN not in str(shown)


async def test_a_job_has_a_work_tree_of_another_repository(
    server: Server, served: Forge, clone: Path
) -> None:
    """Once for jobs with the same source, also for a pipeline without a repository, and again in a rerun."""
    tools = served.make("tools", {"tool.txt": "of the tools\n"})
    git(tools, "push", "-q", "origin", "HEAD:refs/heads/side")
    head = _head(tools)
    source = f'{{repo: "{served.http("tools")}", branch: side, auth: {{token: "${{{{ secrets.FORGE }}}}"}}}}'
    look = (
        "{name: look, run: 'echo \"$(cat *.txt) $(git rev-parse HEAD) $(git rev-parse --abbrev-ref HEAD)\"'}"
    )
    spec = (
        f"jobs:\n  - {{name: one, source: {source}, steps: [{look}]}}\n"
        f"  - {{name: two, source: {source}, steps: [{look}]}}\n"
        "  - {name: own, steps: [{name: look, run: 'ls -a | wc -l'}]}\n"
    )
    pipeline = server.pipeline("uses-tools", spec)
    before = len([path for path, _ in served.requests if "tools.git/git-upload-pack" in path])
    run = server.trigger(pipeline)
    lines = await _finished(server, run)
    assert lines.count(f"of the tools {head} side") == 2
    assert "2" in [line.strip() for line in lines], "the third job has an empty workspace"
    fetched = [path for path, _ in served.requests if "tools.git/git-upload-pack" in path]
    assert len(fetched) - before <= 2, "asked for the head, and fetched, once"
    (tools / "tool.txt").write_text("newer\n")
    served.push(tools)
    again = server.ask("POST", f"/workflow-runs/{run}/rerun", json={"from": "start"})["id"]
    assert (await _finished(server, again)).count(f"of the tools {head} side") == 2


async def test_runs_of_triggers_and_of_other_runs_with_a_source(
    server: Server, served: Forge, clone: Path
) -> None:
    """What a trigger starts is fetched before; a gate starts its run within a transaction, which cannot fetch."""
    served.make("more-tools", {"tool.txt": "of the tools\n"})
    source = f'{{repo: "{served.http("more-tools")}", auth: {{password: "${{{{ secrets.FORGE }}}}"}}}}'
    jobs = f"jobs: [{{name: j, source: {source}, steps: [{{name: s, run: cat tool.txt}}]}}]"
    nightly = server.pipeline(
        "nightly-tools", 'triggers: [{type: cron, options: {schedule: "0 0 1 1 *"}}]\n' + jobs
    )
    (trigger,) = server.ask("GET", f"/triggers?pipeline={nightly}")["triggers"]
    run = server.ask("POST", f"/triggers/{trigger['id']}/run")["run_id"]
    assert "of the tools" in await _finished(server, run)
    above = server.pipeline(
        "above", "jobs: [{name: j, steps: [{name: s, uses: pipeline, args: {pipeline: nightly-tools}}]}]"
    )
    run = server.trigger(above)
    view = await eventually(lambda: _ended(server, run))
    assert view["status"] == "failed"
    assert 'the repository of job "j" cannot be fetched for a run that a step starts' in str(view)


def _ended(server: Server, run: str) -> Any:
    view = server.ask("GET", f"/workflow-runs/{run}")
    return view if view["status"] not in ("pending", "queued", "running") else None


def test_why_a_source_is_refused(server: Server, served: Forge) -> None:
    def refused(source: str) -> tuple[str, str]:
        spec = f"jobs: [{{name: j, source: {source}, steps: [{{name: s, run: x}}]}}]"
        body = server.call("POST", f"/pipelines/{empty}/trigger", json={"spec": spec}).json()
        return body["errorCode"], str(body)

    empty = server.ask("POST", "/pipelines", json={"name": "no spec"})["pipelineId"]
    gone = f'{{repo: "{served.http("tools")}", branch: gone, auth: {{token: "${{{{ secrets.FORGE }}}}"}}}}'
    assert refused(gone)[0] == "REPOSITORY_UNAVAILABLE"
    assert refused('{repo: "file:///etc"}')[0] == "VALIDATION_FAILED"
    assert refused('{repo: "https://host/x", branch: "--upload-pack=x"}')[0] == "VALIDATION_FAILED"
    code, said = refused('{repo: "https://host/x", auth: {token: "${{ secrets.NOT_THERE }}"}}')
    assert (code, "NOT_THERE" in said) == ("REPOSITORY_UNAVAILABLE", True)
    code, said = refused('{repo: "https://host/x", auth: {password: hunter2}}')
    assert (code, "hunter2" in said) == ("SPEC_INVALID", False)
    assert refused('{type: svn, repo: "https://host/x"}')[0] == "SPEC_INVALID"


def test_addresses_are_checked_when_they_are_set(server: Server) -> None:
    for fields in (
        {"repoUrl": "file:///etc"},
        {"repoUrl": "https://user:pass@host/x"},
        {"repoUrl": "ext::sh -c x"},
        {"repoUrl": "https://host/x", "defaultBranch": "--upload-pack=x"},
        {"repoUrl": "https://host/x", "pipelineFilePath": "../x"},
        {"repoUrl": "https://host/x", "pipelineFilePath": ".git/config"},
        {"saveMode": 2},
        {"repoSecret": "FORGE"},
    ):
        refused = server.call("POST", "/pipelines", json={"name": "bad", **fields})
        assert (refused.status_code, refused.json()["errorCode"]) == (400, "VALIDATION_FAILED"), fields
    assert server.ask("GET", "/pipelines?name=bad")["total"] == 0, "nothing is half created"


async def _finished(server: Server, run: str) -> list[str]:
    """The lines of a run that has succeeded."""

    def view() -> Any:
        return server.ask("GET", f"/workflow-runs/{run}")

    await eventually(
        lambda: view()["status"] not in ("pending", "queued", "running"), progress=lambda: str(view())
    )
    text = server.call("GET", f"/workflow-runs/{run}/logs").text
    assert view()["status"] == "succeeded", (view(), text)
    return text.splitlines()
