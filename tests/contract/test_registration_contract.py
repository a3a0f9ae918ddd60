"""Registration tokens on both databases: whom they let in, what they bind, and that no work leaks past a binding."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.access.errors import Refusal
from pilothouse.access.model import SYSTEM
from pilothouse.fleet.errors import AgentExists, BadCredential, BadProfile
from pilothouse.fleet.model import AgentProfile, TaskStatus, Verdict
from pilothouse.fleet.registry import Allowance
from support.kernel import Kernel, RecorderChannel

ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
TWO = "jobs: [{name: j, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"
RERUN = "jobs: [{name: j, onLost: rerun, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"


async def token(
    kernel: Kernel, max_uses: int | None = None, expires_in: int | None = None, **allows: Any
) -> str:
    """A registration token's secret."""
    made = await kernel.write(
        lambda tx: kernel.fleet.registry.create_registration_token(
            tx,
            SYSTEM,
            description="t",
            max_uses=max_uses,
            expires_in=expires_in,
            allows=Allowance(**allows),
        )
    )
    return str(made["token"])


async def revoke(kernel: Kernel, secret: str) -> None:
    """End a token."""
    with kernel.database.read() as conn:
        from pilothouse.fleet import registry, token_store

        found = token_store.registration_token(conn, registry.token_digest(secret))
    assert found is not None
    id = found.id
    await kernel.write(lambda tx: kernel.fleet.registry.revoke_registration_token(tx, SYSTEM, id))


async def register(
    kernel: Kernel, name: str, secret: str = "", *, own: str = "", key: str = "", **profile: Any
) -> str:
    """Register an agent; returns its own token, or nothing if it keeps the one it has."""
    wanted = AgentProfile(name, **profile)
    made = await kernel.write(
        lambda tx: kernel.fleet.registry.register(
            tx, wanted, registration_token=secret, own_token=own, key=key
        )
    )
    return made.token or ""


async def project(kernel: Kernel, name: str) -> str:
    """A new project's id."""
    made = await kernel.write(lambda tx: kernel.identity.projects.create(tx, SYSTEM, name=name))
    return made.id


# -- names ------------------------------------------------------------------------------------------------


async def test_new_names_count_and_own_names_do_not(kernel: Kernel) -> None:
    secret = await token(kernel, max_uses=2, expires_in=60)
    first = await register(kernel, "a1", secret)
    await register(kernel, "a2", secret)
    with pytest.raises(BadCredential, match="used up"):
        await register(kernel, "a3", secret)
    assert await register(kernel, "a1", secret) not in ("", first)
    kernel.clock.advance(61)
    assert await register(kernel, "a2", secret), "its own names: also when it has expired"
    with pytest.raises(BadCredential, match="expired"):
        await register(kernel, "a4", secret)
    await revoke(kernel, secret)
    with pytest.raises(BadCredential, match="revoked"):
        await register(kernel, "a1", secret)


async def test_another_agents_name_is_refused(kernel: Kernel) -> None:
    own = await register(kernel, "victim", await token(kernel))
    for allowed in ((), ("other",), ("victi",), ("Victim",), ("*-victim",)):
        with pytest.raises(AgentExists, match="victim"):
            await register(kernel, "victim", await token(kernel, agents=allowed))
    await register(kernel, "victim", own=own)
    for allowed in (("victim",), ("other", "vic*"), ("?ictim",), ("[uv]ictim",)):
        renewed = await register(kernel, "victim", await token(kernel, agents=allowed))
        with pytest.raises(BadCredential):
            await register(kernel, "victim", own=own)
        own = renewed


async def test_the_last_token_that_registered_a_name_owns_it(kernel: Kernel) -> None:
    first, second = await token(kernel), await token(kernel, agents=["a*"], max_uses=1)
    await register(kernel, "a1", first)
    await register(kernel, "a1", second)
    with pytest.raises(AgentExists):
        await register(kernel, "a1", first)
    await register(kernel, "a2", second)  # the existing name was no use of it
    with pytest.raises(BadCredential, match="used up"):
        await register(kernel, "a3", second)


async def test_a_removed_name_is_a_new_one(kernel: Kernel) -> None:
    secret = await token(kernel, max_uses=1)
    await register(kernel, "a1", secret)
    await kernel.write(lambda tx: kernel.fleet.unregister(tx, "a1", "removed"))
    with pytest.raises(BadCredential, match="used up"):
        await register(kernel, "a1", secret)
    await register(kernel, "a1", await token(kernel))


async def test_a_token_for_once_ends_with_its_use_and_the_answer_can_still_be_asked_for(
    kernel: Kernel,
) -> None:
    secret = await kernel.write(lambda tx: kernel.fleet.registry.local_token(tx, "local"))
    first = await register(kernel, "local", secret, key="k" * 32)
    assert await register(kernel, "local", secret, key="k" * 32) == first
    for name in ("local", "other"):
        with pytest.raises(BadCredential, match="revoked"):
            await register(kernel, name, secret, key="l" * 32)
    unused = await kernel.write(lambda tx: kernel.fleet.registry.local_token(tx, "local"))
    last = await kernel.write(lambda tx: kernel.fleet.registry.local_token(tx, "local"))
    with pytest.raises(BadCredential, match="revoked"):
        await register(kernel, "local", unused)
    assert await register(kernel, "local", last), "an existing name, since the token names it"


@pytest.mark.parametrize(
    "allows",
    [
        {"agents": ["a"] * 101},
        {"agents": ["a" * 201]},
        {"agents": [""]},
        {"agents": ["a b"]},
        {"agents": ["a\n"]},
        {"labels": [f"k{n}" for n in range(101)]},
        {"labels": ["=v"]},
        {"labels": ["k=" + "v" * 200]},
        {"labels": ["k\x00=v"]},
        {"projects": []},
        {"projects": ["nowhere"]},
        {"projects": ["x"] * 101},
    ],
)
async def test_what_a_token_cannot_allow(kernel: Kernel, allows: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        await token(kernel, **allows)
    assert (caught.value.status, caught.value.code) == (400, "VALIDATION_FAILED")
    assert caught.value.details == {"field": next(iter(allows))}


# -- labels -----------------------------------------------------------------------------------------------


async def test_labels_can_only_be_narrowed(kernel: Kernel) -> None:
    secret = await token(kernel, labels=["zone=a", "zone=b", "pool"])
    with pytest.raises(BadProfile, match=r"zone=c \(allowed: zone=a, zone=b, pool\)"):
        await register(kernel, "a1", secret, labels={"zone": "c", "pool": "any", "os": "linux"})
    with pytest.raises(BadProfile, match="gpu="):
        await register(kernel, "a1", secret, labels={"gpu": ""})
    own = await register(kernel, "a1", secret, labels={"zone": "a", "pool": "x", "os": "l", "arch": "m"})
    with pytest.raises(BadProfile, match="zone=z"):
        await register(kernel, "a1", own=own, labels={"zone": "z"})
    await register(kernel, "a1", own=own, labels={"zone": "b"})
    agent = kernel.known("a1")
    for labels, merge in (({"zone": "z"}, False), ({"x": "y"}, True)):
        with pytest.raises(BadProfile):
            await kernel.write(
                lambda tx, labels=labels, merge=merge: kernel.fleet.registry.update_labels(
                    tx, SYSTEM, "a1", labels, merge
                )
            )
    assert kernel.known("a1") == agent
    with pytest.raises(BadProfile, match="none besides os and arch"):
        await register(kernel, "a2", await token(kernel, labels=[]), labels={"zone": "a"})


async def test_os_and_arch_may_be_limited_too(kernel: Kernel) -> None:
    secret = await token(kernel, labels=["os=linux"])
    with pytest.raises(BadProfile, match="os=windows"):
        await register(kernel, "a1", secret, labels={"os": "windows", "arch": "amd64"})
    await register(kernel, "a1", secret, labels={"os": "linux", "arch": "amd64"})


# -- projects ---------------------------------------------------------------------------------------------


async def bound(kernel: Kernel, name: str, *projects: str, slots: int = 1) -> RecorderChannel:
    """A connected agent for these projects."""
    await register(kernel, name, await token(kernel, projects=projects, agents=["*"]), slots=slots)
    return await kernel.connect(name)


async def test_two_projects_and_two_agents(kernel: Kernel) -> None:
    red, blue = await project(kernel, "red"), await project(kernel, "blue")
    a1, a2 = await bound(kernel, "a1", red, slots=4), await bound(kernel, "a2", "blue", slots=4)
    reds = [await kernel.run(ONE, project=red) for _ in range(3)]
    blues = [await kernel.run(ONE, project=blue) for _ in range(3)]
    assert [task.run_id for task in a1.tasks] == reds
    assert [task.run_id for task in a2.tasks] == blues
    green = await kernel.run(ONE, project=await project(kernel, "green"))
    assert kernel.step(green, "a")["reason"] == "every matching agent is bound to other projects (a1, a2)"
    await kernel.write(lambda tx: kernel.fleet.unregister(tx, "a2", "removed"))
    waits = await kernel.run(ONE, project=blue)
    assert kernel.step(waits, "a")["reason"] == "agent a1 is bound to other projects"
    free = await kernel.agent("a3", slots=9)
    assert {green, waits} <= {task.run_id for task in free.tasks}, "who is bound to none serves all"


async def test_the_binding_stays_when_it_registers_with_its_own_token(kernel: Kernel) -> None:
    red = await project(kernel, "red")
    own = await register(kernel, "a1", await token(kernel, projects=[red]))
    await register(kernel, "a1", own=own, slots=5)
    agent = await kernel.connect("a1")
    await kernel.run(ONE, project=await project(kernel, "blue"))
    assert agent.tasks == []
    assert kernel.known("a1").binding.projects == (red,)


async def test_what_was_on_offer_does_not_come_along(kernel: Kernel) -> None:
    """Offered while it served all, not yet taken up; then it registers anew, bound to another project."""
    red, blue = await project(kernel, "red"), await project(kernel, "blue")
    before = await kernel.agent("a1", slots=2)
    foreign, own = await kernel.run(ONE, project=blue), await kernel.run(ONE, project=red)
    assert len(before.tasks) == 2
    offered = before.tasks[0].id
    after = await bound(kernel, "a1", red, slots=2)
    assert [task.run_id for task in after.tasks] == [own]
    assert await kernel.ack(after, offered) is Verdict.STALE
    assert kernel.step(foreign, "a")["reason"] == "agent a1 is bound to other projects"
    other = await kernel.agent("a2")
    assert [task.run_id for task in other.tasks] == [foreign]


async def test_offers_while_it_is_away(kernel: Kernel) -> None:
    red, blue = await project(kernel, "red"), await project(kernel, "blue")
    before = await kernel.agent("a1")
    run_id = await kernel.run(ONE, project=blue)
    await kernel.disconnect(before)
    after = await bound(kernel, "a1", red)
    assert after.tasks == []
    assert kernel.step(run_id, "a")["status"] == "queued"


@pytest.mark.parametrize(("spec", "ends"), [(TWO, "failed"), (RERUN, "running")])
async def test_a_workspace_on_an_agent_that_was_bound_to_others(kernel: Kernel, spec: str, ends: str) -> None:
    """The next step of its job does not follow it there: the job is lost, or begins again elsewhere."""
    red, blue = await project(kernel, "red"), await project(kernel, "blue")
    before = await kernel.agent("a1")
    run_id = await kernel.run(spec, project=blue)
    await kernel.ack(before)
    after = await bound(kernel, "a1", red)
    await kernel.report(after, task_id=before.last.id)  # it has gone on with what it held
    assert after.tasks == []
    assert "is bound to other projects" in kernel.step(run_id, "b")["reason"]
    await kernel.beat(2, after)
    assert kernel.view(run_id)["status"] == ends
    other = await kernel.agent("a2")
    assert after.tasks == []
    assert other.names == (["a"] if ends == "running" else [])


async def test_a_rerun_in_a_workspace_of_an_agent_that_was_bound_to_others(kernel: Kernel) -> None:
    red, blue = await project(kernel, "red"), await project(kernel, "blue")
    before = await kernel.agent("a1")
    old = await kernel.run(TWO, project=blue)
    await kernel.do(before)
    await kernel.do(before, TaskStatus.FAILED)
    after = await bound(kernel, "a1", red)
    new = await kernel.rerun(old, from_failed=True)
    assert after.tasks == []
    await kernel.beat(2, after)
    assert kernel.view(new)["status"] == "failed"
    assert "is now bound to other projects" in str(kernel.view(new))


# -- ephemeral agents -------------------------------------------------------------------------------------


async def test_an_ephemeral_agent_goes_ten_minutes_after_it_went_offline(kernel: Kernel) -> None:
    secret = await token(kernel)
    await register(kernel, "kept", secret)
    await register(kernel, "passing", secret, ephemeral=True)
    kept, passing = await kernel.connect("kept"), await kernel.connect("passing")
    await kernel.beat(1200, kept, passing)
    await kernel.disconnect(passing)
    await kernel.disconnect(kept)
    await kernel.tick(599)
    assert kernel.known("passing").profile.ephemeral
    passing = await kernel.connect("passing")  # it reconnects in time, and its lease is renewed
    await kernel.beat(30, passing)
    await kernel.disconnect(passing)
    await kernel.tick(599)
    assert kernel.known("passing")
    await kernel.tick(2)
    with pytest.raises(AssertionError):
        kernel.known("passing")
    assert kernel.known("kept")
    assert [entry.body["reason"] for entry in kernel.entries("agent/passing", "agent.unregistered")] == [
        "ephemeral, and offline for 600 s"
    ]


async def test_an_ephemeral_agent_that_never_came(kernel: Kernel) -> None:
    await register(kernel, "passing", await token(kernel), ephemeral=True)
    await kernel.tick(601)
    with pytest.raises(AssertionError):
        kernel.known("passing")
