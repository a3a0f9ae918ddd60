"""Notifications with a real server and real receivers: webhooks, e-mail and chat, retries, kills, and what is not shown."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.bodies import UNKNOWN, enveloped_error
from support.certificates import self_signed
from support.desk import Desk
from support.receivers import Mailbox, Receiver, mail_server, receiving
from support.server import Server, running
from support.waiting import PATIENCE, eventually

KEY = "whsec_" + base64.b64encode(uuid.uuid4().bytes * 2).decode()
CHAT_PATH = f"/chat-{uuid.uuid4().hex}"
MAIL_PASSWORD = f"mail-{uuid.uuid4().hex}"
NEVER = [{"name": "s", "uses": "dummy"}]
ASK = [{"name": "ask", "uses": "approval", "args": {"roles": ["admin"]}}]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mailbox]:
    directory = tmp_path_factory.mktemp("mail")
    for name, text in zip(("key.pem", "ca.pem"), self_signed(), strict=True):
        (directory / name).write_bytes(text)
    with mail_server(directory / "key.pem", directory / "ca.pem", "pilot", MAIL_PASSWORD) as mailbox:
        mailbox.ca = str(directory / "ca.pem")
        yield mailbox


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, mailbox: Mailbox
) -> Iterator[Server]:
    settings = {
        "notify_allow": ["127.0.0.1"],
        "notify_schemes": ["json"],
        "notify_retry": 0.2,
        "smtp_host": "127.0.0.1",
        "smtp_port": mailbox.port,
        "smtp_user": mailbox.user,
        "smtp_password": MAIL_PASSWORD,
        "smtp_from": "pilot@example.org",
        "smtp_ca": mailbox.ca,
    }
    with running(tmp_path_factory.mktemp("notify"), log_level="debug", **settings) as server:
        chat = f"json://127.0.0.1:{receiver.port}{CHAT_PATH}"
        for name, value in (("HOOK_KEY", KEY), ("TEAM_CHAT", chat)):
            server.ask("PUT", f"/secrets/{name}", json={"value": value})
        yield server
        assert server.failures() == []


def webhook(url: str, secret: str = "HOOK_KEY") -> dict[str, Any]:
    return {"plugin": "webhook", "params": {"url": url, "secret": secret}}


def spec(*, fails: bool = False, **notify: Any) -> dict[str, Any]:
    """A run of it has succeeded at once, or fails when its gate is rejected."""
    job = {"name": "test", "steps": ASK} if fails else {"name": "test", "when": "false", "steps": NEVER}
    return {"jobs": [job], "notify": notify}


def reject(server: Server, run_id: str) -> None:
    [gate] = server.ask("GET", f"/gates?run={run_id}&status=open")["gates"]
    server.ask("POST", f"/gates/{gate['id']}", json={"decision": "reject"})


def deliveries(server: Server, pipeline: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ask("GET", f"/pipelines/{pipeline}/notifications")["list"]
    return found


async def ended(server: Server, pipeline: str, timeout: float = PATIENCE) -> dict[str, Any]:
    """The newest delivery, when it has ended."""

    def newest() -> dict[str, Any] | None:
        found = deliveries(server, pipeline)
        return found[0] if found and found[0]["status"] != "waiting" else None

    found = await eventually(newest, timeout)
    assert found is not None
    return found


async def test_a_webhook_is_signed_and_tried_until_it_is_accepted(server: Server, receiver: Receiver) -> None:
    receiver.answers["/hook"], receiver.said = [500, 500, 204], b""
    pipeline = server.pipeline("hooked", spec(fails=True, onFailure=webhook(receiver.url("/hook"))))
    run_id = server.trigger(pipeline, branch="main", commitSha="9fceb02d0ae598e95dc970b74767f19372d61af8")
    reject(server, run_id)
    found = await ended(server, pipeline)
    assert (found["status"], found["attempts"], found["responseCode"]) == ("delivered", 3, 204)
    assert (found["target"], found["event"], found["reason"]) == (receiver.url(""), "run.failed", "")
    got = receiver.at("/hook")
    assert len(got) == 3
    assert {one.headers["webhook-id"] for one in got} == {f"msg_{found['deliveryId']}"}
    first, again = got[1].at - got[0].at, got[2].at - got[1].at
    assert first >= 0.2
    assert again >= 0.4
    for one in got:
        event = one.verified(KEY)
        assert event["type"] == "run.failed"
        assert event["data"]["run_id"] == run_id
        assert event["data"]["failed_steps"] == [{"job": "test", "step": "ask", "status": "failed"}]
        assert (event["data"]["branch"], event["data"]["pipeline"]) == ("main", "hooked")
        assert (event["data"]["status"], event["data"]["project"]) == ("failed", "default")


async def test_an_email_arrives_over_starttls_after_a_login(server: Server, mailbox: Mailbox) -> None:
    mailbox.refuse = ["451 try again"]
    told = {"plugin": "email", "params": {"to": ["ops@example.org", "anna@example.org"]}}
    pipeline = server.pipeline("mailed", spec(onSuccess=told))
    server.trigger(pipeline, branch="main")
    found = await ended(server, pipeline)
    assert (found["status"], found["attempts"]) == ("delivered", 2), found
    [(to, mail)] = mailbox.mails
    assert to == ["ops@example.org", "anna@example.org"]
    assert mail["Subject"] == "mailed on main: succeeded"
    assert mail["Message-ID"] == f"<{found['deliveryId']}@example.org>"
    assert mail["From"] == "pilot@example.org"
    assert f"Run: {found['runId']}" in str(mail.get_payload())
    mailbox.refuse = ["550 no such user"]
    server.trigger(pipeline)
    found = await eventually(lambda: next((d for d in deliveries(server, pipeline) if d["reason"]), None))
    assert (found["status"], found["attempts"], found["responseCode"]) == ("failed", 1, 550)
    assert "no such user" in found["reason"]


async def test_a_chat_message_goes_to_the_address_in_the_secret(server: Server, receiver: Receiver) -> None:
    told = {"plugin": "chat", "params": {"secret": "TEAM_CHAT"}}
    pipeline = server.pipeline("chatted", spec(onSuccess=told))
    server.trigger(pipeline, branch="@everyone")
    found = await ended(server, pipeline)
    assert (found["status"], found["target"]) == ("delivered", "secret TEAM_CHAT"), found
    [got] = receiver.at(CHAT_PATH)
    assert got.event["title"].replace("\u200b", "") == "chatted on @everyone: succeeded"
    assert "@everyone" not in got.event["title"]
    assert "Run succeeded after" in got.event["message"]


async def test_what_cannot_succeed_fails_at_once_and_can_be_delivered_again(
    server: Server, receiver: Receiver
) -> None:
    receiver.answers["/gone"], receiver.said = [410], f"no {KEY} here\x1b".encode() + b"x" * 5000
    gone = server.pipeline("gone", spec(onSuccess=webhook(receiver.url("/gone"))))
    server.trigger(gone)
    found = await ended(server, gone)
    assert (found["status"], found["attempts"], found["responseCode"]) == ("failed", 1, 410)
    assert found["response"].startswith("no *** here x")
    assert len(found["response"]) <= 1024
    receiver.answers["/gone"] = [200]
    path = f"/pipelines/{gone}/notifications/{found['deliveryId']}/redeliver"
    assert server.ask("POST", path)["status"] == "waiting"
    assert (await ended(server, gone))["status"] == "delivered"
    assert len({one.headers["webhook-id"] for one in receiver.at("/gone")}) == 1
    enveloped_error(server.call("POST", path.replace(found["deliveryId"], UNKNOWN)), 404)
    for url, reason in (
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is not a public address"),
        ("http://[::ffff:10.0.0.1]/", "is not a public address"),
        (f"http://127.0.0.2:{receiver.port}/hook", "127.0.0.2 is not a public address"),
    ):
        refused = server.pipeline(f"refused {uuid.uuid4().hex[:6]}", spec(onSuccess=webhook(url)))
        server.trigger(refused)
        found = await ended(server, refused)
        assert (found["status"], found["attempts"]) == ("failed", 1)
        assert reason in found["reason"]


async def test_redirects_are_not_followed(server: Server, receiver: Receiver) -> None:
    receiver.answers["/moved"] = [302, 200]
    moved = server.pipeline("moved", spec(onSuccess=webhook(receiver.url("/moved"))))
    server.trigger(moved)
    assert (await ended(server, moved))["attempts"] == 2
    assert receiver.at("/elsewhere") == []


async def test_a_run_that_needs_a_secret_that_is_not_there_is_refused(server: Server) -> None:
    lacking = server.pipeline("lacking", spec(onSuccess=webhook("https://example.org", "NOT_THERE")))
    answer = server.call("POST", f"/pipelines/{lacking}/trigger", json={})
    assert answer.status_code == 400
    assert "NOT_THERE" in answer.text
    server.ask("PUT", "/secrets/NOT_THERE", json={"value": "no key"})
    server.trigger(lacking)
    found = await ended(server, lacking)
    assert (found["status"], found["attempts"]) == ("failed", 1)
    assert "not a key of Standard Webhooks" in found["reason"]


async def test_who_may_see_and_repeat_deliveries(server: Server, tmp_path: Path) -> None:
    project = server.project("told")
    reader, outsider = server.user("nora", "viewer", [project]), server.user("nils", "user", [])
    told = {"plugin": "email", "params": {"to": ["ops@example.org"]}}
    pipeline = server.pipeline("seen", spec(onSuccess=told), project=project)
    server.trigger(pipeline)
    found = await ended(server, pipeline)
    path = f"/pipelines/{pipeline}/notifications"
    assert server.ask("GET", path, token=reader)["total"] == 1
    again = f"{path}/{found['deliveryId']}/redeliver"
    enveloped_error(server.call("POST", again, token=reader), 403)
    for method, hidden in (("GET", path), ("POST", again)):
        enveloped_error(server.call(method, hidden, token=outsider), 404)
    desk = Desk(tmp_path / "desk", server.url, server.admin)
    listed = desk.good("pipeline", "notifications", "seen")
    assert "run.succeeded" in listed
    assert "email ops@example.org" in listed
    [shown] = json.loads(desk.good("pipeline", "notifications", "seen", "-o", "json"))
    assert (shown["id"], shown["status"]) == (found["deliveryId"], "delivered")
    said = desk.pilot("pipeline", "notifications", "seen", "--redeliver", found["deliveryId"])
    assert "is delivered again" in said.stderr
    await ended(server, pipeline)


async def test_a_slow_receiver_delays_nobody_else(server: Server, receiver: Receiver) -> None:
    with receiving() as slow:
        slow.slow.add("/slow")
        pipeline = server.pipeline("slow", spec(onSuccess=webhook(slow.url("/slow"))))
        for _ in range(6):
            server.trigger(pipeline)
        await eventually(lambda: len(slow.at("/slow")) == 2)  # at once, of one receiver
        other = server.pipeline("quick", spec(onSuccess=webhook(receiver.url("/quick"))))
        server.trigger(other)
        assert (await ended(server, other))["status"] == "delivered"
        assert len(slow.at("/slow")) == 2
        slow.release.set()
        await eventually(lambda: [d["status"] for d in deliveries(server, pipeline)] == ["delivered"] * 6)


@pytest.mark.parametrize("end", ["kill9", "stop"])
async def test_what_a_server_was_delivering_when_it_ended_arrives_after_its_restart(
    server: Server, receiver: Receiver, end: str
) -> None:
    with receiving() as slow:
        slow.slow.add("/late")
        pipeline = server.pipeline(f"late {end}", spec(onSuccess=webhook(slow.url("/late"))))
        server.trigger(pipeline)
        [first] = await eventually(lambda: slow.at("/late"))
        getattr(server, end)()
        slow.release.set()
        server.restart()
        found = await ended(server, pipeline, 3 * PATIENCE)  # on PostgreSQL when the claim has ended
        assert (found["status"], found["attempts"]) == ("delivered", 2)
        ids = [one.headers["webhook-id"] for one in slow.at("/late")]
        assert ids == [first.headers["webhook-id"]] * 2
    assert len(receiver.at("/hook")) == 3, "what was delivered before is not delivered again"


def test_secrets_are_neither_stored_nor_logged_nor_shown(server: Server) -> None:
    """The last one: in the log, the files of the server (the journal is one of them), and its answers."""
    files = [path for path in (server.log_file, *server.data_dir.rglob("*")) if path.is_file()]
    secrets = [KEY, KEY.removeprefix("whsec_"), CHAT_PATH.removeprefix("/"), MAIL_PASSWORD]
    for secret in secrets:
        assert [path.name for path in files if secret.encode() in path.read_bytes()] == []
    for pipeline in server.ask("GET", "/pipelines?pageSize=100")["list"]:
        shown = server.call("GET", f"/pipelines/{pipeline['pipelineId']}/notifications?pageSize=100").text
        assert not [secret for secret in secrets if secret in shown]
