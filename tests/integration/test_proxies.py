"""Proxies for real: the command line and agents go through one that is named, and never to this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import nursery
from support.faults.fleet import until
from support.http_proxy import HttpProxy, dead_address, proxying
from support.server import Server, running
from support.waiting import PATIENCE

Done = subprocess.CompletedProcess[str]
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
FAR = "pilot.test"
"""A name that only the proxy can resolve."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("proxied")) as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[HttpProxy]:
    with proxying(hosts(server)) as proxy:
        yield proxy


def hosts(server: Server) -> dict[str, str]:
    return {f"{FAR}:8080": server.url.removeprefix("http://"), f"{FAR}:9090": server.grpc}


def environment(**variables: str) -> dict[str, str]:
    """Ours without what names proxies or servers, and with these."""
    names = {*VARIABLES, *map(str.upper, VARIABLES)}
    kept = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("PILOT_")}
    return {**kept, "PILOT_CONFIG_HOME": "/nonexistent", **variables}


def pilot(server: Server, url: str, **variables: str) -> Done:
    """``pilot agent list`` there."""
    words = ("agent", "list", "-o", "json", "--server", url)
    env = environment(PILOT_TOKEN=server.admin, **variables)
    return nursery.pilot(words, cwd="/", env=env, timeout=2 * PATIENCE)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_command_line_goes_through_the_proxy(server: Server, proxy: HttpProxy, variable: str) -> None:
    done = pilot(server, f"http://{FAR}:8080", **{variable: proxy.url})
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert proxy.seen
    assert all(first.startswith(f"GET http://{FAR}:8080/api/v1/") for first in proxy.seen)


def test_a_proxy_that_wants_a_password(server: Server) -> None:
    wanted = "Basic " + base64.b64encode(b"ann:s3cret").decode()
    with proxying(hosts(server), wanted) as proxy:
        good = pilot(server, f"http://{FAR}:8080", http_proxy=proxy.url.replace("//", "//ann:s3cret@"))
        bad = pilot(server, f"http://{FAR}:8080", http_proxy=proxy.url.replace("//", "//ann:wr0ng@"))
    assert good.returncode == 0, good.stderr
    assert bad.returncode != 0
    assert f"through the proxy {proxy.url} (from http_proxy)" in bad.stderr
    assert "wr0ng" not in bad.stderr


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_that_is_not_there_is_named(server: Server, variable: str) -> None:
    dead = dead_address()
    scheme = "https" if variable.lower().startswith("https") else "http"
    done = pilot(server, f"{scheme}://{FAR}:8080", **{variable: dead.replace("//", "//ann:s3cret@")})
    assert done.returncode == 6
    first, hint = done.stderr.splitlines()
    assert first == (
        f"error: cannot reach {scheme}://{FAR}:8080 through the proxy {dead} (from {variable}): connection refused"
    )
    assert "no_proxy" in hint
    assert "pilot up" not in hint


def test_a_server_that_the_proxy_does_not_know(server: Server, proxy: HttpProxy) -> None:
    for url in ("http://elsewhere.test:8080", "https://elsewhere.test:8080"):
        done = pilot(server, url, http_proxy=proxy.url, https_proxy=proxy.url)
        assert done.returncode in (1, 6)
        assert "502 Bad Gateway" in done.stderr
        assert f"through the proxy {proxy.url} (from {url.partition(':')[0]}_proxy)" in done.stderr


def test_an_unsupported_kind_of_proxy_is_reported(server: Server) -> None:
    done = pilot(server, f"http://{FAR}:8080", all_proxy="socks5://ann:s3cret@p.test:1080")
    assert done.returncode == 1
    assert "the proxy socks5://p.test:1080 (from all_proxy) cannot be used" in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_reached_directly(server: Server, proxy: HttpProxy, host: str) -> None:
    """Whether the proxy works or is dead, and in either case of letters."""
    url = server.url.replace("127.0.0.1", host)
    for address in (proxy.url, dead_address()):
        for change in (str.lower, str.upper):
            named = {change(name): address for name in ("http_proxy", "https_proxy", "all_proxy")}
            done = pilot(server, url, **named)
            assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert proxy.seen == []


# -- agents -----------------------------------------------------------------------------------------------


class Agent:
    """``pilot agent`` with an environment of its own."""

    def __init__(self, server: Server, home: Path, name: str, url: str, grpc: str, **variables: str) -> None:
        token = server.registration_token()
        (home / "token").write_text(token + "\n")
        self.log = home / "agent.log"
        options = {"--server": url, "--grpc": grpc, "--name": name, "--data-dir": str(home / "data")}
        options |= {"--token-file": str(home / "token"), "--label": f"only={name}"}
        words = [word for pair in options.items() for word in pair]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pilothouse", "agent", *words],
                env=environment(**variables),
                stdout=log,
                stderr=log,
            )

    def said(self, event: str) -> list[dict[str, str]]:
        """Its log lines of one kind."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


def run_on(server: Server, name: str, directory: Path) -> str:
    """A run with files on that agent, by the command line; its outcome."""
    step = {"name": "s", "uses": "shell", "args": {"command": "cat hello"}}
    step["agentSelector"] = {"matchLabels": {"only": name}}
    directory.mkdir()
    (directory / ".pilot.yaml").write_text(json.dumps({"jobs": [{"name": "j", "steps": [step]}]}))
    (directory / "hello").write_text("from a file\n")
    done = subprocess.run(
        [sys.executable, "-m", "pilothouse", "pipeline", "run", "--server", server.url],
        env=environment(PILOT_TOKEN=server.admin),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_agent_works_through_the_proxy(server: Server, proxy: HttpProxy, tmp_path: Path) -> None:
    """gRPC and the files of a run, with one variable for both."""
    agent = Agent(server, tmp_path, "far", f"http://{FAR}:8080", f"{FAR}:9090", http_proxy=proxy.url)
    try:
        until(lambda: agent.said("agent.connected"), what="it connects")
        assert f"CONNECT {FAR}:9090 HTTP/1.1" in proxy.seen
        assert "from a file" in run_on(server, "far", tmp_path / "work")
        assert any(first.startswith(f"GET http://{FAR}:8080/api/v1/blobs/") for first in proxy.seen)
    finally:
        agent.stop()


@pytest.mark.parametrize("change", [str.lower, str.upper], ids=["lower", "upper"])
def test_an_agent_of_this_machine_needs_no_proxy(server: Server, tmp_path: Path, change: object) -> None:
    assert callable(change)
    dead = dead_address()
    named = {change(name): dead for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")}
    name = f"near-{change('x')}"
    agent = Agent(server, tmp_path, name, server.url, server.grpc, **named)
    try:
        until(lambda: agent.said("agent.connected"), what="it connects")
        assert "from a file" in run_on(server, name, tmp_path / name)
    finally:
        agent.stop()


def test_an_agent_names_the_proxy_that_does_not_answer(server: Server, tmp_path: Path) -> None:
    dead = dead_address()
    proxied = dead.replace("//", "//ann:s3cret@")
    agent = Agent(server, tmp_path, "lost", f"http://{FAR}:8080", f"{FAR}:9090", http_proxy=proxied)
    try:
        failed = until(lambda: agent.said("agent.register_failed"), what="it says why")
        assert f"(through the proxy {dead} (from http_proxy))" in failed[0]["reason"]
        assert "s3cret" not in agent.log.read_text()
    finally:
        agent.stop()
