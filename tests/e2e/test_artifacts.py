"""Artifacts over HTTP, as a third-party agent and users handle them, with a real server and a real object store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from pilothouse.engine.artifacts.signing import UrlSigner
from pilothouse.storage import now_ms
from pilothouse.storage.keyring import Keyring
from support.artifacts import PART, announce, announced, content, files_of, noise, object_store, put, send
from support.fake_agent import events, registered
from support.live_run import Live, begin
from support.server import Server, running
from support.user_rpc import user_rpc
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def live(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits."""
    settings = {"max_artifact": 3000, "quota_artifacts": 5000, "quota_artifact_count": 4}
    with running(tmp_path_factory.mktemp("bounded"), **settings) as server:
        yield server


async def test_an_artifact_is_sent_in_parts_and_read_whole_or_in_ranges(server: Server, live: Live) -> None:
    data = noise(PART + 1000)
    upload = send(live, "big.bin", data)
    whole = content(server, upload["id"])
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["content-disposition"] == "attachment; filename*=utf-8''big.bin"
    for asked, start, stop in (
        (f"bytes={PART - 5}-{PART + 4}", PART - 5, PART + 5),
        ("bytes=0-0", 0, 1),
        ("bytes=-7", len(data) - 7, len(data)),
        (f"bytes={PART + 990}-", PART + 990, len(data)),
        (f"bytes=10-{10**12}", 10, len(data)),
    ):
        part = content(server, upload["id"], Range=asked)
        assert (part.status_code, part.content) == (206, data[start:stop]), asked
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
    assert content(server, upload["id"], Range=f"bytes={len(data)}-").status_code == 416
    for ignored in ("bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=-"):
        assert content(server, upload["id"], Range=ignored).status_code == 200, ignored
    stale = content(server, upload["id"], Range="bytes=0-0", **{"If-Range": '"other"'})
    assert stale.status_code == 200


async def test_lists_views_and_the_entry_of_an_artifact(server: Server, live: Live) -> None:
    upload = send(live, "notes.txt", b"hello")
    send(live, "empty.txt", b"")
    listed = server.ask("GET", f"/workflow-runs/{live.run_id}/artifacts")["artifacts"]
    assert [each["name"] for each in listed] == ["empty.txt", "notes.txt"]
    assert server.ask("GET", f"/step-runs/{live.step}/artifacts")["artifacts"] == listed
    shown = server.ask("GET", f"/artifacts/{upload['id']}")
    assert shown == listed[1]
    assert (shown["size"], shown["step_run_id"], shown["earlier_run"]) == (5, live.step, False)
    assert server.call("GET", shown["download_url"]).content == b"hello"
    assert content(server, listed[0]["id"]).content == b""
    assert live.view()["artifacts"] == 2
    entries = _entries(server, live.run_id, "step.artifact")
    assert [entry["data"]["artifact"] for entry in entries] == ["notes.txt", "empty.txt"]
    assert "signature" not in json.dumps(entries)


async def test_an_upload_goes_on_where_it_was_cut(server: Server, live: Live) -> None:
    data = noise(2 * PART + 5, 2)
    wanted = announced("cut.bin", data)
    first = announce(live, wanted).json()
    second = put(live, first, data).json()
    assert second["offset"] == PART
    half = data[PART : PART + 1000]
    _cut_off(server, live, second["url"], half, len(data))
    again = announce(live, wanted).json()
    assert (again["id"], again["offset"]) == (first["id"], PART)
    late = put(live, first, data)
    assert (late.status_code, late.json()["code"]) == (409, "UPLOAD_OFFSET_CONFLICT")
    assert late.json()["details"]["offset"] == PART
    while again["state"] != "ready":
        again = put(live, again, data).json()
    assert content(server, first["id"]).content == data
    assert announce(live, wanted).json()["state"] == "ready"


def _cut_off(server: Server, live: Live, url: str, sent: bytes, size: int) -> None:
    """The connection breaks in the middle of a part."""
    import socket

    with socket.create_connection(tuple(urlsplit(server.url).netloc.split(":"))) as line:
        head = f"PUT {url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.agent.token}\r\n"
        head += f"Content-Range: bytes {PART}-{2 * PART - 1}/{size}\r\nContent-Length: {PART}\r\n\r\n"
        line.sendall(head.encode() + sent)


async def test_wrong_checksums_and_lengths_are_refused(server: Server, live: Live) -> None:
    wanted = announced("bad.bin", b"abc")
    upload = announce(live, wanted).json()
    wrong = put(live, upload, b"abc", **{"X-Content-SHA256": "0" * 64})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "VALIDATION_FAILED")
    for data in (b"ab", b"abcd"):
        assert put(live, upload, data).json()["code"] == "VALIDATION_FAILED"
    other = put(live, upload, b"xyz")
    assert (other.status_code, other.json()["code"]) == (400, "VALIDATION_FAILED")
    assert server.call("GET", f"/artifacts/{upload['id']}").status_code == 404
    assert announce(live, wanted).json()["id"] != upload["id"]


@pytest.mark.parametrize("name", ["", " a", "a ", ".", "..", "a/b", "a\\b", "a:b", "a\0b", "a\nb", "x" * 129])
async def test_bad_names_are_refused(live: Live, name: str) -> None:
    answer = announce(live, {**announced("x", b"abc"), "name": name})
    assert answer.status_code == 400, answer.text


async def test_a_name_is_taken_once_in_a_run(server: Server) -> None:
    name = f"taken-{id(object())}"
    agent = await registered(server, name)
    selector = {"agentSelector": {"matchLabels": {"only": name}}}
    steps = [{"name": f"s{n}", "uses": "shell", "args": {"command": "x"}, **selector} for n in (1, 2)]
    run = server.trigger(server.pipeline(name, {"jobs": [{"name": "j", "steps": steps}]}))
    task = await agent.task()
    await agent.ack(task)
    first = Live(server, agent, "", run, task)
    await eventually(lambda: first.view()["jobs"][0]["steps"][0]["status"] == "running")
    old = send(first, "dist", b"one")
    assert announce(first, announced("dist", b"two")).json()["code"] == "ARTIFACT_ALREADY_EXISTS"
    await agent.finish(task)
    task = await agent.task()
    await agent.ack(task)
    second = Live(server, agent, "", run, task)
    await eventually(lambda: second.view()["jobs"][0]["steps"][1]["status"] == "running")
    refused = announce(second, announced("dist", b"two"))
    assert (refused.status_code, refused.json()["code"]) == (409, "ARTIFACT_ALREADY_EXISTS")
    new = send(second, "dist", b"two", overwrite=True)
    assert server.call("GET", f"/artifacts/{old['id']}").status_code == 404
    assert content(server, new["id"]).content == b"two"
    available = _available(second)
    assert [each["name"] for each in available] == ["dist"]
    assert server.call("GET", available[0]["download_url"], agent.token).content == b"two"
    await agent.vanish()


def _available(live: Live, token: str = "") -> list[dict[str, Any]]:
    path = f"/step-runs/{live.step}/available-artifacts"
    return list(live.server.ask("GET", path, token or live.agent.token)["artifacts"])


async def test_rights(server: Server, live: Live) -> None:
    upload = send(live, "secret.txt", b"of this project")
    other_agent = await registered(server, f"other-{id(live)}")
    outsider = server.user("art-outsider", "user", [server.project("art elsewhere")])
    viewer = server.user("art-viewer", "viewer", [server.default_project])
    user = server.user("art-user", "user", [server.default_project])
    paths = [
        f"/artifacts/{upload['id']}",
        f"/artifacts/{upload['id']}/content",
        f"/step-runs/{live.step}/artifacts",
        f"/workflow-runs/{live.run_id}/artifacts",
        f"/workflow-runs/{live.run_id}/tests",
    ]
    for path in paths:
        assert server.call("GET", path, viewer).status_code == 200, path
        assert server.call("GET", path, outsider).status_code == 404, path
        assert server.call("GET", path, other_agent.token).status_code in (403, 404), path
        assert server.call("GET", path, None).status_code == 401, path
    assert server.call("GET", f"/step-runs/{live.step}/available-artifacts", user).status_code == 403
    assert (
        server.call("GET", f"/step-runs/{live.step}/available-artifacts", other_agent.token).status_code
        == 404
    )
    wanted = announced("mine.txt", b"abc")
    assert announce(live, wanted, user).status_code == 403
    assert announce(live, wanted, other_agent.token).status_code == 404
    begun = announce(live, wanted).json()
    assert put(live, begun, b"abc", other_agent.token).status_code == 401
    assert server.call("DELETE", f"/artifacts/{upload['id']}", viewer).status_code == 403
    assert server.call("DELETE", f"/artifacts/{upload['id']}", outsider).status_code == 404
    assert server.call("DELETE", f"/artifacts/{upload['id']}", user).status_code == 200
    [record] = server.ask("GET", "/audit?limit=5&action=artifact.delete")["entries"][:1]
    assert (record["actor"]["name"], record["target"]) == ("art-user", upload["id"])
    assert server.call("GET", f"/artifacts/{upload['id']}", user).status_code == 404
    await live.end()
    assert put(live, begun, b"abc").status_code == 404
    await other_agent.vanish()


async def test_signed_addresses_are_bound_to_one_use_of_one_artifact(server: Server, live: Live) -> None:
    first, second = send(live, "one.txt", b"one"), send(live, "two.txt", b"two")
    url = next(each["download_url"] for each in _available(live) if each["name"] == "one.txt")
    assert server.call("GET", url, live.agent.token).content == b"one"
    assert server.call("GET", url, None).status_code == 401
    assert server.call("GET", url).status_code == 401
    query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
    for id, changed in (
        (second["id"], {}),
        (first["id"], {"expires": str(int(query["expires"]) + 1)}),
        (first["id"], {"by": f"user/{server.ask('GET', '/auth/me')['id']}"}),
        (first["id"], {"signature": "0" * 64}),
    ):
        answer = server.call("GET", f"/artifacts/{id}/signed", live.agent.token, params={**query, **changed})
        assert answer.status_code == 401, changed
    begun = announce(live, announced("three.txt", b"abc")).json()
    stolen = server.call("PUT", f"/artifacts/{begun['id']}/parts?{urlsplit(url).query}", live.agent.token)
    assert stolen.status_code == 401
    assert query["signature"] not in server.log()


async def test_an_address_signed_for_a_user_needs_no_token_but_their_rights(
    server: Server, live: Live
) -> None:
    token = server.user("art-signed", "viewer", [server.default_project])
    me = server.ask("GET", "/auth/me", token)["id"]
    upload = send(live, "signed.txt", b"signed")
    signer = UrlSigner(Keyring.load(server.data_dir / "server.key"), now_ms)
    url = signer.path("download", upload["id"], f"user/{me}")
    assert server.call("GET", url, None).content == b"signed"
    late = UrlSigner(Keyring.load(server.data_dir / "server.key"), lambda: now_ms() - 16 * 60_000)
    expired = server.call("GET", late.path("download", upload["id"], f"user/{me}"), None)
    assert (expired.status_code, expired.json()["code"]) == (401, "AUTH_TOKEN_EXPIRED")
    server.ask("DELETE", f"/projects/{server.default_project}/members/art-signed")
    assert server.call("GET", url, None).status_code == 404
    server.ask("DELETE", "/users/art-signed")
    assert server.call("GET", url, None).status_code == 401


async def test_what_the_rpc_lists_is_downloaded_by_its_address(server: Server, live: Live) -> None:
    upload = send(live, "listed.txt", b"over gRPC")
    announce(live, announced("unfinished.txt", b"abc"))
    viewer = server.user("art-rpc", "viewer", [server.default_project])
    stranger = server.user("art-rpc-stranger", "viewer", [])
    with user_rpc(server, "steprun.v1.StepRunService") as rpc:
        answer = rpc("ListStepRunArtifacts", viewer, stepRunId=live.step)
        [found] = answer.artifacts
        assert (answer.success, found.artifact_id, found.name) == (True, upload["id"], "listed.txt")
        assert (found.path, found.size) == ("listed.txt", 9)
        shown = server.ask("GET", f"/artifacts/{upload['id']}")
        assert found.created_at == int(datetime.fromisoformat(shown["created_at"]).timestamp())
        assert found.expire_at == int(datetime.fromisoformat(shown["expire_at"]).timestamp())
        assert server.call("GET", found.download_url, None).content == b"over gRPC"
        refused = rpc("ListStepRunArtifacts", stranger, stepRunId=live.step)
        assert refused.error.type == "STEP_RUN_NOT_FOUND"
        assert list(refused.artifacts) == []
    server.ask("DELETE", f"/projects/{server.default_project}/members/art-rpc")
    assert server.call("GET", found.download_url, None).status_code == 404


async def test_quotas_and_sizes(bounded: Server) -> None:
    live = await begin(bounded)
    assert announce(live, announced("big", bytes(3001))).json()["code"] == "PAYLOAD_TOO_LARGE"
    send(live, "a", bytes(3000))
    full = announce(live, announced("b", bytes(2001)))
    assert (full.status_code, full.json()["code"]) == (409, "QUOTA_EXCEEDED")
    assert "PILOT_QUOTA_ARTIFACTS" in full.json()["message"]
    send(live, "c", b"1")
    send(live, "d", b"2")
    send(live, "e", b"3")
    many = announce(live, announced("f", b"4"))
    assert many.json()["details"]["quota"] == "artifact_count"
    await live.agent.vanish()


async def test_a_link_of_a_third_party_agent(server: Server, live: Live) -> None:
    def told(number: int, **payload: Any) -> Any:
        return events((f"e{number}", number, live.step, "arcentra.step.artifact", payload))

    ack = await live.agent.push_events(told(1, name="image", url="https://registry.test/v2/app", size=12))
    assert ack.status == 1, ack
    [shown] = server.ask("GET", f"/step-runs/{live.step}/artifacts")["artifacts"]
    assert (shown["format"], shown["download_url"]) == ("link", "https://registry.test/v2/app")
    answer = content(server, shown["id"])
    assert (answer.status_code, answer.headers["location"]) == (307, "https://registry.test/v2/app")
    for number, url in enumerate(("javascript:alert(1)", "file:///etc/passwd", "https://a b", ""), 2):
        ack = await live.agent.push_events(told(number, name=f"n{number}", url=url))
        assert list(ack.rejected_seqs) == [number], url


async def test_expired_artifacts_lose_their_bytes_and_rows(tmp_path: Path) -> None:
    with running(tmp_path, artifact_retention=1e-6) as server:
        live = await begin(server)
        send(live, "gone.bin", noise(2000))
        begun = announce(live, announced("unfinished", noise(PART + 1))).json()
        put(live, begun, noise(PART + 1))
        stored = files_of(server.data_dir / "objects")
        assert stored
        server.stop()
        server.start()  # whose first round of background work deletes what is due
        await eventually(lambda: not files_of(server.data_dir / "objects"), 120)
        assert server.ask("GET", f"/workflow-runs/{live.run_id}/artifacts")["artifacts"] == []
        await live.agent.vanish()


async def test_artifacts_in_a_bucket(tmp_path: Path) -> None:
    data, bucket = noise(PART + 12345, 3), tmp_path / "s3"
    async with object_store(bucket) as settings:
        with running(tmp_path, **settings) as server:
            live = await begin(server)
            upload = send(live, "big.bin", data)
            assert content(server, upload["id"]).content == data
            part = content(server, upload["id"], Range=f"bytes={PART - 3}-{PART + 2}")
            assert part.content == data[PART - 3 : PART + 3]
            assert len(files_of(bucket)) == 2
            assert files_of(server.data_dir / "objects") == []
            # Received by two processes: the checksum is computed from what the store has.
            other = announced("two.bin", data)
            begun = announce(live, other).json()
            begun = put(live, begun, data).json()
            server.kill9()
            server.restart()
            resumed = announce(live, other).json()
            assert (resumed["id"], resumed["offset"]) == (begun["id"], PART)
            assert put(live, resumed, data).json()["state"] == "ready"
            assert content(server, begun["id"]).content == data
            server.ask("DELETE", f"/artifacts/{upload['id']}")
            kept = server.ask("POST", "/uploads?name=kept", content=data)["contentUrl"]
            last = server.call("GET", kept, headers={"Range": "bytes=-5"})
            assert (server.call("GET", kept).content, last.content) == (data, data[-5:])
            assert files_of(server.data_dir / "objects") == []
            assert server.shown_secrets() == []
            assert settings["s3_secret_key"] not in server.log()
            await live.agent.vanish()


async def test_a_bucket_that_is_away_is_said_so(tmp_path: Path) -> None:
    async with object_store(tmp_path / "s3") as settings:
        with running(tmp_path, **{**settings, "s3_secret_key": "wrong"}) as server:
            live = await begin(server)
            begun = announce(live, announced("x", b"abc")).json()
            refused = put(live, begun, b"abc")
            assert (refused.status_code, refused.json()["code"]) == (503, "OBJECTS_UNAVAILABLE")
            assert announce(live, announced("x", b"abc")).json()["offset"] == 0
            await live.agent.vanish()


def _entries(server: Server, run_id: str, type: str) -> list[Any]:
    found = []
    with httpx.stream(
        "GET",
        f"{server.url}/api/v1/events",
        params={"stream": f"run/{run_id}", "type": type, "cursor": "start"},
        headers={"Authorization": f"Bearer {server.admin}"},
        timeout=20,
    ) as lines:
        for line in lines.iter_lines():
            if line.startswith("data:"):
                found.append(json.loads(line[5:]))
            if len(found) == 2:
                return found
    return found
