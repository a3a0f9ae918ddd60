"""The families in the Arcentra envelope beside pipelines: projects that are deleted, members, tenants, settings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from support.bodies import enveloped_error, success
from support.fake_agent import FakeAgent, registered
from support.server import PASSWORD, Server, running, spec_for
from support.waiting import eventually
from support.world import UNKNOWN


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"quota_tenants": 6, "s3_secret_key": "planted-in-settings", "retention": 90}
    with running(tmp_path_factory.mktemp("families"), **settings) as server:
        yield server
        assert server.failures() == []


FAMILIES = ("pipelines", "projects", "uploads", "roles", "tenants", "settings", "secrets", "identity/me")


# -- the envelope -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [each for each in FAMILIES if each not in ("settings", "identity/me")])
def test_lists(server: Server, family: str) -> None:
    detail = success(server.call("GET", f"/{family}?page=1&pageSize=2"))
    assert list(detail) == ["list", "total", "page", "pageSize"]
    assert (detail["page"], detail["pageSize"]) == (1, 2)
    assert len(detail["list"]) <= 2
    assert success(server.call("GET", f"/{family}"))["pageSize"] == 20
    for query in ("page=0", "pageSize=0", "pageSize=101", "page=x"):
        enveloped_error(server.call("GET", f"/{family}?{query}"), 400)
    beyond = success(server.call("GET", f"/{family}?page=1000"))
    assert (beyond["list"], beyond["total"]) == ([], detail["total"])


@pytest.mark.parametrize("family", FAMILIES)
def test_failures(server: Server, family: str) -> None:
    enveloped_error(server.call("GET", f"/{family}", None), 401)
    enveloped_error(server.call("GET", f"/{family}", "nonsense"), 401)
    enveloped_error(server.call("GET", f"/{family}/{UNKNOWN}/nothing"), 404)
    enveloped_error(server.call("PROPFIND", f"/{family}"), 405)
    token = server.ask("POST", "/tokens", json={"name": f"tries {family.partition('/')[0]}"})["token"]
    success(change(server, ratelimit_default="1/minute"))
    try:
        success(server.call("GET", f"/{family}", token))
        limited = server.call("GET", f"/{family}", token)
    finally:
        server.call(
            "PATCH", "/settings", server.login("admin"), json={"settings": {"ratelimit_default": None}}
        )
    assert enveloped_error(limited, 429)["errorCode"] == "RATE_LIMIT_EXCEEDED"


@pytest.mark.parametrize("family", ["pipelines", "projects", "tenants", "secrets"])
def test_failures_with_bodies(server: Server, family: str) -> None:
    enveloped_error(server.call("POST", f"/{family}", content=b"{"), 400)
    enveloped_error(server.call("POST", f"/{family}", json={}), 400)
    large = server.call("POST", f"/{family}", json={"name": "x" * (3 << 20)})
    assert enveloped_error(large, 413)["errorCode"] == "PAYLOAD_TOO_LARGE"
    narrow = server.ask("POST", "/tokens", json={"name": f"viewer of {family}", "role": "viewer"})
    viewer = narrow["token"]
    body = {"name": "VIEWED", **({"value": "x"} if family == "secrets" else {})}
    enveloped_error(server.call("POST", f"/{family}", viewer, json=body), 403)
    made = server.call("POST", f"/{family}", json=body)
    success(made, 201)
    enveloped_error(server.call("POST", f"/{family}", json=body), 409)


# -- projects -----------------------------------------------------------------------------------------------


async def test_a_deleted_project_takes_what_belongs_to_it(server: Server) -> None:
    member = server.user("member-of-gone", "user", [])
    gone, kept = server.project("gone", ["member-of-gone"]), server.project("kept", ["member-of-gone"])
    nightly = {**spec_for("nobody"), "triggers": [{"type": "cron", "options": {"schedule": "0 3 1 1 *"}}]}
    pipelines = [server.pipeline(f"p{n}", nightly, project=gone) for n in range(12)]
    other = server.pipeline("other", spec_for("nobody"), project=kept)
    run = server.trigger(pipelines[0])
    server.ask("PUT", "/secrets/GONE", json={"value": "s3cr3t", "projectId": gone})
    upload = server.ask("POST", f"/uploads?name=x&projectId={gone}", content=b"x")["uploadId"]
    refused = enveloped_error(server.call("DELETE", f"/projects/{gone}"), 409)
    assert refused["errorCode"] == "PROJECT_IN_USE"
    assert refused["details"]["reasons"] == ["it has runs that have not ended"]
    assert server.ask("GET", f"/pipelines/{pipelines[0]}", member)["name"] == "p0", "nothing has changed"
    server.ask("POST", f"/workflow-runs/{run}/cancel", json={"force": True})
    assert success(server.call("DELETE", f"/projects/{gone}")) == {"projectId": gone, "name": "gone"}
    enveloped_error(server.call("GET", f"/projects/{gone}"), 404)
    enveloped_error(server.call("DELETE", f"/projects/{gone}"), 404)
    enveloped_error(server.call("GET", f"/pipelines/{pipelines[0]}", member), 404)
    await eventually(lambda: server.call("GET", f"/uploads/{upload}").status_code == 404)
    await eventually(
        lambda: all(server.call("GET", f"/pipelines/{id}").status_code == 404 for id in pipelines)
    )
    assert "0 3 1 1 *" not in server.call("GET", "/triggers?limit=100").text
    assert server.ask("GET", f"/workflow-runs/{run}")["status"] == "cancelled", "its runs stay"
    assert server.call("GET", f"/workflow-runs/{run}", member).status_code == 404
    again = server.call("POST", f"/workflow-runs/{run}/rerun", json={})
    assert again.status_code == 404, again.text
    assert server.ask("GET", f"/pipelines/{other}", member)["name"] == "other"
    fresh = server.project("gone")
    assert server.ask("GET", f"/secrets?projectId={fresh}")["total"] == 0
    for body in ({"name": "x", "projectId": gone}, {"name": "X", "value": "x", "projectId": gone}):
        path = "/secrets" if "value" in body else "/pipelines"
        enveloped_error(server.call("POST", path, json=body), 404)


def test_the_default_project_is_never_deleted(server: Server) -> None:
    refused = enveloped_error(server.call("DELETE", f"/projects/{server.default_project}"), 409)
    assert refused["details"]["reasons"] == ["it is the default project"]


async def test_a_project_with_agents_is_not_deleted(server: Server) -> None:
    project = server.project("with agents")
    path = f"/projects/{project}"
    made = server.ask("POST", "/registration-tokens", json={"projects": [project], "max_uses": 1})
    assert made["id"] in enveloped_error(server.call("DELETE", path), 409)["errMsg"]
    async with FakeAgent(server.grpc, "bound") as agent:
        await agent.register(made["token"])
        assert "agent bound is bound to it" in enveloped_error(server.call("DELETE", path), 409)["errMsg"]
    server.call("DELETE", "/agents/bound")
    success(server.call("DELETE", path))


def test_only_admins_delete_projects(server: Server) -> None:
    project = server.project("not yours")
    token = server.user("np-operator", "operator", [project])
    enveloped_error(server.call("DELETE", f"/projects/{project}", token), 403)
    assert server.ask("GET", f"/projects/{project}")["name"] == "not yours"


def test_members_are_listed_in_pages(server: Server) -> None:
    names = [f"listed-{n}" for n in range(3)]
    token = server.user(names[0], "viewer", [])
    for name in names[1:]:
        server.ask("POST", "/users", json={"username": name, "password": PASSWORD, "projects": []})
    project = server.project("listed", names)
    page = success(server.call("GET", f"/projects/{project}/members?page=2&pageSize=2", token))
    assert [each["username"] for each in page["list"]] == names[2:]
    assert (page["total"], page["page"], page["pageSize"]) == (3, 2, 2)
    first = success(server.call("GET", f"/projects/{project}/members"))["list"][0]
    assert (first["role"], first["active"]) == ("viewer", True)
    server.ask("DELETE", f"/projects/{project}/members/{names[0]}")
    enveloped_error(server.call("GET", f"/projects/{project}/members", token), 404)
    enveloped_error(server.call("GET", f"/projects/{UNKNOWN}/members"), 404)
    enveloped_error(server.call("PUT", f"/projects/{project}/members/nobody-there"), 404)


# -- tenants ------------------------------------------------------------------------------------------------


def test_tenants_group_projects(server: Server) -> None:
    made = success(server.call("POST", "/tenants", json={"name": "retail", "description": "shops"}), 201)
    id = made["tenantId"]
    assert (made["name"], made["description"], made["projectsCount"]) == ("retail", "shops", 0)
    assert success(server.call("GET", f"/tenants/{id}")) == made
    project = server.ask("POST", "/projects", json={"name": "in retail", "tenantId": id})["projectId"]
    assert server.ask("GET", f"/projects/{project}")["tenantId"] == id
    assert server.ask("GET", f"/tenants/{id}")["projectsCount"] == 1
    changed = success(server.call("PUT", f"/tenants/{id}", json={"description": "all shops"}))
    assert (changed["name"], changed["description"]) == ("retail", "all shops")
    inside = server.user("in-retail", "user", [project])
    outside = server.user("out-of-retail", "user", [])
    assert success(server.call("GET", "/tenants", inside))["total"] == 1
    assert success(server.call("GET", "/tenants", outside))["list"] == []
    enveloped_error(server.call("GET", f"/tenants/{id}", outside), 404)
    enveloped_error(server.call("PUT", f"/tenants/{id}", inside, json={"name": "mine"}), 403)
    enveloped_error(server.call("DELETE", f"/tenants/{id}", inside), 403)
    enveloped_error(server.call("POST", "/tenants", inside, json={"name": "mine"}), 403)
    assert enveloped_error(server.call("DELETE", f"/tenants/{id}"), 409)["errorCode"] == "TENANT_IN_USE"
    server.ask("PUT", f"/projects/{project}", json={"tenantId": ""})
    assert success(server.call("DELETE", f"/tenants/{id}")) == {"tenantId": id, "name": "retail"}
    enveloped_error(server.call("GET", f"/tenants/{id}"), 404)
    enveloped_error(server.call("PUT", f"/projects/{project}", json={"tenantId": id}), 404)
    enveloped_error(server.call("POST", "/projects", json={"name": "lost", "tenantId": id}), 404)
    assert "lost" not in server.call("GET", "/projects?pageSize=100").text


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": 5}, {"name": "x" * 64}, {"name": "x", "color": "red"}, {"name": "a/b"}, []],
)
def test_bad_tenants(server: Server, body: Any) -> None:
    before = server.ask("GET", "/tenants")["total"]
    enveloped_error(server.call("POST", "/tenants", json=body), 400)
    assert server.ask("GET", "/tenants")["total"] == before


def test_tenants_are_bounded_and_their_names_unique(server: Server) -> None:
    server.ask("POST", "/tenants", json={"name": "t0"})
    enveloped_error(server.call("POST", "/tenants", json={"name": "t0"}), 409)
    for number in range(server.ask("GET", "/tenants")["total"], 6):
        server.ask("POST", "/tenants", json={"name": f"t{number}"})
    full = enveloped_error(server.call("POST", "/tenants", json={"name": "one too many"}), 409)
    assert (full["errorCode"], full["details"]["quota"]) == ("QUOTA_EXCEEDED", "tenants")


# -- settings -----------------------------------------------------------------------------------------------


def setting(server: Server, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = success(server.call("GET", "/settings"))["settings"]
    return next(each for each in found if each["name"] == name)


def change(server: Server, **values: Any) -> Any:
    return server.call("PATCH", "/settings", json={"settings": values})


def test_settings_are_shown_with_their_source(server: Server) -> None:
    assert setting(server, "retention")["value"] == 90
    assert setting(server, "retention")["source"] == "option"
    port = setting(server, "workers")
    assert (port["source"], port["changeable"]) == ("default", False)
    secret = server.call("GET", "/settings")
    assert "planted-in-settings" not in secret.text
    assert setting(server, "s3_secret_key")["value"] == "**********"
    assert setting(server, "database_url")["value"] in (None, "**********")


def test_a_change_holds_at_once_and_after_a_restart(server: Server) -> None:
    most = server.ask("GET", "/tenants")["total"] + 1
    success(change(server, quota_tenants=most, retention=30.5, ratelimit_default="20/minute"))
    token = server.ask("POST", "/tokens", json={"name": "limited"})["token"]
    codes = [server.call("GET", "/tenants", token).status_code for _ in range(22)]
    assert codes == [200] * 20 + [429] * 2
    success(change(server, ratelimit_default=None))
    server.stop()
    server.restart()
    shown = setting(server, "quota_tenants")
    assert (shown["value"], shown["source"], shown["changedBy"]) == (most, "database", "admin")
    assert setting(server, "retention")["value"] == 30.5
    assert setting(server, "ratelimit_default")["source"] == "option"
    server.ask("POST", "/tenants", json={"name": "last one"})
    enveloped_error(server.call("POST", "/tenants", json={"name": "one more"}), 409)
    success(change(server, quota_tenants=None, retention=None))
    assert setting(server, "retention")["value"] == 90
    (record, *_) = server.ask("GET", "/audit?action=settings.change")["entries"]
    assert record["detail"]["retention"] == {"from": 30.5, "to": 90.0}
    assert record["actor"]["name"] == "admin"


@pytest.mark.parametrize(
    ("values", "status", "code"),
    [
        ({"port": 80}, 409, "SETTING_FIXED"),
        ({"port": None}, 409, "SETTING_FIXED"),
        ({"s3_secret_key": "x"}, 409, "SETTING_FIXED"),
        ({"color": "red"}, 400, "VALIDATION_FAILED"),
        ({"retention": -1}, 400, "VALIDATION_FAILED"),
        ({"retention": "30"}, 400, "VALIDATION_FAILED"),
        ({"retention": 1e300}, 400, "VALIDATION_FAILED"),
        ({"quota_runs": 0}, 400, "VALIDATION_FAILED"),
        ({"quota_runs": 1.5}, 400, "VALIDATION_FAILED"),
        ({"quota_runs": 10**18}, 400, "VALIDATION_FAILED"),
        ({"quota_runs": True}, 400, "VALIDATION_FAILED"),
        ({"quota_blobs": "lots"}, 400, "VALIDATION_FAILED"),
        ({"quota_blobs": "999999999EiB"}, 400, "VALIDATION_FAILED"),
        ({"ratelimit_default": "often"}, 400, "VALIDATION_FAILED"),
        ({"ratelimit_default": "0/minute"}, 400, "VALIDATION_FAILED"),
        ({"ratelimit_default": 5}, 400, "VALIDATION_FAILED"),
        ({"ratelimit_default": "x" * 300}, 400, "VALIDATION_FAILED"),
        ({"retention": [30]}, 400, "VALIDATION_FAILED"),
        ({}, 400, "VALIDATION_FAILED"),
        ({f"s{n}": 1 for n in range(60)}, 400, "VALIDATION_FAILED"),
    ],
)
def test_bad_changes_change_nothing(server: Server, values: dict[str, Any], status: int, code: str) -> None:
    before = success(server.call("GET", "/settings"))
    both = {"artifact_retention": 5, **values} if values and len(values) < 50 else values
    refused = enveloped_error(server.call("PATCH", "/settings", json={"settings": both}), status)
    assert refused["errorCode"] == code
    assert success(server.call("GET", "/settings")) == before


def test_sizes_may_be_written_with_units(server: Server) -> None:
    success(change(server, quota_blobs="20MiB"))
    assert setting(server, "quota_blobs")["value"] == 20 << 20
    success(change(server, quota_blobs=None))


def test_settings_are_for_admins(server: Server) -> None:
    token = server.user("st-operator", "operator")
    enveloped_error(server.call("GET", "/settings", token), 403)
    enveloped_error(server.call("PATCH", "/settings", token, json={"settings": {"retention": 1}}), 403)


async def test_secrets_of_environments_are_refused(server: Server) -> None:
    """There are no environments that a job could name."""
    body = {"name": "ENV", "value": "x", "scope": "environment", "scopeId": "production"}
    assert "environments" in enveloped_error(server.call("POST", "/secrets", json=body), 400)["errMsg"]


def test_agents_see_none_of_it(server: Server) -> None:
    async def register() -> str:
        async with await registered(server, "family-agent") as agent:
            return agent.token

    token = asyncio.run(register())
    for path in ("/projects", "/tenants", "/settings", f"/projects/{server.default_project}/members"):
        enveloped_error(server.call("GET", path, token), 403)
    enveloped_error(server.call("POST", "/uploads?name=x", token, content=b"x"), 403)
    made = server.ask("POST", "/uploads?name=x", content=b"x")["uploadId"]
    enveloped_error(server.call("GET", f"/uploads/{made}/content", token), 404)
