"""Pure parts of notifications: addresses, texts without injections, signatures, chat services, the mail of a job."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
from datetime import UTC, datetime
from email.message import Message
from importlib import import_module
from pathlib import Path
from typing import Any

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from pilothouse.pipelines.notifications.chat_services import EXTRA, SERVICES
from pilothouse.pipelines.notifications.connections import MAX_ANSWER, PIECE, AnswerTooLong, Bounded
from pilothouse.pipelines.notifications.guard import Guard, Refused
from pilothouse.pipelines.notifications.jobs import AGAIN, DELIVERED, NEVER, chat_job, email_job
from pilothouse.pipelines.notifications.model import Ended, Retries, one_line, queue_of, target_of
from pilothouse.pipelines.notifications.payload import (
    About,
    FailedStep,
    document,
    text,
    title,
    without_mentions,
)
from pilothouse.pipelines.notifications.webhook import KeyInvalid, Webhooks, shown, signed
from support.certificates import self_signed
from support.receivers import mail_server

INSIDE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "168.63.129.16", "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside_are_refused(address: str) -> None:
    with pytest.raises(Refused, match="not a public address"):
        Guard().check("hooks.example.org", address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_allowed(address: str) -> None:
    Guard().check("hooks.example.org", address)


def test_what_the_setting_allows_alone() -> None:
    guard = Guard.of(["10.0.0.0/8", "Hooks.Internal.", "fd12::/16"])
    guard.check("anything", "10.9.9.9")
    guard.check("hooks.internal", "192.168.0.1")
    guard.check("anything", "fd12::5")
    for host, address in (("other.internal", "192.168.0.1"), ("anything", "11.0.0.1%0"), ("x", "::1")):
        if address.startswith("11."):
            guard.check(host, "11.0.0.1")
            continue
        with pytest.raises(Refused):
            guard.check(host, address)


@given(st.ip_addresses(v=4))
def test_an_address_in_another_form_is_the_same(address: ipaddress.IPv4Address) -> None:
    def refused(given: str) -> bool:
        try:
            Guard().check("h", given)
        except Refused:
            return True
        return False

    if refused(str(address)):
        assert refused(f"::ffff:{address}")
        assert refused(f"64:ff9b::{address}")


def ended(**more: Any) -> Ended:
    known = {"offset": 1, "at": 1_768_055_025_678, "run_id": "r", "project": "p", "pipeline_id": "i"}
    known |= {"pipeline": "shop", "status": "failed", "reason": "", "duration": 83_200}
    return Ended(**{**known, **more})


def test_the_document_is_that_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/notifications.md").read_text()
    example = json.loads(page.split("```json\n")[1].split("```")[0])
    about = About("default", "main", "9fceb0", "", "manual", "alice", (FailedStep("test", "unit", "failed"),))
    made = json.loads(document(ended(), about))
    assert made.keys() == example.keys()
    assert made["data"].keys() == example["data"].keys()
    assert {key: type(value) for key, value in made["data"].items()} == {
        key: type(value) for key, value in example["data"].items()
    }
    assert (made["timestamp"], made["data"]["duration"]) == (example["timestamp"], 83.2)
    for scheme in SERVICES:
        assert f"`{scheme}://`" in page


NASTY = st.text(max_size=300) | st.just("x\r\nBcc: evil@example.org\r\n\r\nbody")


@given(NASTY, NASTY, NASTY)
def test_names_inject_neither_headers_nor_mentions(pipeline: str, branch: str, reason: str) -> None:
    about = About("default", branch, "c", "t\n", "manual", "al\rice")
    body = json.loads(document(ended(pipeline=pipeline, reason=reason), about))
    subject = title(body)
    assert subject.isprintable()
    assert len(subject) <= 200
    message = Message()
    message["Subject"] = subject
    assert list(message.keys()) == ["Subject"]
    for line in text(body).split("\n"):
        assert line == one_line(line, 1000)
    said = without_mentions(title(body) + text(body))
    assert "@e" not in said
    assert "<" not in said


def test_where_it_goes_is_shown_without_keys() -> None:
    params = {"url": "https://hooks.example.org:8443/T0/secret?token=x", "secret": "KEY"}
    assert target_of("webhook", params) == "https://hooks.example.org:8443"
    assert "secret?" not in queue_of("webhook", params, "p")
    assert target_of("webhook", {"url": "http://[::1::2]?x"}) == "http://[::1::2]"
    assert target_of("chat", {"secret": "TEAM"}) == "secret TEAM"


def test_signatures_are_verified_by_the_library() -> None:
    for size in range(16, 65):
        key = "whsec_" + base64.b64encode(bytes(range(size))).decode()
        headers = signed(key, "msg_1", '{"ü": 1}', datetime.now(UTC))
        assert Webhook(key).verify('{"ü": 1}'.encode(), headers) == {"ü": 1}
        assert signed(key.rstrip("=") + "\n", "msg_1", '{"ü": 1}', datetime.now(UTC)).keys() == headers.keys()
    for bad in ("whsec_", "short", "whsec_not base64!", "whsec_" + "YWJj"):
        with pytest.raises(KeyInvalid):
            signed(bad, "msg_1", "{}", datetime.now(UTC))


def test_what_is_kept_of_an_answer() -> None:
    assert shown(b"a \x1b[31m \xff key \n b", "key") == "a  [31m � *** \n b"
    assert len(shown("ü".encode() * 2000, "k").encode()) <= 1024


@pytest.mark.parametrize(
    "flood",
    [b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 500 \r\n" + b"a:\r\n" * 9000, b" " * 999],
    ids=["100", "head", "junk"],
)
async def test_a_receiver_that_never_stops_talking_is_cut_off(flood: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(flood * 100)
                await writer.drain()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sending = asyncio.create_task(
        Webhooks(Guard.of(["127.0.0.1"])).send(
            f"http://127.0.0.1:{port}/", "whsec_" + "A" * 32, "msg_1", "{}"
        )
    )
    async with server:
        outcome = await asyncio.wait_for(sending, 10)
    assert (outcome.delivered, outcome.again) == (False, True)
    assert "not over after 32 KiB" in outcome.reason or "broke off" in outcome.reason


async def test_an_answer_is_read_in_pieces_between_which_others_get_their_turn() -> None:
    class Talker(httpcore.AsyncMockStream):
        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return b"x" * max_bytes  # as TLS gives what it has decrypted: without a wait

    stream, turns = Bounded(Talker([])), 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    waiting = asyncio.create_task(others())
    with pytest.raises(AnswerTooLong):
        while True:
            assert len(await stream.read(65_536)) <= PIECE
    waiting.cancel()
    assert turns >= MAX_ANSWER // PIECE


def test_attempts_are_further_apart_each_time() -> None:
    delays = [Retries(10, 10).delay(number) for number in range(1, 100)]
    assert all(10_000 * 2 ** (n - 1) <= delays[n - 1] <= 12_000 * 2 ** (n - 1) for n in (1, 2, 5))
    assert max(delays) <= 3600 * 1200


def test_chat_services_send_over_tls() -> None:
    for scheme, (module, name) in {**SERVICES, **EXTRA}.items():
        plugin = getattr(import_module(f"apprise.plugins.{module}"), name)
        secure = plugin.secure_protocol
        schemes = secure if isinstance(secure, tuple) else (secure,)
        assert scheme in schemes or scheme == "json"


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "exec://x",
        "dbus://",
        "syslog://",
        "json://127.0.0.1/x",
        "mailto://a:b@example.org",
        "slack://",
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?template=/etc/passwd",
        "nothing",
        "",
    ],
)
def test_other_addresses_than_those_of_chat_services_are_refused(address: str) -> None:
    assert chat_job(address, "t", "b", [], [])[0] == NEVER


def test_a_chat_service_inside_is_refused() -> None:
    kind, _, reason = chat_job("ntfys://localhost/topic", "t", "b", [], [])
    assert kind == NEVER
    assert "not a public address" in reason
    kind, _, reason = chat_job("json://127.0.0.1:9/x", "t", "b", ["127.0.0.1"], ["json"])
    assert (kind, reason) == (AGAIN, "the service cannot be reached")


def test_mail_is_sent_over_tls_or_not_at_all(tmp_path: Path) -> None:
    for name, pem in zip(("key.pem", "ca.pem"), self_signed(), strict=True):
        (tmp_path / name).write_bytes(pem)
    with mail_server(tmp_path / "key.pem", tmp_path / "ca.pem", "u", "p") as mailbox:
        server = {"host": "127.0.0.1", "port": mailbox.port, "tls": "starttls", "user": "u", "password": "p"}
        server |= {"sender": "a@b.c", "ca": ""}
        message = (["x@example.org"], "s", "t", "<1@b.c>")
        kind, _, reason = email_job(server, *message)
        assert (kind, "certificate is not valid" in reason) == (AGAIN, True)
        trusted = server | {"ca": (tmp_path / "ca.pem").read_text()}
        assert email_job(trusted | {"password": "wrong"}, *message)[:2] == (NEVER, 535)
        assert email_job(trusted | {"tls": "none", "user": ""}, *message)[0] == NEVER
        assert mailbox.mails == []
        assert email_job(trusted, *message) == (DELIVERED, 250, "")
        assert len(mailbox.mails) == 1


def test_a_mail_server_that_is_not_there() -> None:
    server = {
        "host": "127.0.0.1",
        "port": 9,
        "tls": "starttls",
        "user": "",
        "password": "",
        "sender": "a@b.c",
        "ca": "",
    }
    kind, code, reason = email_job(server, ["x@example.org"], "s", "t", "<1@b.c>")
    assert (kind, code) == (AGAIN, 0)
    assert "cannot be reached" in reason
