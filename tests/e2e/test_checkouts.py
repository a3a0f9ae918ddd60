"""Work trees on the server: what is known of a repository, what a run keeps, and who may read the packs."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1.agent_pb2_grpc import AgentServiceStub
from support.fake_agent import FAILED, FakeAgent, registered
from support.server import Server, spec_for
from support.waiting import eventually

KEY = "https://git.example/team/shop"
A, B = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


def upload(server: Server, content: bytes, project: str = "") -> str:
    return str(server.ask("POST", f"/blobs?project={project}", content=content)["id"])


def repository(*packs: str, key: str = KEY, commit: str = A, depth: int = 1) -> dict[str, Any]:
    return {"key": key, "commit": commit, "depth": depth, "packs": list(packs)}


def known(server: Server, key: str = KEY, project: str = "") -> list[dict[str, Any]]:
    params = {"repository": key, "project": project}
    return list(server.ask("GET", "/checkouts/known", params=params)["commits"])


def refused(server: Server, pipeline: str, **body: Any) -> int:
    answer = server.call("POST", f"/pipelines/{pipeline}/trigger", json=body)
    assert not answer.is_success, answer.text
    return answer.status_code


def packs_of(task: Any) -> list[pb.CheckoutPack]:
    return list(pb.StepRun.FromString(task.step.SerializeToString()).checkout.packs)


async def tell_of_git(agent: FakeAgent) -> None:
    """As our agent does when it registers."""
    assert agent.channel is not None
    request = pb.RegisterRequest(
        agent_id=agent.agent_id,
        token=agent.token,
        max_concurrent_step_runs=agent.slots,
        labels={"only": agent.agent_id},
        metadata={"git": "2.39.5"},
    )
    assert (await AgentServiceStub(agent.channel).Register(request)).success


def test_commits_of_runs_are_known_and_the_run_shows_them(server: Server) -> None:
    pipeline = server.pipeline("known", spec_for("nobody"))
    key = KEY + "/known"
    assert known(server, key) == []
    archive, first, second = (upload(server, data) for data in (b"archive", b"pack 1", b"pack 2"))
    run = server.trigger(
        pipeline,
        checkout=archive,
        repositories=[repository(first, key=key), repository(second, key=key + "/sub", commit=B, depth=0)],
        branch="main",
        tag="v1.0",
        dirty=True,
    )
    view = server.ask("GET", f"/workflow-runs/{run}")
    assert {name: view[name] for name in ("commit_sha", "branch", "tag", "dirty")} == {
        "commit_sha": A,
        "branch": "main",
        "tag": "v1.0",
        "dirty": True,
    }
    listed = server.ask("GET", f"/workflow-runs?pipeline={pipeline}")["runs"]
    assert [one["dirty"] for one in listed] == [True]
    pack = {"id": first, "sha256": hashlib.sha256(b"pack 1").hexdigest(), "size": 6}
    assert known(server, key) == [{"commit": A, "depth": 1, "packs": [pack]}]
    assert known(server, key + "/sub")[0]["depth"] == 0
    # The newest use comes first, and a commit that is used again is not there twice.
    server.trigger(
        pipeline, checkout=archive, repositories=[repository(first, second, key=key, commit=B)], dirty=False
    )
    assert [(one["commit"], len(one["packs"])) for one in known(server, key)] == [(B, 2), (A, 1)]
    server.trigger(pipeline, checkout=archive, repositories=[repository(second, key=key)])
    assert [(one["commit"], one["packs"][0]["id"]) for one in known(server, key)] == [(A, second), (B, first)]


def test_twenty_commits_are_known(server: Server) -> None:
    pipeline = server.pipeline("twenty", spec_for("nobody"))
    archive, pack = upload(server, b"archive"), upload(server, b"pack")
    for number in range(23):
        commit = f"{number:040x}"
        server.trigger(
            pipeline, checkout=archive, repositories=[repository(pack, key="dir:x", commit=commit)]
        )
    assert len({one["commit"] for one in known(server, "dir:x")}) == 20


def test_a_run_without_a_commit_makes_nothing_known(server: Server) -> None:
    pipeline = server.pipeline("unborn", spec_for("nobody"))
    archive = upload(server, b"archive")
    run = server.trigger(pipeline, checkout=archive, repositories=[repository(key="dir:u", commit="")])
    assert known(server, "dir:u") == []
    assert server.ask("GET", f"/workflow-runs/{run}")["commit_sha"] == ""


def test_what_is_another_projects_is_not_there(server: Server) -> None:
    other = server.project("other")
    pipeline = server.pipeline("mine", spec_for("nobody"))
    foreign, archive, pack = upload(server, b"secret", other), upload(server, b"a"), upload(server, b"p")
    assert refused(server, pipeline, checkout=foreign) == 404
    assert refused(server, pipeline, checkout=archive, repositories=[repository(pack, foreign)]) == 404
    assert refused(server, pipeline, checkout=archive, repositories=[repository("nothing")]) == 404
    theirs = server.pipeline("theirs", spec_for("nobody"), project=other)
    server.trigger(theirs, checkout=foreign, repositories=[repository(foreign, key="dir:other")])
    assert known(server, "dir:other") == []
    assert len(known(server, "dir:other", other)) == 1
    outsider = server.user("outsider", projects=[])
    answer = server.call("GET", f"/checkouts/known?repository=dir:other&project={other}", outsider)
    assert answer.status_code == 404
    viewer = server.user("viewer", "viewer", [other])
    answer = server.call("GET", f"/checkouts/known?repository=dir:other&project={other}", viewer)
    assert answer.status_code == 403


def test_bounds(server: Server) -> None:
    pipeline = server.pipeline("bounds", spec_for("nobody"))
    archive, pack = upload(server, b"archive"), upload(server, b"pack")
    bad = [
        [repository(pack, key="")],
        [repository(pack, key="ü" * 600)],
        [repository(pack, key="a\nb")],
        [repository(pack, commit="main")],
        [repository(pack, commit=A + "\n")],
        [repository(pack, depth=-1)],
        [repository(*[pack] * 21)],
        [repository(*[pack] * 20)] * 21,
        [repository(pack)] * 201,
    ]
    for repositories in bad:
        assert refused(server, pipeline, checkout=archive, repositories=repositories) == 400
    assert refused(server, pipeline, repositories=[repository(pack)]) == 400
    assert refused(server, pipeline, checkout=archive, tag="x" * 201) == 400
    server.trigger(pipeline, checkout=archive, repositories=[repository(*[pack] * 20)] * 20)
    assert server.call("GET", "/checkouts/known").status_code == 400
    assert server.call("GET", "/checkouts/known", params={"repository": "x" * 1025}).status_code == 400


async def test_an_agent_reads_the_packs_of_the_work_it_holds(server: Server) -> None:
    async with await registered(server, "packs") as agent:
        await tell_of_git(agent)
        pipeline = server.pipeline("packs", spec_for("packs"))
        archive, first, second, other = (upload(server, data) for data in (b"a", b"p1", b"p2", b"o"))
        server.trigger(pipeline, checkout=archive, repositories=[repository(first), repository(second)])
        task = await agent.task()
        packs = packs_of(task)
        assert [(pack.url, pack.size) for pack in packs] == [
            (f"/api/v1/blobs/{first}", 2),
            (f"/api/v1/blobs/{second}", 2),
        ]
        assert packs[0].sha256 == hashlib.sha256(b"p1").hexdigest()
        assert packs[0].repository == packs[1].repository != ""
        for blob in (archive, first, second):
            assert server.call("GET", f"/blobs/{blob}", agent.token).status_code == 200
        assert server.call("GET", f"/blobs/{other}", agent.token).status_code == 404
        await agent.ack(task)
        await agent.finish(task)
        await eventually(lambda: server.call("GET", f"/blobs/{first}", agent.token).status_code == 404)


async def test_work_trees_wait_for_an_agent_with_git(server: Server) -> None:
    pipeline = server.pipeline("gitless", spec_for("gitless"))
    async with await registered(server, "gitless") as agent:
        archive, pack = upload(server, b"a"), upload(server, b"p")
        server.trigger(pipeline, checkout=archive)
        assert packs_of(await agent.task()) == []  # a plain directory needs no git
        run = server.trigger(pipeline, checkout=archive, repositories=[repository(pack)])

        def reason() -> str:
            return str(server.ask("GET", f"/workflow-runs/{run}")["jobs"][0]["steps"][0]["reason"])

        await eventually(lambda: "has git" in reason())
        assert reason().startswith("no online agent has git")
        await tell_of_git(agent)
        assert len(packs_of(await agent.task())) == 1


async def test_what_an_agent_could_not_lay_out_is_sent_again(server: Server) -> None:
    """Packs that lack declared objects affect one run only."""
    key, spoilt = KEY + "/doubt", KEY + "/spoilt"
    async with await registered(server, "doubt") as agent:
        await tell_of_git(agent)
        pipeline = server.pipeline("doubt", spec_for("doubt"))
        archive, bad, good = (upload(server, data) for data in (b"doubt", b"bad", b"good"))
        other = server.pipeline("spoilt", spec_for("nobody"))
        for each, packs in ((key, [good]), (key, [bad]), (spoilt, [good, bad])):
            commit = hashlib.sha1("".join(packs).encode()).hexdigest()
            server.trigger(
                other, checkout=archive, repositories=[repository(*packs, key=each, commit=commit)]
            )
        assert (len(known(server, key)), len(known(server, spoilt))) == (2, 1)
        server.trigger(pipeline, checkout=archive, repositories=[repository(bad, key=key)])
        for error in ("exit code 1", "cannot lay out the work tree: git read-tree: fatal: missing"):
            task = await agent.task()
            await agent.ack(task)
            before = len(known(server, key))
            await agent.call(
                "agent.v1.AgentService/ReportStepRunStatus",
                agent_id=agent.agent_id,
                step_run_id=task.step_run_id,
                status=FAILED,
                exit_code=1,
                error_message=error,
            )
            if error == "exit code 1":
                assert len(known(server, key)) == before == 3
                server.trigger(pipeline, checkout=archive, repositories=[repository(bad, key=key)])
        [left] = known(server, key)
        assert [pack["id"] for pack in left["packs"]] == [good]
        assert known(server, spoilt) == []
