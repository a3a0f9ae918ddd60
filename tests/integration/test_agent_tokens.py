"""How ``pilot agent`` gets its registration token, and that no step finds it in the agent's process."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.cli.handover import SECRET_VARIABLES
from pilothouse.server.settings import Settings
from support.faults.fleet import until
from support.server import Server
from support.waiting import PATIENCE

LOOK = """
cat /proc/$PPID/environ /proc/$PPID/cmdline | tr '\\0' '\\n'
at=$PPID
while [ "$at" -gt 1 ] && ! tr '\\0' ' ' < /proc/$at/cmdline | grep -q "agent --server"; do
  at=$(awk '/^PPid:/ {print $2}' /proc/$at/status)
done
cat /proc/$at/environ /proc/$at/cmdline | tr '\\0' '\\n'
echo "the agent is $at"
"""


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


_lives = itertools.count(1)


class Started:
    """``pilot agent`` with these words and variables; ``stdin``: what it may read there."""

    def __init__(
        self, server: Server, home: Path, name: str, *words: str, stdin: str | None = None, **variables: str
    ) -> None:
        self.name, self.log = name, home / f"{name}-{next(_lives)}.log"
        base = ("--server", server.url, "--grpc", server.grpc, "--name", name, "--label", f"only={name}")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pilothouse", "agent", *base, *words],
                cwd=home,
                env={**environment, **variables},
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def connected(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "agent.connected" in self.log.read_text()

    def ended(self) -> tuple[int, str]:
        """Its exit code and output."""
        return self.process.wait(60), self.log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0


def check_other_servers(server: Server, name: str) -> str:
    """What a step on this agent reads of its process."""
    step = {"name": "s", "uses": "shell", "args": {"script": LOOK}}
    step["agentSelector"] = {"matchLabels": {"only": name}}
    spec = {"jobs": [{"name": "j", "steps": [step]}]}
    run_id = server.trigger(server.pipeline(f"look-{name}", spec))
    done = until(
        lambda: (
            found
            if (found := server.ask("GET", f"/workflow-runs/{run_id}"))["status"] in ("succeeded", "failed")
            else None
        )
    )
    text = server.call("GET", f"/workflow-runs/{run_id}/logs").text
    assert done["status"] == "succeeded", text
    return text


@pytest.mark.parametrize(
    ("how", "variables"),
    [
        (["--token", "TOKEN"], {}),
        (["--token=TOKEN"], {}),
        ([], {"PILOT_AGENT_TOKEN": "TOKEN"}),
        ([], {"PILOT_TOKEN": "TOKEN"}),
        (["--token", "TOKEN"], {"PILOT_TOKEN": "TOKEN", "PILOT_ADMIN_PASSWORD": "TOKEN"}),
        (["--token-file", "token"], {"PILOT_DATABASE_URL": "TOKEN", "PILOT_TOKEN": "TOKEN"}),
    ],
)
def test_no_step_finds_it(
    server: Server, tmp_path: Path, how: list[str], variables: dict[str, str], request: pytest.FixtureRequest
) -> None:
    token = server.registration_token()
    (tmp_path / "token").write_text(f"{token}\n")
    name = f"agent-{re.sub(r'[^a-z0-9]', '', request.node.callspec.id.lower())}"[:60]
    given = {key: value.replace("TOKEN", token) for key, value in variables.items()}
    agent = Started(server, tmp_path, name, *(word.replace("TOKEN", token) for word in how), **given)
    until(agent.connected, what="it connects")
    found = check_other_servers(server, name)
    assert f"the agent is {agent.process.pid}" in found, "it is the process that was started"
    assert "pilotreg_" not in found
    assert f"\nonly={name}\n" in found, "the other options are as they were"
    assert (tmp_path / ".pilothouse" / ".gitignore").read_text() == "*\n"
    agent.stop()


def test_from_stdin_and_from_a_pipe(server: Server, tmp_path: Path) -> None:
    agent = Started(
        server, tmp_path, "by-stdin", "--token-file", "-", stdin=server.registration_token() + "\n"
    )
    until(agent.connected, what="it connects")
    assert os.readlink(f"/proc/{agent.process.pid}/fd/0") == os.devnull
    agent.stop()
    read, write = os.pipe()
    os.write(write, server.registration_token().encode())
    os.close(write)
    os.set_inheritable(read, True)
    words = ["--server", server.url, "--grpc", server.grpc, "--name", "by-pipe", "--data-dir", "pipe"]
    piped = subprocess.Popen(
        [sys.executable, "-m", "pilothouse", "agent", *words, "--token-file", f"/dev/fd/{read}"],
        cwd=tmp_path,
        pass_fds=[read],
        stderr=subprocess.DEVNULL,
    )
    os.close(read)
    until(lambda: server.call("GET", "/agents/by-pipe").status_code == 200, what="it registers")
    piped.terminate()
    assert piped.wait(PATIENCE) == 0


def test_a_file_may_go_once_the_agent_has_a_token_of_its_own(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(server.registration_token(max_uses=1))
    words = ("--token-file", str(file))
    first = Started(server, tmp_path, "filed", *words, "--ephemeral")
    until(first.connected, what="it connects")
    assert server.ask("GET", "/agents/filed")["ephemeral"] is True
    first.stop()
    file.unlink()
    again = Started(server, tmp_path, "filed", *words)
    until(again.connected, what="it connects again")
    assert server.ask("GET", "/agents/filed")["ephemeral"] is False, "as it says when it registers"
    again.stop()
    other = Started(server, tmp_path, "other", *words)
    code, said = other.ended()
    assert (code, "cannot read the token from" in said) == (2, True), said


@pytest.mark.parametrize(
    "content", ["", " \n", "two words", "pilotreg_\x00x y", "s3cret " + "x" * 5000, "sécret"]
)
def test_what_is_no_token_is_refused_and_not_shown(server: Server, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    code, said = Started(server, tmp_path, "wrong", "--token-file", "token").ended()
    assert code == 2
    assert "token does not hold a token" in said
    assert "s3cret" not in said
    assert "sécret" not in said
    if "\x00" not in content and content.strip():
        code, said = Started(server, tmp_path, "wrong", "--token", content).ended()
        assert code == 2
        assert "s3cret" not in said


def test_the_name_of_another_agent_ends_it(server: Server, tmp_path: Path) -> None:
    first = Started(server, tmp_path, "taken", "--token", server.registration_token())
    until(first.connected, what="it connects")
    second = Started(server, tmp_path, "taken", "--data-dir", "two", "--token", server.registration_token())
    code, said = second.ended()
    assert code == 4
    assert "AGENT_ALREADY_EXISTS" in said
    assert first.connected()
    first.stop()


def test_every_secret_setting_is_among_those_that_are_hidden() -> None:
    secret = {
        f"PILOT_{name.upper()}" for name, field in Settings.model_fields.items() if "SecretStr" in str(field)
    }
    assert secret
    assert secret <= set(SECRET_VARIABLES)
