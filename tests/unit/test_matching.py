"""Assignment of work to agents, and reasons for waiting."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engine.graph import LabelExpression, Selector
from pilothouse.engine.matching import Given, Waiting, Waits, Worker, assign
from pilothouse.engine.selectors import match_selector
from pilothouse.fleet.bindings import Binding

ARM = Selector({"os": "arm64"})
GPU = Selector(match_expressions=(LabelExpression("gpu", "Exists"),))


def worker(
    id: str,
    slots: int = 1,
    held: int = 0,
    *,
    up: bool = True,
    draining: bool = False,
    git: bool = False,
    **labels: str,
) -> Worker:
    return Worker(id, labels, up, draining, slots - held, held / slots, git=git)


def waiting(id: str, selector: Selector | None = None, bound: str = "", git: bool = False) -> Waiting:
    return Waiting(id, selector, bound, "", needs_git=git)


def why(item: Waiting, *workers: Worker) -> str:
    [verdict] = assign([item], list(workers))
    assert isinstance(verdict, Waits), verdict
    assert verdict.id == item.id
    return verdict.reason


def to(queue: list[Waiting], *workers: Worker) -> list[str]:
    """Who gets each; a dash for what waits."""
    return [v.agent_id if isinstance(v, Given) else "-" for v in assign(queue, list(workers))]


REASONS = [
    (waiting("w"), [], "no agent is online"),
    (waiting("w"), [worker("a", up=False)], "no agent is online"),
    (waiting("w", ARM), [worker("a")], "no online agent matches os=arm64"),
    (waiting("w", ARM), [worker("a", os="arm64", up=False), worker("b")], "no online agent matches os=arm64"),
    (waiting("w", GPU), [worker("a")], "no online agent matches gpu Exists"),
    (waiting("w"), [worker("a", held=1)], "agent a is busy"),
    (waiting("w"), [worker("a", held=1), worker("b", held=1)], "all 2 matching agents are busy"),
    (waiting("w", ARM), [worker("a", held=1, os="arm64"), worker("b")], "agent a is busy"),
    (waiting("w"), [worker("a", draining=True)], "every matching agent is draining (a)"),
    (
        waiting("w"),
        [worker(id, draining=True) for id in "abcd"],
        "every matching agent is draining (a, b, c)",
    ),
    (waiting("w"), [Worker("a", {}, True, False, 1, 0.0, carries=False)], "no online agent takes steps"),
    (
        waiting("w", bound="b"),
        [worker("a")],
        "waiting for agent b, which holds the job's workspace and is offline",
    ),
    (
        waiting("w", bound="b"),
        [worker("b", up=False)],
        "waiting for agent b, which holds the job's workspace and is offline",
    ),
    (
        waiting("w", bound="b"),
        [worker("a"), worker("b", held=1)],
        "waiting for a free slot on agent b, which holds the job's workspace",
    ),
]


@pytest.mark.parametrize(("item", "workers", "reason"), REASONS)
def test_every_wait_has_a_reason(item: Waiting, workers: list[Worker], reason: str) -> None:
    assert why(item, *workers) == reason


GITLESS = [
    (waiting("w", git=True), [worker("a")], "no online agent has git"),
    (waiting("w", git=True), [worker("a"), worker("b", git=True, up=False)], "no online agent has git"),
    (waiting("w", ARM, git=True), [worker("a", git=True)], "no online agent matches os=arm64"),
    (
        waiting("w", ARM, git=True),
        [worker("b", git=True), worker("a", os="arm64")],
        "no online agent has git",
    ),
    (waiting("w", git=True), [worker("a"), worker("b", held=1, git=True)], "agent b is busy"),
    (waiting("w", bound="a", git=True), [worker("a"), worker("b", git=True)], "agent a has no git"),
]


@pytest.mark.parametrize(("item", "workers", "reason"), GITLESS)
def test_a_work_tree_waits_for_git_and_reports_it(item: Waiting, workers: list[Worker], reason: str) -> None:
    assert why(item, *workers).startswith(reason)


def test_a_work_tree_goes_to_an_agent_with_git() -> None:
    assert to([waiting("1", git=True), waiting("2")], worker("a"), worker("b", 9, git=True)) == ["b", "a"]
    assert to([waiting("1", bound="b", git=True)], worker("b", git=True)) == ["b"]


def bound_to(id: str, *projects: str, slots: int = 1, **labels: str) -> Worker:
    """An agent that serves these projects only."""
    return Worker(id, labels, True, False, slots, 0.0, Binding(projects))


def of(project: str, selector: Selector | None = None, bound: str = "") -> Waiting:
    return Waiting("w", selector, bound, "", project)


@pytest.mark.parametrize(
    ("item", "workers", "reason"),
    [
        (of("red"), [bound_to("a", "blue")], "agent a is bound to other projects"),
        (
            of("red"),
            [bound_to("a", "blue"), bound_to("b", "green", "blue")],
            "every matching agent is bound to other projects (a, b)",
        ),
        (
            of("red"),
            [bound_to(id, "blue") for id in "abcd"],
            "every matching agent is bound to other projects (a, b, c)",
        ),
        (of("red"), [bound_to("a", "blue"), worker("b", held=1)], "agent b is busy"),
        (of("red", ARM), [bound_to("a", "blue"), worker("b")], "no online agent matches os=arm64"),
        (
            of("red", ARM),
            [bound_to("a", "blue", os="arm64"), worker("b")],
            "agent a is bound to other projects",
        ),
        (
            of("red", bound="a"),
            [bound_to("a", "blue"), worker("b")],
            "agent a, which holds the job's workspace, is bound to other projects",
        ),
    ],
)
def test_waiting_because_of_a_binding(item: Waiting, workers: list[Worker], reason: str) -> None:
    assert why(item, *workers) == reason


def test_an_agent_gets_work_of_its_projects_only() -> None:
    fleet = bound_to("a", "red", slots=9), bound_to("b", "blue", slots=9)
    assert to([of("red"), of("blue"), of("red"), of("green")], *fleet) == ["a", "b", "a", "-"]
    assert to([of("red", bound="a"), of("blue", bound="a")], *fleet) == ["a", "-"]


def test_the_oldest_comes_first() -> None:
    assert to([waiting("1"), waiting("2"), waiting("3")], worker("a", 2)) == ["a", "a", "-"]


def test_jobs_that_have_begun_come_before_those_that_have_not() -> None:
    queue = [waiting("new1"), waiting("next", bound="a"), waiting("new2"), waiting("after", bound="a")]
    assert to(queue, worker("a")) == ["-", "a", "-", "-"]
    assert to(queue, worker("a", 2)) == ["-", "a", "-", "a"]
    assert to(queue, worker("a", 2), worker("b")) == ["b", "a", "-", "a"]


def test_what_cannot_go_does_not_hold_up_what_can() -> None:
    assert to([waiting("1", ARM), waiting("2"), waiting("3", bound="gone")], worker("a", 5)) == [
        "-",
        "a",
        "-",
    ]


def test_the_least_loaded_is_given_first() -> None:
    assert to([waiting("1")], worker("a", 4, 3), worker("b", 4, 1), worker("c", 4, 2)) == ["b"]
    assert to([waiting("1")], worker("a", 2, 1), worker("b", 100, 40)) == ["b"], "relative to what it can do"
    assert to([waiting("1")], worker("b"), worker("a")) == ["a"], "by name among equals"


def test_a_burst_is_spread_by_load_as_well() -> None:
    """After one task a is a quarter full, b with a hundred slots still nearly empty."""
    assert to([waiting("1"), waiting("2"), waiting("3")], worker("a", 4), worker("b", 100)) == ["a", "b", "b"]


def test_the_load_of_an_agent_grows_by_a_slot() -> None:
    """Load is not only of slots: what it says beyond those in use is shared among the free ones."""
    one = Worker("a", {}, True, False, free=2, load=0.6)
    assign([waiting("1")], [one])
    assert (one.free, round(one.load, 9)) == (1, 0.8)
    assign([waiting("2")], [one])
    assert (one.free, round(one.load, 9)) == (0, 1.0)


def test_a_draining_agent_gets_nothing_new_but_finishes_its_jobs() -> None:
    assert to([waiting("1")], worker("a", 9, draining=True), worker("b")) == ["b"]
    assert to([waiting("1", bound="a")], worker("a", draining=True)) == ["a"]


def test_work_bound_to_an_agent_goes_to_no_other() -> None:
    assert to([waiting("1", bound="a")], worker("a", 9, 8), worker("b", 9)) == ["a"]


def test_a_bound_agent_that_misses_the_steps_own_selector_does_not_get_it() -> None:
    """The workspace exists, but the step requires a GPU: it waits with a reason."""
    [verdict] = assign([waiting("1", GPU, bound="a")], [worker("a"), worker("b", gpu="1")])
    assert isinstance(verdict, Waits)
    assert "gpu Exists" in verdict.reason


labels = st.dictionaries(st.sampled_from(["os", "gpu"]), st.sampled_from(["arm64", "1"]))
selectors = st.sampled_from([None, ARM, GPU])
bounds = st.sampled_from(["", "", "", "w0", "w1", "nobody"])


@st.composite
def fleets(draw: st.DrawFn) -> list[Worker]:
    made = []
    for number in range(draw(st.integers(0, 4))):
        slots = draw(st.integers(1, 4))
        held = draw(st.integers(0, slots + 1))  # more than slots, after its slots were reduced
        up, draining = draw(st.booleans()), draw(st.booleans())
        binding = Binding(draw(st.sampled_from([None, (), ("red",), ("blue", "red")])))
        git = draw(st.booleans())
        made.append(
            Worker(f"w{number}", draw(labels), up, draining, slots - held, held / slots, binding, git=git)
        )
    return made


@settings(max_examples=200, deadline=None)
@given(
    fleets(),
    st.lists(st.tuples(selectors, bounds, st.sampled_from(["red", "blue"]), st.booleans()), max_size=12),
)
def test_nothing_is_given_wrongly_and_nothing_waits_in_vain(
    workers: list[Worker], queue: list[tuple[Selector | None, str, str, bool]]
) -> None:
    items = [
        Waiting(str(number), selector, bound, "", project, needs_git=git)
        for number, (selector, bound, project, git) in enumerate(queue)
    ]
    free = {one.agent_id: one.free for one in workers}
    by_id = {one.agent_id: one for one in workers}
    verdicts = list(zip(items, assign(items, workers), strict=True))
    for item, verdict in sorted(verdicts, key=lambda pair: not pair[0].bound_to):  # the order of giving
        assert verdict.id == item.id
        fit = [
            one
            for one in workers
            if one.available
            and free[one.agent_id] > 0
            and (one.agent_id == item.bound_to if item.bound_to else not one.draining)
            and match_selector(item.selector, one.labels) is None
            and (one.git or not item.needs_git)
            and (one.binding.projects is None or item.project in one.binding.projects)
        ]
        if isinstance(verdict, Given):
            assert by_id[verdict.agent_id].binding.serves(item.project)
            free[verdict.agent_id] -= 1
            assert free[verdict.agent_id] >= 0
            assert item.bound_to or by_id[verdict.agent_id] in fit
        else:
            assert fit == [], f"{verdict.reason}, but {fit}"
            assert re.match(r"no |all |every |agent |waiting for ", verdict.reason)


def test_an_agent_that_polls_gets_nothing_until_it_asks() -> None:
    item = Waiting("one", None, "", "")
    poller = Worker("poller", {}, available=True, draining=False, free=2, load=0, fetches=True)
    assert assign([item], [poller]) == [Waits("one", "waiting for agent poller to fetch it", ("poller",))]
    connected = Worker("connected", {}, available=True, draining=False, free=1, load=0.9)
    assert assign([item], [poller, connected]) == [Given("one", "connected")]
    other = Worker("other", {}, available=True, draining=False, free=1, load=0, fetches=True)
    [waits] = assign([item], [poller, other])
    assert isinstance(waits, Waits)
    assert waits.fetchers == ("other", "poller")
    bound = Waiting("two", None, "poller", "")
    assert assign([bound], [poller, connected]) == [
        Waits("two", "waiting for agent poller to fetch it", ("poller",))
    ]
    full = Worker("full", {}, available=True, draining=False, free=0, load=1, fetches=True)
    [waits] = assign([item], [full])
    assert (waits.reason, getattr(waits, "fetchers", None)) == ("agent full is busy", ())
