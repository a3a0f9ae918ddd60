"""Load during kills: concurrent clients that start runs, wait for them, and record what was acknowledged."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx

from support.faults.fleet import Fleet

T = TypeVar("T")
OVER = ("succeeded", "failed", "cancelled", "timed_out")


class Lane(threading.Thread):
    """One of them. ``runs``: what was acknowledged as started; ``cancelled``: and as to be cancelled."""

    def __init__(
        self,
        made: Fleet,
        name: str,
        pipeline: str,
        rng: random.Random,
        *,
        cancels: float = 0.0,
        tell: Callable[[str], object] = lambda run_id: None,
    ) -> None:
        """``cancels``: the share of runs that it cancels again; ``tell``: who is told of each run, by its id."""
        super().__init__(daemon=True, name=name)
        self.made, self.pipeline, self.rng, self.cancels, self.tell = made, pipeline, rng, cancels, tell
        self.runs: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.trouble: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        """Until it is done, and its last run is over."""
        try:
            while not self.done.is_set():
                self._one(f"{self.name}-{len(self.runs)}")
        except BaseException as error:
            self.trouble = error

    def _one(self, key: str) -> None:
        run_id = self._asked(lambda: self._trigger(key))
        assert self._asked(lambda: self._trigger(key)) == run_id, "one key, two runs"
        self.runs[key] = run_id
        self.tell(run_id)
        if self.rng.random() < self.cancels:
            time.sleep(self.rng.uniform(0, 1))  # the moment is the point
            self._asked(lambda: self._cancel(run_id))
        self.outcomes[run_id] = self._came_to(run_id)

    def _came_to(self, run_id: str) -> str:
        """How the run ended. Only when nothing is killed any more is there a bound to how long that takes."""
        end = 0.0
        while (status := self.made.show(run_id)["status"]) not in OVER:
            time.sleep(0.1)
            if self.done.is_set():
                end = end or time.monotonic() + 300
                assert time.monotonic() < end, f"run {run_id} is stuck: {self.made.show(run_id)}"
        return str(status)

    def _trigger(self, key: str) -> str:
        path = f"/pipelines/{self.pipeline}/trigger"
        answer = self.made.server.call("POST", path, json={}, headers={"Idempotency-Key": key})
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["detail"]["runId"])

    def _cancel(self, run_id: str) -> None:
        answer = self.made.server.call(
            "POST", f"/workflow-runs/{run_id}/cancel", json={"reason": "changed mind"}
        )
        if answer.status_code == 400:  # it is over already
            assert answer.json()["code"] == "INVALID_STATE_TRANSITION", answer.text
            return
        assert answer.is_success, answer.text
        self.cancelled.add(run_id)

    def _asked(self, ask: Callable[[], T]) -> T:
        """Asked again until there is an answer."""
        while True:
            try:
                return ask()
            except httpx.TransportError:
                time.sleep(0.05)


@contextlib.contextmanager
def lanes(*made: Lane) -> Iterator[tuple[Lane, ...]]:
    """All at work; ``settle`` them before the end."""
    for lane in made:
        lane.start()
    try:
        yield made
    finally:
        for lane in made:
            lane.done.set()


def settle(*made: Lane) -> dict[str, Any]:
    """No more runs; wait until all are over. Returns what each run came to."""
    outcomes: dict[str, Any] = {}
    for lane in made:
        lane.done.set()
    for lane in made:
        lane.join(400)
        if lane.trouble is not None:
            raise lane.trouble
        assert not lane.is_alive(), f"{lane.name} waits for ever"
        outcomes |= lane.outcomes
    return outcomes
