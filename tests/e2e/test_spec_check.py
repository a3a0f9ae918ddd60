"""Validation of a spec with variables: reports before the upload what a trigger would refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.bodies import enveloped_error, success
from support.server import Server, running, spec_for

SPEC = """\
variables: {tag: "1"}
jobs:
  - name: build
    steps:
      - name: push
        uses: dummy
        env:
          TOKEN: "Bearer ${{ secrets.NOT_THERE }}"
        args: {text: "${{ variables.tga }}"}
"""
GIVEN: list[dict[str, str]] = [{}, {"tga": "x"}, {"tga": "x", "tgaa": "y"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("spec_check")) as server:
        yield server


def refused(server: Server, path: str, body: dict[str, Any], token: str = "admin") -> list[dict[str, Any]]:
    found = enveloped_error(server.call("POST", path, token, json=body), 400)
    assert found["errorCode"] == "SPEC_INVALID", found
    problems: list[dict[str, Any]] = found["details"]["problems"]
    return problems


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("as_object", [False, True])
def test_the_check_finds_what_the_trigger_refuses(
    server: Server, given: dict[str, str], as_object: bool
) -> None:
    project = server.project(f"checked {len(given)} {as_object}")
    pipeline = server.pipeline("shop", spec_for("x"), project=project)
    step = {"name": "push", "uses": "dummy", "env": {"TOKEN": "${{ secrets.NOT_THERE }}"}}
    spec: Any = {"jobs": [{"name": "build", "steps": [step]}], "variables": {"tag": "1"}}
    body = {"spec": spec if as_object else SPEC, "fileName": ".pilot.yaml", "variables": given}
    expected = refused(server, f"/pipelines/{pipeline}/trigger", body)
    assert expected
    assert refused(server, f"/pipelines/{pipeline}/spec/validate", body) == expected
    assert refused(server, "/pipelines/spec/validate", {**body, "projectId": project}) == expected
    assert as_object or expected[-1]["line"] == (8 if "tgaa" not in given else expected[-1]["line"])


def test_the_secrets_are_those_of_the_project(server: Server) -> None:
    with_it, without = server.project("with it"), server.project("without")
    server.ask("PUT", "/secrets/NOT_THERE", json={"value": "hunter2-hunter2", "projectId": with_it})
    body = {"spec": SPEC, "variables": {"tga": "1"}}
    path = "/pipelines/spec/validate"
    assert success(server.call("POST", path, json={**body, "projectId": with_it}))["jobsCount"] == 1
    for project in (without, ""):
        problem = refused(server, path, {**body, "projectId": project})[0]
        assert problem["message"].endswith('needs secret "NOT_THERE", which this project does not have')
    pipeline = server.pipeline("there", spec_for("x"), project=with_it)
    success(server.call("POST", f"/pipelines/{pipeline}/spec/validate", json=body))
    assert server.ask("GET", f"/pipelines/{pipeline}/runs")["total"] == 0


def test_without_variables_only_the_spec_is_checked(server: Server) -> None:
    viewer = server.user("looks-on", "viewer")
    pipeline = server.pipeline("seen", spec_for("x"))
    for path in ("/pipelines/spec/validate", f"/pipelines/{pipeline}/spec/validate"):
        success(server.call("POST", path, viewer, json={"spec": SPEC}))
        found = enveloped_error(server.call("POST", path, viewer, json={"spec": SPEC, "variables": {}}), 403)
        assert found["errorCode"] == "AUTH_INSUFFICIENT_PERMISSIONS", (
            "which secrets there are is known to those who may use them"
        )


def test_a_foreign_project_discloses_nothing(server: Server) -> None:
    project = server.project("of others")
    member = server.user("not-a-member", "user")
    body = {"spec": SPEC, "variables": {}, "projectId": project}
    found = enveloped_error(server.call("POST", "/pipelines/spec/validate", member, json=body), 404)
    assert found["errorCode"] == "PROJECT_NOT_FOUND"


def test_as_many_variables_as_a_run_takes(server: Server) -> None:
    many = {f"v{n}": "" for n in range(201)}
    found = enveloped_error(
        server.call("POST", "/pipelines/spec/validate", json={"spec": SPEC, "variables": many}), 400
    )
    assert found["errorCode"] == "VALIDATION_FAILED"
    assert found["errMsg"] == "variables: a run takes at most 200 variables"
