"""Specs that callers send are worked on in child processes: others are not delayed, and a crash fails one request."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import update

from pilothouse.pipelines import store
from pilothouse.pipelines.compiled import compile_source
from pilothouse.storage import Database
from support.bodies import enveloped_error, success
from support.server import Server, running, spec_for
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("specs_in_workers")) as server:
        yield server


def heavy_spec() -> str:
    """A legal spec of nearly 1 MiB: as many steps and expressions as are allowed."""
    lines = ["jobs:\n"]
    for job in range(100):
        lines.append(f"  - name: job-{job}\n    steps:\n")
        for step in range(50):
            expression = f"size(variables.A) > {job} && variables.B == 'x{step}'"
            lines.append(f"      - name: step-{step}\n        run: 'echo {'x' * 50}'\n")
            lines.append(f'        env: {{A: "${{{{ {expression} }}}}", B: "{"y" * 20}"}}\n')
    text = "".join(lines)
    assert 900_000 < len(text) < 1 << 20, len(text)
    return text


HEAVY = heavy_spec()


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.pid).children()


def cpu(server: Server) -> float:
    """Seconds of CPU time of the server's process alone."""
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


def others(server: Server, until: threading.Event) -> int:
    """How many requests another caller completes, one after the other."""
    count = 0
    with httpx.Client(headers={"Authorization": f"Bearer {server.admin}"}) as http:
        while not until.is_set():
            assert http.get(f"{server.url}/api/v1/projects").is_success
            count += 1
    return count


def test_a_heavy_spec_does_not_delay_others(server: Server) -> None:
    """Counted against a control: requests of another caller while the spec is checked, and for as long without."""
    heavy_user = server.user("heavy")
    path = "/pipelines/spec/validate"
    success(server.call("POST", path, heavy_user, json={"spec": spec_for("x")}))  # a worker runs now
    with ThreadPoolExecutor(1) as thread:
        done = threading.Event()
        counting = thread.submit(others, server, done)
        began = time.monotonic()
        success(server.call("POST", path, heavy_user, json={"spec": HEAVY}))
        took = time.monotonic() - began
        done.set()
        meanwhile = counting.result()
        done.clear()
        counting = thread.submit(others, server, done)
        time.sleep(took)
        done.set()
        control = counting.result()
    print(f"{meanwhile=} {control=} {took=:.2f}")
    assert meanwhile > control / 4


def test_the_server_itself_does_none_of_the_work(server: Server) -> None:
    """CPU time of its process, against what the same spec costs here."""
    began = time.process_time()
    compile_source(HEAVY)
    cost = time.process_time() - began
    pipeline_id = server.pipeline("heavy", spec_for("x"))
    for route in ("spec/validate", "spec/save", "trigger"):
        before = cpu(server)
        body = {"spec": HEAVY} | ({"variables": {"A": "a", "B": "b"}} if route == "trigger" else {})
        answer = server.call("POST", f"/pipelines/{pipeline_id}/{route}", json=body)
        assert answer.is_success, answer.text
        spent = cpu(server) - before
        print(f"{route}: {spent:.2f} of {cost:.2f} s")
        assert spent < cost / 4, route


async def test_a_killed_worker_fails_only_its_request(server: Server) -> None:
    await eventually(lambda: not busy(server))
    other = server.user("bystander")
    with ThreadPoolExecutor(2) as thread:
        failing = thread.submit(server.call, "POST", "/pipelines/spec/validate", json={"spec": HEAVY})
        victim = await eventually(lambda: busy(server))
        os.kill(victim, signal.SIGSTOP)  # the job does not end by itself
        success(server.call("POST", "/pipelines/spec/validate", other, json={"spec": spec_for("x")}))
        assert not failing.done()
        os.kill(victim, signal.SIGKILL)
        answer = await asyncio.wrap_future(failing)
    body = enveloped_error(answer, 503)
    assert body["errorCode"] == "WORKER_CRASHED"
    success(server.call("POST", "/pipelines/spec/validate", json={"spec": spec_for("x")}))
    assert "workers.crashed" in server.log()


def busy(server: Server) -> int:
    """The process id of a worker that computes; 0 without one."""
    for worker in workers(server):
        try:
            before = sum(worker.cpu_times()[:2])
            time.sleep(0.1)
            if sum(worker.cpu_times()[:2]) > before:  # on a busy machine it gets little
                return worker.pid
        except psutil.NoSuchProcess:
            continue
    return 0


def test_a_stored_spec_is_not_checked_again(server: Server) -> None:
    pipeline_id = server.pipeline("stored", spec_for("nobody"))
    before = jobs_done(server)
    shown = server.ask("GET", f"/pipelines/{pipeline_id}/spec")
    server.trigger(pipeline_id)
    assert jobs_done(server) == before
    _store_as_release_0_1(server, pipeline_id)
    assert server.ask("GET", f"/pipelines/{pipeline_id}/spec") == shown
    server.trigger(pipeline_id)
    assert jobs_done(server) == before + 2
    assert server.ask("GET", f"/pipelines/{pipeline_id}/spec") == shown
    server.trigger(pipeline_id)
    assert jobs_done(server) == before + 2, "the first run has stored the compiled form"


def jobs_done(server: Server) -> float:
    return server.metric('pilothouse_worker_jobs_ended{outcome="done"}')


def _store_as_release_0_1(server: Server, pipeline_id: str) -> None:
    """Which kept the text of specs alone."""
    database = Database(server.settings.get("database_url") or f"sqlite:///{server.data_dir}/pilothouse.db")
    with database.write_engine.begin() as conn:
        kept = store.pipeline_specs.c.pipeline_id == pipeline_id
        assert (
            conn.execute(
                update(store.pipeline_specs).where(kept).values(spec="", graph="", names="")
            ).rowcount
            == 1
        )
    database.close()


def test_workers_end_with_the_server(tmp_path: Path) -> None:
    """Also one with a job that does not end: its request is refused before the server cancels what is left."""
    with running(tmp_path) as server:
        answered: list[Any] = []
        assert workers(server) == [], "they are started on first use"
        success(server.call("POST", "/pipelines/spec/validate", json={"spec": spec_for("x")}))
        running_workers = workers(server)
        assert len(running_workers) == 1
        thread = threading.Thread(target=_ask, args=(server, answered))
        thread.start()
        while not (working := busy(server)):
            pass
        os.kill(working, signal.SIGSTOP)
        assert server.stop() < 10
        thread.join()
        [answer] = answered
        assert enveloped_error(answer, 503)["errorCode"] == "SERVER_BUSY"
        for worker in running_workers:
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        assert server.failures() == []


def _ask(server: Server, answered: list[Any]) -> None:
    try:
        answered.append(server.call("POST", "/pipelines/spec/validate", json={"spec": HEAVY}))
    except httpx.HTTPError as error:
        answered.append(error)
