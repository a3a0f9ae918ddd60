"""What is found by name or id is never another's: a name does not have the form of an id."""

from __future__ import annotations

import pytest

from support.bodies import enveloped_error, plain_error
from support.server import PASSWORD, Server


@pytest.mark.parametrize("form", [str, str.upper])
def test_a_user_is_not_named_by_an_id(shared_server: Server, form: type[str]) -> None:
    id = shared_server.ask("GET", "/auth/me")["id"]
    body = {"username": form(id), "password": PASSWORD}
    answer = shared_server.call("POST", "/users", json=body)
    plain_error(answer, 400, "VALIDATION_FAILED")
    assert "may not have the form of an id" in answer.json()["message"]
    assert shared_server.ask("GET", f"/users/{id}")["username"] == "admin"


def test_a_project_is_not_named_by_an_id(shared_server: Server) -> None:
    id = shared_server.default_project
    enveloped_error(shared_server.call("POST", "/projects", json={"name": id}), 400)
    other = shared_server.project("not-an-id")
    enveloped_error(shared_server.call("PUT", f"/projects/{other}", json={"name": id}), 400)
