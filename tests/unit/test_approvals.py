"""Approvals: how they are counted, what a gate waits for, their steps in the plan of a run, and what specs may say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.access.model import Principal, Role
from pilothouse.engine.gates.counting import MAX_NAMED, count, expired, waits_for
from pilothouse.engine.gates.hold import Hold, may_decide
from pilothouse.engine.gates.model import Approval as Given
from pilothouse.engine.gates.model import Gate, GateInvalid
from pilothouse.engine.graph_json import from_json, to_json
from pilothouse.engine.model import Status
from pilothouse.engine.names import names_of
from pilothouse.engine.reruns import kept_jobs
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.grpc_specs import DONE, spec_message, spec_source
from pilothouse.pipelines.spec import Approval, Retry, SpecError, parse_spec
from pilothouse.pipelines.spec.messages import APPROVER_ROLES
from pilothouse.wire.pipeline.v1 import pipeline_spec_pb2 as pb
from support.planning import Sim, gate, job, sim, step

ALWAYS = "always()"
ASKED = Approval(required=True)


def approval(user: str, at: int = 0) -> Given:
    return Given(f"id-{user}", user, at)


# -- counting -------------------------------------------------------------------------------------------

USERS = st.sampled_from("abcdef")


@given(st.lists(st.tuples(USERS, st.sets(USERS)), max_size=20))
def test_each_user_counts_once_and_only_with_the_right(decisions: list[tuple[str, set[str]]]) -> None:
    """A sequence of approvals, each with those who may decide at that time (whoever approves may)."""
    approvals: list[Given] = []
    model: list[str] = []
    for at, (user, allowed) in enumerate(decisions):
        may = allowed | {user}
        counted = count(approvals, approval(user, at), lambda one, may=may: one.user in may)
        assert counted.lost == [name for name in model if name not in may]
        assert counted.added == (user not in model)
        model = [name for name in model if name in may]
        model += [user] if counted.added else []
        approvals = counted.approvals
        assert [one.user for one in approvals] == model
        assert len({one.user_id for one in approvals}) == len(approvals)
        assert [one.at for one in approvals] == sorted(one.at for one in approvals)


def test_two_users_of_the_same_name_are_two_and_one_with_two_names_is_one() -> None:
    before = [Given("1", "ann", 1)]
    assert len(count(before, Given("2", "ann", 2), lambda one: True).approvals) == 2
    assert count(before, Given("1", "anna", 2), lambda one: True).approvals == before


def test_what_a_gate_waits_for() -> None:
    one = Gate("g", "r", "p", "hold", message="ship it?", roles=["operator"], users=["ann"])
    assert waits_for(one) == "waits for approval: needs role operator or user ann: ship it?"
    assert expired(one) == "expired: nobody decided in time"
    three = Gate("g", "r", "p", "hold", roles=["operator"], needed=3, approvals=[approval("bob")])
    assert waits_for(three) == "waits for 2 of 3 approvals: needs role operator"
    assert expired(three) == "expired: 1 of 3 approvals in time"
    many = Gate("g", "r", "p", "hold", users=[f"u{number}" for number in range(50)])
    assert waits_for(many).endswith(f"user u{MAX_NAMED - 1} or {50 - MAX_NAMED} more")
    assert waits_for(Gate("g", "r", "p", "window", message="opens soon")) == "opens soon"


@pytest.mark.parametrize(
    ("role", "name", "projects", "expected"),
    [
        ("operator", "olga", [], True),
        ("admin", "adam", [], True),
        ("user", "ann", ["p"], True),
        ("user", "ann", [], False),
        ("viewer", "ann", ["p"], False),
        ("user", "bob", ["p"], False),
    ],
)
def test_who_may_decide(role: str, name: str, projects: list[str], expected: bool) -> None:
    asked = Gate("g", "r", "p", "hold", roles=["operator"], users=["ann"])
    caller = Principal("user", f"u-{name}", name, Role(role), frozenset(projects), "t", None)
    assert may_decide(asked, caller) is expected


def opened(**args: Any) -> Gate:
    asked = Gate("g", "r", "p", "hold")
    Hold().opened(None, None, asked, args)  # type: ignore[arg-type]
    return asked


def test_the_arguments_of_a_gate() -> None:
    asked = opened()
    assert (asked.needed, asked.roles, asked.users) == (1, ["admin", "operator"], [])
    assert [opened(count=given).needed for given in (3, 3.0, "3")] == [3, 3, 3]
    assert opened(count=2, users=["a", "b"]).roles == []
    for wrong in (0, 21, 1.5, "two", True, None, [], float("inf"), float("nan"), "9" * 400):
        with pytest.raises(GateInvalid, match="count is a whole number from 1 to 20"):
            opened(count=wrong)
    with pytest.raises(GateInvalid, match="needs 3 approvals and names 2 users"):
        opened(count=3, users=["a", "b", "a"])


# -- the step of a job's approval -----------------------------------------------------------------------


def held(*steps: Any, **more: Any) -> Sim:
    """A run of one job that waits for its approval."""
    run = sim(job("j", *steps, approval=ASKED, **more))
    run.settle()
    assert [run.statuses()[name] for name in ("j", "approval")] == ["running", "running"]
    assert not run.queued
    return run


def decide(run: Sim, status: Status) -> None:
    [attempt_id] = run.gates.open
    run.settle_gate(run.attempts[attempt_id], status)


def test_nothing_of_a_job_runs_before_its_approval_and_all_after_it() -> None:
    run = held("work", step("tidy", when=ALWAYS))
    decide(run, Status.SUCCEEDED)
    assert [run.place(attempt)[1].name for attempt in run.queued] == ["work"]


@pytest.mark.parametrize("end", [Status.FAILED, Status.TIMED_OUT])
def test_nothing_of_a_job_that_was_not_approved_runs_nor_is_it_tried_again(end: Status) -> None:
    run = held("work", step("tidy", when=ALWAYS), step("rue", when="failure()"), retry=Retry(5))
    decide(run, end)
    expected = {"work": "skipped", "tidy": "skipped", "rue": "skipped", "approval": end.value, "j": "failed"}
    assert run.statuses() | expected == run.statuses()


def test_a_cancel_while_a_job_waits_runs_nothing_of_it() -> None:
    run = held("work", step("tidy", when=ALWAYS), when=ALWAYS)
    run.cancel()
    assert not run.queued
    assert run.statuses() | {"approval": "cancelled", "tidy": "skipped", "j": "cancelled"} == run.statuses()


def test_a_job_that_is_tried_again_remains_approved() -> None:
    run = held("work", retry=Retry(2))
    decide(run, Status.SUCCEEDED)
    run.do(run.queued[0], "fail")
    assert run.statuses() | {"approval": "succeeded", "work": "queued"} == run.statuses()
    assert not run.gates.open
    [restarted] = run.of("job.restarted")
    assert restarted["from_step"] == 1


def test_an_approval_in_the_middle_is_asked_again_when_its_job_is_tried_again() -> None:
    run = sim(job("j", gate("ask"), "work", retry=Retry(2)))
    run.settle()
    decide(run, Status.SUCCEEDED)
    run.do(run.queued[0], "fail")
    assert run.statuses() | {"ask": "running", "work": "pending"} == run.statuses()


def test_what_was_decided_is_not_tried_again() -> None:
    run = sim(job("j", gate("ask", retry=Retry(3)), retry=Retry(3)))
    run.settle()
    decide(run, Status.FAILED)
    assert run.statuses() | {"ask": "failed", "j": "failed"} == run.statuses()


def test_a_rerun_from_the_failed_step_asks_before_what_it_does_again() -> None:
    run = sim(
        job("make", "compile", gate("sure"), "pack"),
        job("other", gate("unrelated")),
        job("ship", "push", gate("ask"), "tell", approval=ASKED, depends_on=("make",)),
    )
    run.settle()
    while run.queued or run.gates.open:
        for attempt_id in run.gates.open[:1]:
            run.settle_gate(run.attempts[attempt_id], Status.SUCCEEDED)
        for attempt in run.queued[:1]:
            run.do(attempt, "fail" if run.place(attempt)[1].name == "tell" else "ok")
    assert run.statuses() | {"ship": "failed", "make": "succeeded"} == run.statuses()
    again = {
        one.name: {step.name: step.status.value for step in one.steps} for one in kept_jobs("again", run.run)
    }
    done, waits = "succeeded", "pending"
    assert again == {
        "make": {"compile": done, "sure": waits, "pack": done},
        "other": {"unrelated": done},
        "ship": {"approval": waits, "push": done, "ask": waits, "tell": waits},
    }


# -- specs ----------------------------------------------------------------------------------------------


def spec(approval: str, steps: str = "[{name: s, run: make}]") -> str:
    return f"jobs: [{{name: j, approval: {approval}, steps: {steps}}}]"


def test_an_approval_of_a_job_becomes_its_first_step() -> None:
    params = "{count: 2, roles: [operator], users: [ann], message: 'ship ${{ variables.v }}?', timeout: 2d}"
    text = spec(f"{{required: true, type: manual, params: {params}}}", "[{name: approval, run: make}]")
    graph = compile_spec(parse_spec(text).spec)
    guard, own = graph.jobs[0].steps
    assert (guard.name, guard.gate, guard.guards, guard.timeout) == ("approval-2", "hold", True, 2 * 86400)
    message = "ship ${{ variables.v }}?"
    assert guard.args == {"count": 2, "roles": ["operator"], "users": ["ann"], "message": message}
    assert (own.name, own.guards, graph.jobs[0].guard) == ("approval", False, True)
    assert from_json(to_json(graph)) == graph
    assert names_of(graph).variables["v"].path == "jobs[0].approval.params.message"
    assert not compile_spec(parse_spec(spec("{required: false, params: {x: 1}}")).spec).jobs[0].guard


def test_an_approval_in_a_message_of_the_contract() -> None:
    """Numbers of a Struct are floats."""
    message = pb.Spec(jobs=[pb.Job(name="j", approval=pb.Approval(required=True, type="manual"))])
    message.jobs[0].approval.params.update({"count": 2, "roles": ["operator"]})
    message.jobs[0].steps.add(name="ask", uses="approval").args.update({"count": 3})
    done, source = spec_source(message.SerializeToString(), False)
    compiled = compile_source(json.loads(source))
    guard, step = json.loads(compiled.graph)["jobs"][0]["steps"]
    assert (done, guard["args"], step["args"]) == (DONE, {"count": 2, "roles": ["operator"]}, {"count": 3.0})
    assert opened(**step["args"]).needed == 3
    _, back = spec_message(compiled.spec.encode())
    assert isinstance(back, bytes)
    assert pb.Spec.FromString(back).jobs[0].approval == message.jobs[0].approval


def test_the_paths_of_names_are_those_of_the_spec() -> None:
    text = spec("{required: true}", "[{name: a, run: make}, {name: b, run: 'make ${{ variables.x }}'}]")
    assert names_of(compile_spec(parse_spec(text).spec)).variables["x"].path.startswith("jobs[0].steps[1].")


def test_an_approval_is_referred_to_by_the_name_of_its_step() -> None:
    text = """
    jobs:
      - {name: ask, approval: {required: true}}
      - {name: ship, dependsOn: [ask], steps: [{name: s, run: 'echo ${{ jobs.ask.%s }}'}]}
    """
    assert parse_spec(text % "steps.approval.outputs.by").warnings == ()
    with pytest.raises(SpecError, match="has no"):
        parse_spec(text % "steps.aproval.outputs.by")


@pytest.mark.parametrize(
    ("approval", "said"),
    [
        ("{required: true, type: auto}", "approval type 'auto' is not part of this release"),
        ("{required: true, plugin: slack}", "plugins of approvals are not part of this release"),
        ("{required: true, params: {approvers: [ann]}}", 'unknown key "approvers"'),
        ("{required: true, params: {count: 0}}", "count must be a whole number"),
        ("{required: true, params: {roles: [viewer]}}", 'roles cannot be "viewer"'),
        ("{required: true, params: {count: 3, users: [a, b, a]}}", "3 approvals are needed"),
        ("{required: true, params: {timeout: soon}}", "timeout"),
        ("{required: false}", 'job "j" has no steps'),
    ],
)
def test_what_a_spec_may_not_say(approval: str, said: str) -> None:
    steps = "[]" if approval == "{required: false}" else "[{name: s, run: make}]"
    with pytest.raises(SpecError) as refused:
        parse_spec(spec(approval, steps))
    assert any(said in problem.message for problem in refused.value.problems), refused.value
    assert all(problem.line == 1 for problem in refused.value.problems)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("{count: 21}", "count of approval/wait has a value that is not allowed"),
        ("{count: '2'}", "count of approval/wait has a value that is not allowed"),
        ("{roles: [king]}", "roles of approval/wait has a value that is not allowed"),
        ("{roles: king}", "roles of approval/wait has a value that is not allowed"),
        ("{count: 2, users: ann}", "2 approvals are needed"),
    ],
)
def test_what_a_step_may_not_say(args: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(f"jobs: [{{name: j, steps: [{{name: s, uses: approval, args: {args}}}]}}]")
    assert [problem.message for problem in refused.value.problems] == [said] or said in str(refused.value)


def test_a_retry_of_an_approval_is_warned_of() -> None:
    step = "{name: s, uses: approval, retry: {maxAttempts: 2}, args: {count: '${{ variables.n }}', roles: ['${{ variables.n }}']}}"
    [warning] = parse_spec(f"variables: {{n: 1}}\njobs: [{{name: j, steps: [{step}]}}]").warnings
    assert "an approval is not tried again" in warning.message


def test_the_roles_of_the_spec_are_those_that_may_decide() -> None:
    assert {*APPROVER_ROLES} == {role.value for role in Role} - {"viewer"}
