"""Requests that schemathesis makes from the OpenAPI document, valid and invalid ones, by callers of every role.

Each answer has a documented status, content type, body and error code, and is never an internal error. The requests are
the same in every run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, checks
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.schemas import APIOperation

from support import answers
from support.server import PASSWORD, running
from support.waiting import PATIENCE
from support.world import World, make_world

ROLES = ("nobody", "viewer", "user", "operator", "admin", "agent")
EXAMPLES = 8
REFUSED = 2
"""Examples of an operation that the caller has no right to: it is refused before anything of it is read."""
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
STREAMS = {"followRun", "followEvents"}
"""Not called here, for their answers do not end: test_sse.py reads them and checks every message."""
LAST = (
    "endOtherLogins",
    "stopPipelineRun",
    "cancelRun",
    "deleteSecret",
    "deletePipeline",
    "deleteAgent",
    "removeProjectMember",
    "deactivateUser",
)
"""They end what the others work on."""
SUCCEED = 0.7
"""The share of operations that succeed at least once for an admin: else this tests only errors. Made-up requests do not
have the password that a login needs, or the id of a token."""


@dataclass
class Caller:
    """One who makes requests, and logs in again when a request has ended their login."""

    world: World
    role: str
    token: str | None
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: list[str] = field(default_factory=list)
    session: requests.Session = field(default_factory=requests.Session)

    def try_out(self, operation: APIOperation) -> None:
        """Send requests of an operation, and note what is wrong with their answers."""
        allowed = self.world.allowed(self.role, operation.definition.raw["x-required-action"])
        there = {**self.world.real, "project": self.world.project}
        real = {each.name: there[each.name] for each in operation.path_parameters if each.name in there}
        made = st.one_of(
            operation.as_strategy(GenerationMode.POSITIVE, path_parameters=real),
            operation.as_strategy(GenerationMode.POSITIVE),
            operation.as_strategy(GenerationMode.NEGATIVE),
        )

        @settings(
            max_examples=EXAMPLES if allowed else REFUSED,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=made)
        def ask(case: Case) -> None:
            self._send(case)

        ask()

    def _send(self, case: Case) -> None:
        self._have_token()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        server = self.world.server.url
        answer = case.call(base_url=server, session=self.session, headers=headers, timeout=PATIENCE)
        name = name_of(case.operation)
        self.statuses[name][answer.status_code] += 1
        try:
            case.validate_response(answer, checks=CHECKS)
            check_code(case, answer)
        except (Failure, FailureGroup, answers.UndocumentedAnswer) as found:
            self.wrong.append(f"{name}: {found}\n{answer.status_code} {answer.text[:300]}")

    def _have_token(self) -> None:
        if self.role in ("nobody", "agent"):
            return
        if self.world.server.call("GET", "/auth/me", self.token).status_code != 200:
            self.token = self.world.server.login(self.role, PASSWORD)


def check_code(case: Case, answer: schemathesis.Response) -> None:
    """The error code is documented, and the body has no key that is not."""
    request = httpx.Request(case.method, f"http://server{case.operation.path}")
    headers = [(name, value) for name, values in answer.headers.items() for value in values]
    answers.check(
        httpx.Response(answer.status_code, headers=headers, content=answer.content, request=request)
    )


def operations() -> list[APIOperation]:
    """Those of the document, at the end those that end what the others need."""
    schema = schemathesis.openapi.from_dict(answers.document())
    found = [each.ok() for each in schema.get_all_operations()]
    found = [each for each in found if name_of(each) not in STREAMS]
    order = {name: place for place, name in enumerate(LAST, 1)}
    return sorted(found, key=lambda each: order.get(name_of(each), 0))


def name_of(operation: APIOperation) -> str:
    """Its id."""
    return str(operation.definition.raw["operationId"])


@pytest.fixture(params=ROLES)
def caller(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Caller]:
    with running(tmp_path) as server:
        world = make_world(server)
        server.user("subject", "user", [world.project])
        world.real["user"] = "subject"
        yield Caller(world, request.param, world.tokens[request.param])
        assert server.alive
        assert server.failures() == []


@pytest.mark.timeout(400)  # a few minutes, beside three others
def test_all_answers_are_as_documented(caller: Caller) -> None:
    for operation in operations():
        caller.try_out(operation)
    assert not caller.wrong, "\n\n".join(caller.wrong)
    if caller.role == "admin":
        succeeded = [name for name, statuses in caller.statuses.items() if min(statuses) < 300]
        assert len(succeeded) >= SUCCEED * len(caller.statuses), caller.statuses
