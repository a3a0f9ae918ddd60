"""Invariant 8 on both databases: a secret's value is sent only to the agent that needs it."""

from __future__ import annotations

import base64
import secrets
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import select

from pilothouse.access.model import SYSTEM
from pilothouse.engine.grpc import LogCall, Tally
from pilothouse.engine.intake.lines import LogLines
from pilothouse.fleet.model import TaskStatus
from pilothouse.secrets.errors import SecretInvalid, TooManySecrets
from pilothouse.secrets.service import MAX_OF_PROJECT
from pilothouse.storage import metadata
from pilothouse.wire import entries
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from support.databases import Backend
from support.kernel import PROJECT, Kernel

FAILED = TaskStatus.FAILED
SPEC = """
runtime: {env: {OUTER: '${{ secrets.TOKEN }}'}}
jobs:
  - name: j
    env: {MIDDLE: 'x-${{ secrets.TOKEN }}'}
    steps:
      - name: a
        uses: dummy
        env: {INNER: '${{ env.MIDDLE }}-y', PIN: '${{ secrets.PIN }}'}
        args: {nested: [{deep: 'curl -H ${{ secrets.TOKEN }}'}]}
        retry: {maxAttempts: 2}
      - {name: b, uses: dummy}
"""


def new_value() -> str:
    """A value that no other test has left in a file."""
    return f"hunter2-{secrets.token_hex(8)}/Zebra+9"


def new_number() -> str:
    """A value that is a number, and survives being one."""
    return str(10**12 + secrets.randbelow(10**12))


def spellings(value: str) -> list[bytes]:
    """The value as it may stand in a file."""
    plain = value.encode()
    return [plain, base64.b64encode(plain), quote(value, safe="").encode(), plain.hex().encode()]


def leaks(kernel: Kernel, backend: Backend, value: str) -> list[str]:
    """Where the value can be found: in any cell of any table, and in any byte of the files."""
    found: list[str] = []
    with kernel.database.read() as conn:
        for table in metadata.sorted_tables:
            for row in conn.execute(select(table)):
                cells = [cell if isinstance(cell, bytes) else str(cell).encode() for cell in row]
                if any(form in cell for cell in cells for form in spellings(value)):
                    found.append(f"{table.name}: {row}"[:300])
    for path, data in backend.raw_bytes():
        if any(form in data for form in spellings(value)):
            found.append(str(path))
    return found


async def test_a_secret_reaches_the_agent_and_no_file(kernel: Kernel, backend: Backend) -> None:
    value, number = new_value(), new_number()
    await kernel.secret("TOKEN", value)
    await kernel.secret("PIN", number)
    await kernel.secret("OTHER", "not asked for by anyone")
    agent = await kernel.agent("a1")
    run_id = await kernel.run(SPEC)
    task = agent.last
    assert task.env == {"OUTER": value, "MIDDLE": f"x-{value}", "INNER": f"x-{value}-y", "PIN": number}
    assert task.args == {"nested": [{"deep": f"curl -H {value}"}]}
    assert task.secrets == {"TOKEN": value, "PIN": number}
    await kernel.ack(agent)
    encoded = base64.b64encode(f"user:{value}".encode()).decode()
    await kernel.push(
        "a1", 1, task.id, f"token={value};", f"Authorization: Basic {encoded}", quote(value, safe="")
    )
    await kernel.tell("a1", 1, task.id, "step.progress", {"percent": 1, "message": f"with {value}"})
    await kernel.tell("a1", 2, task.id, "step.output", {"name": "url", "value": {"deep": [f"//{value}@x"]}})
    await kernel.tell("a1", 3, task.id, "step.output", {"name": "pin", "value": float(number)})
    await kernel.tell("a1", 4, task.id, "step.annotation", {value: value, "n": int(number)})
    await kernel.tell("a1", 5, task.id, f"step.{value}", {}, id=f"event-{value}")
    assert (await kernel.tell("a1", 5, task.id, f"step.{value}", {}, id=f"event-{value}")).taken == "repeated"
    batch = LogLines(f"batch-{value}", 2, task.id, ["x", "y"], levels={0: value, 1: f"{'-' * 10}{value}"})
    await kernel.ingest.logs("a1", batch, await kernel.ingest.target(task.id))
    await kernel.report(agent, FAILED, error=f"cannot log in with {value}")
    assert agent.last.attempt == 2
    await kernel.do(agent)
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"
    assert leaks(kernel, backend, value) == []
    assert leaks(kernel, backend, number) == []
    assert kernel.lines(run_id)[0] == "token=***;"
    with kernel.database.read() as conn:
        assert "${{ secrets.TOKEN }}" in str(
            conn.execute(select(metadata.tables["run_graphs"].c.body)).scalar_one()
        )


async def test_why_an_agent_refuses_is_masked_as_well(kernel: Kernel, backend: Backend) -> None:
    value = new_value()
    await kernel.secret("TOKEN", value)
    await kernel.secret("PIN", new_number())
    agent = await kernel.agent("a1")
    run_id = await kernel.run(SPEC)
    await kernel.refuse(agent, f"bad argument: curl -H {value}")
    [over] = kernel.told(run_id, entries.ATTEMPT_COMPLETED)
    assert over["error"] == "lost: agent a1 refused it: bad argument: curl -H ***"
    assert leaks(kernel, backend, value) == []


async def test_the_search_for_leaks_finds_one(kernel: Kernel, backend: Backend) -> None:
    """Values that are not secret are found in tables and files: the test above can fail."""
    value = new_value()
    agent = await kernel.agent("a1")
    await kernel.run("jobs: [{name: j, steps: [{name: a, uses: dummy}]}]")
    await kernel.ack(agent)
    await kernel.push("a1", 1, agent.last.id, f"token={value}")
    found = leaks(kernel, backend, value)
    assert any(place.startswith("entries: ") for place in found)
    assert any(place.startswith("/") for place in found)


async def test_a_deleted_secret_fails_the_step_and_only_its_name_is_shown(
    kernel: Kernel, backend: Backend
) -> None:
    value = new_value()
    await kernel.secret("TOKEN", value)
    await kernel.secret("PIN", new_number())
    run_id = await kernel.run(SPEC)
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, PROJECT, "PIN"))
    await kernel.agent("a1")
    assert kernel.view(run_id)["status"] == "failed"
    assert kernel.step(run_id, "a")["reason"].endswith("secret named PIN in this project")
    assert leaks(kernel, backend, value) == []


async def test_an_expression_that_fails_does_not_tell_what_it_worked_on(
    kernel: Kernel, backend: Backend
) -> None:
    value = new_value()
    await kernel.secret("TOKEN", value)
    await kernel.agent("a1", slots=9)
    for expression in (
        "int(secrets.TOKEN)",
        "timestamp(secrets.TOKEN)",
        "variables[secrets.TOKEN]",
        "{secrets.TOKEN: 1}.nothing",
        "secrets.TOKEN.matches(secrets.TOKEN + '[')",
        "secrets.TOKEN - 1",
        "[1][int(secrets.TOKEN)]",
        "double(secrets.TOKEN) > 1.0",
    ):
        quoted = expression.replace("'", "''")
        args = f"{{x: '${{{{ {quoted} }}}}'}}"
        spec = f"jobs: [{{name: j, steps: [{{name: a, uses: dummy, args: {args}}}]}}]"
        run_id = await kernel.run(spec)
        assert kernel.view(run_id)["status"] == "failed", expression
    assert leaks(kernel, backend, value) == []


async def test_a_value_that_was_handed_out_stays_masked_after_it_was_changed(kernel: Kernel) -> None:
    """The agent has the old value, and that is what its lines may show, however often the secret is rotated."""
    value, number = new_value(), new_number()
    await kernel.secret("TOKEN", value)
    await kernel.secret("PIN", number)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(SPEC)
    await kernel.ack(agent)
    await kernel.secret("TOKEN", "a quite different value")
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, PROJECT, "PIN"))
    await kernel.push("a1", 1, agent.last.id, f"{value} {number}")
    await kernel.report(agent, FAILED, error=f"{value} {number}")
    assert kernel.lines(run_id) == ["*** ***"]
    assert kernel.told(run_id, entries.ATTEMPT_COMPLETED)[0]["error"] == "*** ***"


async def test_a_secret_of_one_step_is_none_of_the_next_ones_lines(kernel: Kernel) -> None:
    """Step a wrote it into a file of the workspace that they share, and step b shows that file."""
    value, number = new_value(), new_number()
    await kernel.secret("TOKEN", value)
    await kernel.secret("PIN", number)
    agent = await kernel.agent("a1")
    spec = """
    jobs:
      - name: j
        steps: [{name: a, uses: dummy, args: {x: '${{ secrets.TOKEN }}'}}, {name: b, uses: dummy}]
    """
    run_id = await kernel.run(spec)
    await kernel.do(agent)
    await kernel.ack(agent)
    await kernel.push("a1", 1, agent.last.id, f"//registry/:_authToken={value}")
    assert kernel.lines(run_id) == ["//registry/:_authToken=***"]


async def test_a_secret_of_many_lines_is_masked_line_by_line(kernel: Kernel) -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqh\n-----END KEY-----\n"
    await kernel.secret("TOKEN", key)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: a, uses: dummy, args: {x: '${{ secrets.TOKEN }}'}}]}]"
    )
    await kernel.ack(agent)
    await kernel.push("a1", 1, agent.last.id, "cat key", *key.strip().split("\n"), "done")
    shown: list[Any] = kernel.lines(run_id)
    assert (shown[0], shown[-1], len(shown)) == ("cat key", "done", 6)
    assert not any(part in line for line in shown for part in ("BEGIN", "MIIE", "kqh", "END"))


async def test_a_piece_of_a_secret_that_a_broken_call_had_stored_costs_no_line(kernel: Kernel) -> None:
    """The agent resends what was not acknowledged and continues: the rest of the line follows."""
    await kernel.secret("TOKEN", "hunter2-secret")
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: s, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
    )
    await kernel.ack(agent)
    task = agent.last.id
    for told in ([(1, b"held hunter2-")], [(1, b"held hunter2-"), (2, b"secret tail\nmore\n")]):
        call = LogCall(kernel.ingest, "a1", Tally(-1))
        for seq, data in told:
            batch = pb.LogBatch(batch_id=f"b{seq}", data=data, raw_size=len(data))
            batch.meta.step_id, batch.meta.seq = task, seq
            await call.take(batch, False)
        await call.finish()
        assert call.tally.ack().status == pb.IngestAck.STATUS_ACCEPTED
    assert kernel.lines(run_id) == ["held hunter2-", "held *** tail", "more"]


async def test_a_value_set_while_the_step_runs_is_masked_from_then_on(kernel: Kernel) -> None:
    """The step may read it anew, from a file or another program."""
    await kernel.secret("TOKEN", "the first value")
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: s, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
    )
    await kernel.ack(agent)
    await kernel.push("a1", 1, agent.last.id, "the first value, the second value")
    await kernel.secret("TOKEN", "the second value")
    await kernel.push("a1", 2, agent.last.id, "the first value, the second value")
    assert kernel.lines(run_id) == ["***, the second value", "***, ***"]


async def test_the_agent_masks_what_other_steps_left_in_the_workspace(kernel: Kernel) -> None:
    """It may show part of a line before the rest: only there both halves can be masked as one."""
    value, other = new_value(), new_value()
    await kernel.secret("TOKEN", value)
    await kernel.secret("OTHER", other)
    agent = await kernel.agent("a1", slots=2)
    spec = """
    jobs:
      - name: j
        steps: [{name: a, uses: dummy, args: {x: '${{ secrets.TOKEN }}'}}, {name: b, uses: dummy}]
      - name: k
        steps: [{name: c, uses: dummy, args: {x: '${{ secrets.OTHER }}'}}]
    """
    await kernel.run(spec)
    tasks = {task.name: task for task in agent.tasks}
    assert (tasks["a"].mask, tasks["c"].mask) == ((value,), (other,)), "not those of other jobs"
    await kernel.ack(agent, tasks["a"].id)
    await kernel.report(agent, TaskStatus.SUCCEEDED, tasks["a"].id)
    assert (agent.last.name, agent.last.mask, agent.last.secrets) == ("b", (value,), {})


async def test_more_secrets_than_can_be_masked_fail_the_step(kernel: Kernel) -> None:
    for n in range(5):
        await kernel.secret(f"S{n}", f"{n}" + "x" * 65_000)
    await kernel.agent("a1")
    env = ", ".join(f"S{n}: '${{{{ secrets.S{n} }}}}'" for n in range(5))
    run_id = await kernel.run(f"jobs: [{{name: j, steps: [{{name: a, uses: dummy, env: {{{env}}}}}]}}]")
    assert kernel.step(run_id, "a")["status"] == "failed"
    assert kernel.step(run_id, "a")["reason"].endswith("more than 262144 characters together")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "1 to 65536 bytes"),
        ("x" * 65_537, "1 to 65536 bytes"),
        ("ü" * 32_769, "1 to 65536 bytes"),
        ("\n".join(map(str, range(1001))), "at most 1000 different lines"),
        ("ab\ud800cd", "unpaired surrogate"),
    ],
    ids=["empty", "long", "long in bytes", "lines", "surrogate"],
)
async def test_a_secret_out_of_bounds_is_refused(kernel: Kernel, value: str, reason: str) -> None:
    with pytest.raises(SecretInvalid, match=reason):
        await kernel.secret("TOKEN", value)


async def test_a_secret_at_its_bounds_is_masked(kernel: Kernel) -> None:
    """64 KiB, 1000 lines: the lines and their encodings, in logs, and in why a step failed."""
    lines = [f"{n:04d}-{secrets.token_hex(30)}"[:64] for n in range(1000)]
    value = "\n".join(lines)[: 64 << 10]
    await kernel.secret("TOKEN", value)
    await kernel.secret("SAME", "ab\n" * 20_000)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: s, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
    )
    await kernel.ack(agent)
    encoded, hexed = base64.b64encode(value.encode()).decode(), value.encode().hex()
    rows = [hexed[start : start + 60] for start in range(0, 3000, 60)]
    await kernel.push("a1", 1, agent.last.id, lines[7], encoded, *rows)
    await kernel.report(agent, FAILED, error=f"bad: {lines[9]}")
    assert set(kernel.lines(run_id)) == {"***"}
    assert kernel.told(run_id, entries.ATTEMPT_COMPLETED)[0]["error"] == "bad: ***"


DERIVED = """
runtime: {env: {UPPER: '${{ secrets.TOKEN.upperAscii() }}', URL: 'https://u:${{ secrets.TOKEN }}@example.com/'}}
jobs:
  - name: j
    env: {HALF: '${{ secrets.TOKEN.substring(0, 15) }}', NEXT: '${{ int(secrets.PIN) + 1 }}'}
    steps:
      - name: a
        uses: dummy
        env: {AGAIN: '${{ env.UPPER.replace("-", "+") }}', HOST: '${{ env.URL.split("@")[1] }}'}
        args: {parts: '${{ secrets.TOKEN.split("-") }}', shout: '${{ env.URL.upperAscii() }}'}
      - {name: b, uses: dummy}
  - name: k
    dependsOn: [j]
    steps: [{name: c, uses: dummy, args: {x: '${{ secrets.TOKEN.lowerAscii() }}'}}]
"""


async def test_what_expressions_make_of_a_secret_is_masked_as_well(kernel: Kernel, backend: Backend) -> None:
    value, number = new_value(), new_number()
    await kernel.secret("TOKEN", value)
    await kernel.secret("PIN", number)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(DERIVED)
    task, following = agent.last, str(int(number) + 1)
    assert (task.env["UPPER"], task.env["HOST"], task.env["NEXT"]) == (
        value.upper(),
        "example.com/",
        following,
    )
    assert task.args["parts"] == value.split("-")
    derived = [value.upper(), value[:15], following, value.upper().replace("-", "+"), *value.split("-")]
    derived.append(task.args["shout"])
    assert set(derived) <= set(task.mask), "the agent masks them"
    await kernel.ack(agent)
    await kernel.push("a1", 1, task.id, *derived, "example.com/ hunter")
    await kernel.tell("a1", 1, task.id, "step.output", {"name": "up", "value": value.upper()})
    await kernel.report(agent)
    again = await kernel.restart()
    assert again.lines(run_id) == ["***"] * len(derived) + ["example.com/ hunter"]
    other = await again.connect("a1")
    await again.ack(other)
    # Another step of the run, after a restart, when the secret has changed: it may find them in a file.
    await again.secret("TOKEN", "quite-another-value")
    await again.push("a1", 2, other.last.id, *derived, value)
    await again.report(other, FAILED, error=f"cannot use {value.upper()}")
    assert again.lines(run_id)[len(derived) + 1 :] == ["***"] * (len(derived) + 1)
    for form in (*derived, value):
        if form != value.split("-")[0]:  # a word that other tests store in the open
            assert leaks(again, backend, form) == []


async def test_values_made_from_secrets_count_as_masked_values(kernel: Kernel) -> None:
    """1,000 lines, then 1,000 more, and the secret itself: one more than 2,000."""
    await kernel.secret("TOKEN", "\n".join(f"v{n:06d}" for n in range(1000)))
    agent = await kernel.agent("a1")
    spec = """
    jobs:
      - name: j
        steps:
          - {name: a, uses: dummy, args: {x: "${{ secrets.TOKEN.split('\\\\n').map(x, x.replace('v', 'w')) }}"}}
          - {name: b, uses: dummy, args: {x: "${{ secrets.TOKEN.split('\\\\n').map(x, x.replace('v', 'y')) }}"}}
    """
    run_id = await kernel.run(spec)
    await kernel.do(agent)
    failed = kernel.step(run_id, "b")
    assert (failed["status"], agent.names) == ("failed", ["a"])
    assert failed["reason"] == "an attempt has at most 2000 masked values; this run has 2001"
    lines = "jobs: [{name: j, steps: [{name: s, uses: dummy, args: {x: \"${{ secrets.TOKEN.replace('0', '%s') }}\"}}]}]"
    run_id = await kernel.run(lines % "\\\\n")
    assert kernel.step(run_id, "s")["reason"] == "a value that is made from secrets has at most 1000 lines"


async def test_a_project_has_a_bounded_number_of_secrets(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_OF_PROJECT == 1000
    monkeypatch.setattr("pilothouse.secrets.service.MAX_OF_PROJECT", 3)
    for n in range(3):
        await kernel.secret(f"S{n}", "value")
    with pytest.raises(TooManySecrets, match="at most 3 secrets") as refused:
        await kernel.secret("S3", "value")
    assert (refused.value.code, refused.value.status) == ("QUOTA_EXCEEDED", 409)
    await kernel.secret("S2", "another value")
    await kernel.write(lambda tx: kernel.secrets.put(tx, SYSTEM, "another project", "S3", "value"))
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, PROJECT, "S0"))
    await kernel.secret("S3", "value")


async def test_no_error_of_an_expression_shows_the_secret(kernel: Kernel, backend: Backend) -> None:
    value, number = new_value(), new_number()
    await kernel.secret("TOKEN", value)
    await kernel.secret("PIN", number)
    await kernel.agent("a1")
    for bad in (
        "int(secrets.TOKEN)",
        "double(secrets.TOKEN)",
        "timestamp(secrets.TOKEN)",
        "duration(secrets.TOKEN)",
        "bool(secrets.TOKEN)",
        "[1, 2][int(secrets.PIN)]",
        "{'a': 1}[secrets.TOKEN]",
        "{'a': 1}[int(secrets.PIN)]",
        "'x'.matches(secrets.TOKEN + '(')",
        "'x'.substring(int(secrets.PIN))",
        "secrets.TOKEN + 1",
        "secrets.TOKEN.nothing",
        "int(secrets.PIN) / 0",
        "int(secrets.PIN) * 9000000000000000000",
        "-secrets.TOKEN",
        "secrets.TOKEN ? 1 : 2",
        "{[secrets.TOKEN][0]: 1}[secrets.PIN]",
        "env[secrets.TOKEN]",
        "variables[secrets.TOKEN]",
    ):
        text = bad.replace('"', "'")
        run_id = await kernel.run(
            f'jobs: [{{name: j, steps: [{{name: s, uses: dummy, args: {{x: "${{{{ {text} }}}}"}}}}]}}]'
        )
        assert kernel.step(run_id, "s")["status"] == "failed", bad
    assert leaks(kernel, backend, value) == []
    assert leaks(kernel, backend, number) == []
