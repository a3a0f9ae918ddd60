"""What steps find in their workspaces: the uploaded checkout over real HTTP, what the job left, or nothing."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pilothouse.wire.agent.v1 import agent_pb2 as pb
from support.agents import command, options, plane, running
from support.control_plane import CANCELLED, FAILED, SUCCESS, ControlPlane
from support.waiting import eventually

__all__ = ["options", "plane"]  # fixtures


@dataclass
class Blobs:
    """An HTTP server with one blob. `answers`: responses sent before the blob."""

    data: bytes
    url: str = ""
    answers: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def checkout(self) -> pb.Checkout:
        digest = hashlib.sha256(self.data).hexdigest()
        return pb.Checkout(url="/api/v1/blobs/b1", sha256=digest, size=len(self.data))


@pytest.fixture
def blobs() -> Iterator[Blobs]:
    blobs = Blobs(tar({"README": b"hello\n", "bin/run": b"#!/bin/sh\necho ran\n"}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            blobs.asked.append((self.path, self.headers["Authorization"]))
            status = blobs.answers.pop(0) if blobs.answers else 200
            self.send_response(status)
            self.send_header("Content-Length", str(len(blobs.data) if status == 200 else 0))
            self.end_headers()
            if status == 200:
                self.wfile.write(blobs.data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    blobs.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield blobs
    server.shutdown()
    server.server_close()
    thread.join()


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def job(blobs: Blobs | None, **fields: Any) -> dict[str, Any]:
    checkout = {} if blobs is None else {"checkout": blobs.checkout}
    return {"workspace": "ws", "last_in_job": False, **checkout, **fields}


async def test_a_checkout_is_laid_out_and_stays_for_the_job(
    plane: ControlPlane, options: dict[str, Any], blobs: Blobs
) -> None:
    blobs.answers = [503]
    workspace = options["data_dir"] / "work" / "ws"
    async with running(options, server=blobs.url + "/"):
        plane.offer("s1", **job(blobs, **command("cat README; bin/run; echo more > made")))
        await eventually(lambda: "s1" in plane.ended)
        plane.offer("s2", **job(blobs, fresh_workspace=False, uses="scm", action="checkout"))
        await eventually(lambda: "s2" in plane.ended)
        plane.offer("s3", **job(blobs, fresh_workspace=False, last_in_job=True, **command("cat made")))
        await eventually(lambda: "s3" in plane.ended)
        assert not workspace.exists()
    assert plane.lines["s1"] == ["hello", "ran"]
    assert plane.lines["s2"] == [
        f"in place: the uploaded checkout sha256:{blobs.checkout.sha256} ({len(blobs.data)} bytes)"
    ]
    assert plane.lines["s3"] == ["more"]
    assert blobs.asked == [("/api/v1/blobs/b1", f"Bearer {plane.token}")] * 2
    assert [path.name for path in (options["data_dir"] / "work").glob(".*")] == [".git"]


async def test_a_fresh_workspace_has_nothing_of_the_old_one(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    async with running(options):
        plane.offer("s1", **job(None, **command("touch old; exit 1")))
        await eventually(lambda: "s1" in plane.ended)
        plane.offer("s2", **job(None, **command("ls; echo end")))
        await eventually(lambda: "s2" in plane.ended)
        assert (options["data_dir"] / "work" / "ws").exists()
    assert plane.lines["s2"] == ["end"]


async def test_a_kept_workspace_outlives_its_job(plane: ControlPlane, options: dict[str, Any]) -> None:
    async with running(options):
        plane.offer("s1", **job(None, last_in_job=True, keep_workspace=True, **command("touch kept")))
        await eventually(lambda: "s1" in plane.ended)
    assert (options["data_dir"] / "work" / "ws" / "kept").exists()


async def test_bad_checkouts_fail_the_step(
    plane: ControlPlane, options: dict[str, Any], blobs: Blobs
) -> None:
    good = blobs.checkout
    cases = {
        "digest": (pb.Checkout(url=good.url, sha256="0" * 64, size=good.size), "SHA-256"),
        "larger": (pb.Checkout(url=good.url, sha256=good.sha256, size=good.size - 1), "larger than"),
        "smaller": (
            pb.Checkout(url=good.url, sha256=good.sha256, size=good.size + 1),
            f"{good.size} bytes, not",
        ),
        "elsewhere": (pb.Checkout(url="http://elsewhere.example/x", size=1), "not on this agent's server"),
        "slashes": (pb.Checkout(url="//elsewhere.example/x", size=1), "not on this agent's server"),
    }
    async with running(options, server=blobs.url):
        for name, (checkout, _) in cases.items():
            plane.offer(name, checkout=checkout, **command("echo ran"))
        await eventually(lambda: plane.ended.keys() == cases.keys())
        blobs.answers = [404]
        plane.offer("missing", checkout=good, **command("echo ran"))
        await eventually(lambda: "missing" in plane.ended)
    for name, (_, error) in {**cases, "missing": (good, "the server answers 404")}.items():
        assert plane.ended[name].status == FAILED
        assert error in plane.ended[name].error_message
        assert not plane.lines[name]


async def test_cancelled_while_the_checkout_cannot_be_had(
    plane: ControlPlane, options: dict[str, Any], blobs: Blobs
) -> None:
    blobs.answers = [503] * 100
    async with running(options, server=blobs.url):
        plane.offer("s1", **job(blobs, **command("echo ran")))
        await eventually(lambda: blobs.asked)
        plane.cancel("s1")
        await eventually(lambda: "s1" in plane.ended)
    assert plane.ended["s1"].status == CANCELLED


async def test_a_workspace_is_not_wiped_under_a_dying_attempt(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    trap = f"trap 'sleep 0.5; ls >> {tmp_path / 'seen'}; exit 1' TERM; touch mine; echo up; sleep 60 & wait"
    async with running(options):
        plane.offer("old", **job(None, **command(trap)))
        await eventually(lambda: plane.lines["old"])
        plane.cancel("old")
        plane.offer("new", **job(None, **command("ls; echo end")))
        await eventually(lambda: {"old", "new"} <= plane.ended.keys())
    assert (tmp_path / "seen").read_text() == "mine\n"
    assert plane.lines["new"] == ["end"]
    assert plane.ended["new"].status == SUCCESS


async def test_unused_workspaces_are_swept_and_used_ones_are_not(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    work = options["data_dir"] / "work"
    (work / "forgotten").mkdir(parents=True)
    os.utime(work / "forgotten", (time.time() - 100,) * 2)
    async with running(options, workspace_keep=0.5):
        plane.offer("s1", **job(None, **command("echo up; sleep 1.5; ls -d .")))
        await eventually(lambda: plane.lines["s1"])
        await eventually(lambda: not (work / "forgotten").exists())
        await eventually(lambda: "s1" in plane.ended)
        assert plane.lines["s1"] == ["up", "."]
        await eventually(lambda: not (work / "ws").exists())


async def test_the_agent_survives_a_workspace_that_removes_itself(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    async with running(options):
        plane.offer("s1", **job(None, **command('rm -r "$PWD"; echo gone')))
        await eventually(lambda: "s1" in plane.ended)
        plane.offer("s2", **job(None, fresh_workspace=False, **command("echo ran")))
        await eventually(lambda: "s2" in plane.ended)
    assert plane.ended["s1"].status == SUCCESS
    assert "gone from agent worker-1" in plane.ended["s2"].error_message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run steps as another user")
async def test_steps_of_another_user_reach_their_workspaces_and_nothing_else(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        data_dir = Path(directory) / "agent"
        data_dir.mkdir(mode=0o700)
        async with running(options, data_dir=data_dir, run_as="nobody"):
            look = "id -un; echo mine > file; cat file; cat ../../credential || echo no; ls ../../spool || echo no"
            plane.offer("s1", **job(None, **command(look)))
            await eventually(lambda: "s1" in plane.ended)
    assert plane.ended["s1"].status == SUCCESS
    said = [log["content"] for log in plane.logs["s1"] if log["stream"] == "stdout"]
    assert said == ["nobody", "mine", "no", "no"]
