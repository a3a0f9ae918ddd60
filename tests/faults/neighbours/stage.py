"""One server, a neighbour who uses it as it is meant, and an abuser; and the verdict on what they did to each other.

Phases with and without the attack take turns in the same run, so that a busy machine makes no difference. What counts
is the 99th percentile of each kind of operation, in the median of the phases.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import text

from faults.neighbours.abuses import ABUSES
from faults.neighbours.neighbour import NAME
from faults.neighbours.table import Abuse
from pilothouse.storage import Database
from support.faults.fleet import AgentProcess
from support.server import PASSWORD, Server
from support.waiting import PATIENCE, slowness

BAR = 0.3
"""Seconds that a request of others may take longer than it does without the attack."""
HOPS = {"run": 3, "line": 2}
"""A run from its start to its end is this many requests, one after the other; a line waits for the batch before its own."""
CONTROL, ATTACK = 1.0, 2.4
"""Seconds of a phase."""
ROUNDS = 5
"""At most this many phases with the attack. One that is far within the bar is enough, and a majority of good or bad."""
IN_ALL = 150.0
"""MiB that the server may have grown after all attacks: caches are full then (of runs, some 80; of SQLite's readers, 36)."""
SETTINGS: dict[str, Any] = {
    "ratelimit_login": "5/minute",
    "ratelimit_sessions": "10/minute",
    "ratelimit_default": "100/minute",
    "agent_heartbeat": 0.5,
    "agent_offline_after": 5.0,
    "lease": 5.0,
}
"""The limits as they are by default; agents are missed soon."""
WORK = "pilothouse_worker_jobs_waiting"
"""What ``/metrics`` calls jobs that wait for a worker."""
TOKENS = {"neighbour": 24, "setup": 16}
VIEWERS, USERS = 10, 3


class Child:
    """A program of this folder: JSON lines in, JSON lines out."""

    def __init__(self, module: str, given: dict[str, Any], log: Path) -> None:
        tests = str(Path(__file__).parents[2])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        environment |= {"PYTHONPATH": tests, "GRPC_ENABLE_FORK_SUPPORT": "0"}
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"faults.neighbours.{module}", json.dumps(given)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
            )  # fmt: skip
        self.answer()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send a command, wait for its answer."""
        self.send(**order)
        return self.answer()

    def send(self, **order: Any) -> None:
        """Send a command; :meth:`answer` has its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self._process.stdout is not None
        timer = threading.Timer(120, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert line, f"{self.log.name}: it ended: {self.log.read_text()[-3000:]}"
        answer: dict[str, Any] = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer

    def close(self) -> None:
        """It ends."""
        self._process.kill()
        self._process.wait(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@dataclass(frozen=True)
class Report:
    """What an attack did. ``alone``, ``beside``: the 99th percentile in s by kind of operation, one a phase."""

    alone: dict[str, list[float]]
    beside: dict[str, list[float]]
    problems: list[str]
    seen: dict[str, int]
    memory: float
    waves: int
    slow: float

    def excess(self, kind: str) -> float:
        """Seconds that operations of this kind took longer than without the attack."""
        return statistics.median(self.beside[kind]) - statistics.median_low(self.alone[kind])

    @property
    def worst(self) -> float:
        """The most of them all, of a request."""
        return max(self.excess(kind) / HOPS.get(kind, 1) for kind in self.beside)

    def __str__(self) -> str:
        kinds = ", ".join(
            f"{kind} {statistics.median_low(self.alone[kind]):.3f}→{statistics.median(self.beside[kind]):.3f}"
            for kind in sorted(self.beside)
        )
        return (
            f"worst {self.worst:+.3f} s ({kinds}; {len(self.beside['list'])} phases), memory {self.memory:+.0f} MiB, "
            f"{self.waves} waves, slowness {self.slow:.1f}, seen {self.seen}"
        )


class Stage:
    """All of it. ``directory`` has the server's data and everyone's logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = Server(directory, **SETTINGS)
        self._sources = itertools.count(1)
        self._children: list[Child] = []
        self._agent: AgentProcess | None = None
        self._gone, self._stopped = 0, True
        try:
            self.server.start()
            self.given = self._furnish()
            self.neighbour = self._child("neighbour", self.given["neighbour"])
            self._abuser = self._child("abuser", self.given["abuser"])
            self._abuser.ask(do="fill")
            self.first = self.memory
        except BaseException:
            self.close()
            raise

    def _child(self, module: str, given: dict[str, Any]) -> Child:
        child = Child(module, given, self.directory / f"{module}.log")
        self._children.append(child)
        return child

    # -- what is there before -----------------------------------------------------------------------------

    def _furnish(self) -> dict[str, Any]:
        server = self.server
        server._tokens["admin"] = self._login("admin")
        setup = self._tokens(server.admin, TOKENS["setup"])
        server._tokens["admin"] = setup[0]
        project = server.project("abused")
        for name, role, projects in (
            (NAME, "user", None),
            *((f"viewer-{n}", "viewer", [project]) for n in range(VIEWERS)),
            *((f"user-{n}", "user", [project]) for n in range(USERS)),
        ):
            body = {"username": name, "password": PASSWORD, "role": role}
            server.ask("POST", "/users", json=body | ({} if projects is None else {"projects": projects}))
        server._tokens["admin"] = setup[1]
        work = {"name": "s", "uses": "shell", "args": {"command": "true"}}
        work |= {"agentSelector": {"matchLabels": {"only": NAME}}}
        small = server.pipeline("small", {"jobs": [{"name": "j", "steps": [work]}]})
        long = server.pipeline("long", {"jobs": [{"name": "j", "steps": [{**work, "name": "long"}]}]})
        common = {"port": server.settings["port"], "grpc": server.grpc}
        registration = server.registration_token(agents=[NAME])
        neighbour = {
            "tokens": self._tokens(self._login(NAME), TOKENS["neighbour"]),
            "pipeline": small, "long": long, "registration": registration,
        }  # fmt: skip
        tokens = {
            "viewer": [self._login(f"viewer-{n}") for n in range(VIEWERS)],
            "user": [self._login(f"user-{n}") for n in range(USERS)],
            "setup": setup[2:],
        }
        return {
            "neighbour": {**common, **neighbour},
            "abuser": {**common, "tokens": tokens, "project": project, "foreign": small, "http": server.url},
        }

    def _login(self, name: str) -> str:
        """A session. Logins are counted by address, so each comes from another one."""
        source = f"127.0.9.{next(self._sources)}"
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source), timeout=PATIENCE) as http:
            body = {"username": name, "password": PASSWORD}
            answer = http.post(f"{self.server.url}/api/v1/auth/login", json=body)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["token"])

    def _tokens(self, session: str, count: int) -> list[str]:
        return [
            str(self.server.ask("POST", "/tokens", session, json={"name": f"t{n}"})["token"])
            for n in range(count)
        ]

    def agent(self) -> str:
        """The name of a real agent, for attacks by its steps; started when the first needs it."""
        if self._agent is None:
            self.server._tokens["admin"] = self.given["abuser"]["tokens"]["setup"][0]
            self._agent = AgentProcess(self.server, self.directory, "real", slots=4)
            self._agent.start()
        return self._agent.name

    # -- an attack ----------------------------------------------------------------------------------------

    def attack(self, name: str, *, rounds: int = ROUNDS, thorough: bool = False) -> Report:
        """Let it happen, in turns with phases without it, until there is no more doubt.

        ``thorough``: as many phases as there may be, for a number rather than a verdict.
        """
        if ABUSES[name].caller == "step":
            self.agent()
        paces, self._stopped = [slowness()], True
        self._drain()
        self._abuser.ask(do="begin", name=name)
        before = self._settled(math.inf)
        alone, beside, problems, waves = [self._phase(CONTROL)], [], [], 0
        while True:
            self._abuser.send(do="go", seconds=ATTACK)
            beside.append(self._phase(ATTACK))
            waves += self._abuser.answer()["waves"]
            alone.append(self._phase(CONTROL))
            paces.append(slowness())
            slow = statistics.median(paces)
            bad = _over(alone, beside, slow)
            clear = not _over(alone, beside, slow / 2) or max(bad, len(beside) - bad) > rounds // 2
            if len(beside) >= rounds or (clear and not thorough):
                break
        seen = self._abuser.ask(do="end")["seen"]
        problems += [problem for phase in (*alone, *beside) for problem in phase["problems"]]
        self._stopped = any(problem.startswith("it stopped") for problem in problems)
        memory = self._settled(before + ABUSES[name].room) - before
        return Report(_by_kind(alone), _by_kind(beside), problems, seen, memory, waves, slow)

    def _drain(self, patience: float = 60.0) -> None:
        """Wait until no worker has anything to do, since the attack before may have left much."""
        end = time.monotonic() + patience
        while time.monotonic() < end and self._working():
            time.sleep(0.1)

    def _working(self) -> float:
        text = self.server.call("GET", "/metrics", None).text
        told = [line.split() for line in text.splitlines() if line.startswith(WORK)]
        return sum(float(value) for _, value in told)

    def growth(self) -> float:
        """MiB that the server has grown since the beginning, once what waits is done."""
        return self._settled(self.first + IN_ALL, 90) - self.first

    def _phase(self, seconds: float) -> dict[str, Any]:
        return self.neighbour.ask(seconds=seconds)

    @property
    def memory(self) -> float:
        """Resident MiB of the server's own process."""
        return float(psutil.Process(self.server.pid).memory_info().rss) / (1 << 20)

    def _settled(self, bound: float, patience: float = 30.0) -> float:
        """The memory, once it is within the bound, or after the time that work which waits may take."""
        end = time.monotonic() + patience
        while (now := self.memory) > bound and time.monotonic() < end:
            time.sleep(0.1)
        return now

    # -- what must hold -----------------------------------------------------------------------------------

    def judge(self, name: str, report: Report) -> None:
        """All that is asked of the server; one error names everything that is not so."""
        found = [*report.problems[:5], *self._untouched(), *_clear(ABUSES[name], report.seen)]
        for kind in report.beside:
            if report.excess(kind) > BAR * HOPS.get(kind, 1) * report.slow:
                found.append(f"others waited {report.excess(kind):.2f} s longer ({kind})")
        if report.memory > ABUSES[name].room:
            found.append(f"{report.memory:.0f} MiB were kept")
        found += self.server.failures()[:3]
        self.server.forget_failures()
        assert not found, f"{name}: " + "; ".join(found) + f"\n{report}"

    def _untouched(self) -> Iterator[str]:
        if not self.server.alive:
            yield "the server does not answer"
        gone = self._count("entries WHERE type = 'agent.offline' AND stream = :key", f"agent/{NAME}")
        if gone > self._gone:
            yield "the neighbour's agent was taken for gone"
        self._gone = gone
        if not self._leased:
            yield "the neighbour's lease was lost"

    @property
    def _leased(self) -> bool:
        """Whether the neighbour still holds its long step; how its other runs end it reports itself."""
        return self._count("leases WHERE agent_id = :key", NAME) > 0

    def _count(self, what: str, key: str) -> int:
        url = (
            self.server.settings.get("database_url") or f"sqlite:///{self.server.data_dir / 'pilothouse.db'}"
        )
        with contextlib.closing(Database(url)) as database, database.read() as conn:
            return int(conn.execute(text(f"SELECT count(*) FROM {what}"), {"key": key}).scalar_one())

    @property
    def usable(self) -> bool:
        """Whether further attacks can be judged."""
        try:
            return self.server.alive and self._leased and not self._stopped
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """All of it ends."""
        for child in self._children:
            child.close()
        if self._agent is not None:
            self._agent.close()
        self.server.close()


class Stages(contextlib.AbstractContextManager["Stages"]):
    """One stage for all attacks, and a new one after an attack that was not survived."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._stage: Stage | None = None

    def __exit__(self, *_: object) -> None:
        if self._stage is not None:
            self._stage.close()
            self._stage = None

    @contextlib.contextmanager
    def one(self) -> Iterator[Stage]:
        """The stage for the next attack."""
        stage = self._stage = self._stage or Stage(self._directory())
        try:
            yield stage
        except BaseException:
            if not stage.usable:
                self.__exit__()
            raise


def percentile(values: list[float]) -> float:
    """The 99th; of fewer than a hundred values the largest."""
    return sorted(values)[max(0, math.ceil(len(values) * 0.99) - 1)]


def _by_kind(phases: list[dict[str, Any]]) -> dict[str, list[float]]:
    kinds = {kind for phase in phases for kind in phase["delays"]}
    return {
        kind: [percentile(phase["delays"][kind]) for phase in phases if phase["delays"].get(kind)]
        for kind in sorted(kinds)
    }


def _over(alone: list[dict[str, Any]], beside: list[dict[str, Any]], slow: float) -> int:
    """How many phases are worse than allowed, each judged alone."""
    control = _by_kind(alone)
    return sum(
        any(
            late[0] - statistics.median_low(control[kind]) > BAR * HOPS.get(kind, 1) * slow
            for kind, late in _by_kind([one]).items()
        )
        for one in beside
    )


def _clear(abuse: Abuse, seen: dict[str, int]) -> Iterator[str]:
    """The abuser was told what it did, in words it can act upon."""
    if not seen and abuse.refused:
        yield "the attack got no answer at all"
    for outcome in seen:
        # A head that is no request, or too long, is answered below HTTP's own layers: by a sentence.
        unclear = outcome.endswith("?") and not (abuse.cut and outcome == "400 ?")
        unclear |= outcome.startswith(("500", "INTERNAL", "UNKNOWN", "no answer"))
        if unclear or (outcome == "closed" and not abuse.cut):
            yield f"an unclear answer: {outcome} ({seen[outcome]} times)"
    if abuse.refused and not any(outcome.startswith(abuse.refused) for outcome in seen):
        yield f"it was not refused: {seen}"
