"""The built-in actions with a real server and a real agent: artifacts from job to job, reports, HTTP requests."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.artifacts import content
from support.server import Server, running
from support.waiting import eventually

from .test_work_trees_run import agent, said, start, view

DATA = Path("/work/shared/data/junit")


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture(scope="module")
def worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with agent(server, "actor", tmp_path_factory.mktemp("actor") / "data"):
        yield "actor"


def step(name: str, uses: str, /, **args: Any) -> dict[str, Any]:
    """A step of agent ``actor``: ``uses`` is an action, or a command."""
    made: dict[str, Any] = {"name": name, "agentSelector": {"matchLabels": {"only": "actor"}}}
    if re.fullmatch(r"[a-z]+/[a-z]+", uses):
        made["uses"], made["action"] = uses.split("/")
        made["args"] = args
    else:
        made["run"] = uses
    return made


def job(name: str, *steps: dict[str, Any], needs: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"name": name, "steps": list(steps), **({"dependsOn": list(needs)} if needs else {})}


async def test_an_artifact_goes_from_job_to_job(server: Server, worker: str) -> None:
    made = "mkdir -p dist/sub && echo one >dist/a.txt && printf '#!/bin/sh\\necho ran' >dist/sub/run"
    made += " && chmod +x dist/sub/run && echo no >dist/.hidden && echo no >dist/b.log && ln -s /etc/passwd dist/link"
    spec = {
        "jobs": [
            job(
                "build",
                step("make", made),
                step("keep", "artifacts/upload", name="dist", path=["dist", "!**/*.log"]),
                step("one", "artifacts/upload", name="raw", path="dist/a.txt", archive=False),
            ),
            job(
                "use",
                step("get", "artifacts/download", name="dist", path="in/here"),
                step("show", "cd in/here && find . -type f | sort && sub/run"),
                step("all", "artifacts/download", path="every", name="*"),
                step("list", "find every -type f | sort"),
                needs=("build",),
            ),
        ]
    }
    run = start(server, None, spec)
    lines = await said(server, run)
    assert {"./a.txt", "./sub/run", "ran", "every/dist/a.txt", "every/raw/a.txt"} <= set(lines)
    assert not any("hidden" in line or "b.log" in line for line in lines if line.startswith(("./", "every")))
    assert any("dist/link is left out: it is a symbolic link" in line for line in lines)
    shown = {each["name"]: each for each in server.ask("GET", f"/workflow-runs/{run}/artifacts")["artifacts"]}
    assert (shown["dist"]["format"], shown["dist"]["files"], shown["raw"]["format"]) == ("zip", 2, "file")
    assert content(server, shown["raw"]["id"]).content == b"one\n"
    outputs = view(server, run)["jobs"][0]["steps"][1]["outputs"]
    assert outputs == {"artifact_id": shown["dist"]["id"], "artifact_sha256": shown["dist"]["sha256"]}


async def test_hostile_paths_are_left_out_or_refused(server: Server, worker: str) -> None:
    made = (
        "mkdir d && mkfifo d/pipe && ln -s ../../.. d/up && ln -s / d/root && ln -s d linked && echo x >d/x"
    )
    made += " && truncate -s 1T huge"
    spec = {
        "jobs": [
            job("fine", step("make", made), step("keep", "artifacts/upload", name="d", path="d")),
            *(
                job(
                    f"bad{n}",
                    step("make", made),
                    step("keep", "artifacts/upload", name=f"bad{n}", path=path, ifNoFilesFound="error"),
                )
                for n, path in enumerate(
                    ("../**", "/etc/passwd", "d/root/etc/passwd", "linked/x", "huge", "d/pipe")
                )
            ),
        ]
    }
    run = start(server, None, spec)
    await eventually(lambda: view(server, run)["status"] in ("failed", "succeeded"), 120)
    jobs = {each["name"]: each for each in view(server, run)["jobs"]}
    assert jobs["fine"]["status"] == "succeeded", jobs["fine"]
    [fine] = server.ask("GET", f"/workflow-runs/{run}/artifacts")["artifacts"]
    assert (fine["name"], fine["files"]) == ("d", 1)
    errors = [jobs[f"bad{n}"]["steps"][1]["attempts"][0]["error"] for n in range(6)]
    assert "leads out of the workspace" in errors[0]
    assert "not a path in the workspace" in errors[1]
    assert all("no files match" in errors[n] for n in (2, 3, 5)), errors
    assert "1099511627776 bytes" in errors[4]


async def test_what_is_not_there(server: Server, worker: str) -> None:
    spec = {
        "jobs": [
            job("warn", step("keep", "artifacts/upload", name="x", path="nothing/*")),
            job("error", step("keep", "artifacts/upload", name="x", path="no", ifNoFilesFound="error")),
            job("get", step("get", "artifacts/download", name="nothing")),
        ]
    }
    run = start(server, None, spec)
    await eventually(lambda: view(server, run)["status"] == "failed")
    found = {each["name"]: each["steps"][0] for each in view(server, run)["jobs"]}
    assert found["warn"]["status"] == "succeeded"
    assert found["error"]["attempts"][0]["error"] == "no files match no"
    assert "no artifact nothing (it has: none)" in found["get"]["attempts"][0]["error"]


async def test_an_upload_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    """The server is killed in the midst of an upload of several parts; the step goes on and succeeds."""
    with running(tmp_path) as server, agent(server, "actor", tmp_path / "agent"):
        big = f"head -c {70 << 20} /dev/urandom >big && sha256sum big"
        spec = {
            "jobs": [
                job(
                    "j",
                    step("make", big),
                    step("keep", "artifacts/upload", name="big", path="big", archive=False),
                )
            ]
        }
        run = start(server, None, spec)
        stored = server.data_dir / "objects" / "artifacts"
        await eventually(lambda: stored.exists() and len(list(stored.rglob("0*"))) >= 1)
        server.kill9()
        server.restart()
        lines = await said(server, run)
        [big_one] = server.ask("GET", f"/workflow-runs/{run}/artifacts")["artifacts"]
        assert any(line.startswith(big_one["sha256"]) for line in lines)
        assert big_one["size"] == 70 << 20


async def test_reports_of_tests_and_the_last_run(server: Server, worker: str) -> None:
    def xml(**cases: str) -> str:
        bodies = {"pass": "", "fail": '<failure message="boom">at line 3</failure>', "skip": "<skipped/>"}
        inner = "".join(
            f'<testcase classname="c" name="{n}">{bodies[how]}</testcase>' for n, how in cases.items()
        )
        return f"<testsuite name='s'>{inner}</testsuite>"

    def spec(text: str) -> dict[str, Any]:
        write = f"mkdir -p out && cat >out/r.xml <<'END'\n{text}\nEND"
        return {
            "jobs": [
                job("t", step("write", write), step("read", "reports/junit", path="out/*.xml", name="unit"))
            ]
        }

    pipeline = server.pipeline("tested", spec(xml(a="pass", b="fail", c="fail", d="skip")))
    first = server.trigger(pipeline)
    await said(server, first)
    shown = server.ask("GET", f"/workflow-runs/{first}/tests")
    assert shown["summary"] | {"duration": 0} == {
        "tests": 4, "passed": 1, "failed": 2, "errors": 0, "skipped": 1, "duration": 0, "flaky": 0,
    }  # fmt: skip
    assert [(t["name"], t["message"], t["new"]) for t in shown["failing"]] == [
        ("b", "boom", False),
        ("c", "boom", False),
    ]
    assert shown["compared_with"] is None
    saved = spec(xml(a="fail", b="pass", c="fail", d="skip"))
    second = server.trigger(pipeline, spec=saved)
    await said(server, second)
    shown = server.ask("GET", f"/workflow-runs/{second}/tests")
    assert shown["compared_with"]["run_id"] == first
    assert {t["name"]: t["new"] for t in shown["failing"]} == {"a": True, "c": False}
    assert ([t["name"] for t in shown["fixed"]], shown["new_failures"]) == (["b"], 1)
    assert view(server, second)["tests"]["failed"] == 2
    outputs = view(server, second)["jobs"][0]["steps"][1]["outputs"]
    assert outputs == {"tests": 4, "passed": 1, "failed": 2, "errors": 0, "skipped": 1, "flaky": 0}


async def test_a_test_that_passes_in_another_attempt_is_flaky(
    server: Server, worker: str, tmp_path: Path
) -> None:
    body = f"""if mkdir {tmp_path}/seen; then body='<failure message="race"/>'; fi
echo "<testsuite><testcase classname='c' name='racy'>$body</testcase></testsuite>" >r.xml
"""
    steps = step("write", body), step("read", "reports/junit", path="r.xml", failOnFailure=True)
    spec = {"jobs": [{**job("t", *steps), "retry": {"maxAttempts": 2}}]}
    run = start(server, None, spec)
    await said(server, run)
    shown = server.ask("GET", f"/workflow-runs/{run}/tests")
    assert (shown["summary"]["tests"], shown["summary"]["failed"], shown["summary"]["flaky"]) == (1, 0, 1)
    [flaky] = shown["flaky"]
    assert (flaky["name"], flaky["reason"]) == ("racy", "another attempt of its step ended differently")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("laughs", '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><testsuite name="&b;"/>'),
        ("outside", '<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]><testsuite name="&x;"/>'),
        ("deep", "<testsuite>" * 200 + "</testsuite>" * 200),
        ("other", "<assemblies/>"),
        ("cut", "<testsuite><testcase"),
        ("empty", ""),
    ],
)
async def test_hostile_reports_are_data(server: Server, worker: str, name: str, text: str) -> None:
    write = f"cat >r.xml <<'END'\n{text}\nEND"
    good = 'echo \'<testsuite><testcase classname="c" name="ok"/></testsuite>\' >good.xml'
    spec = {
        "jobs": [
            job("bad", step("write", write), step("read", "reports/junit", path="r.xml")),
            job("both", step("write", f"{good}\n{write}"), step("read", "reports/junit", path="*.xml")),
        ]
    }
    run = start(server, None, spec)
    await eventually(lambda: view(server, run)["status"] == "failed", 90)
    jobs = {each["name"]: each for each in view(server, run)["jobs"]}
    assert "none of the 1 files" in jobs["bad"]["steps"][1]["attempts"][0]["error"]
    assert jobs["both"]["status"] == "succeeded"
    shown = server.ask("GET", f"/workflow-runs/{run}/tests")
    problems = [problem for report in shown["reports"] for problem in report["problems"]]
    assert len(problems) == 2
    assert all(problem.startswith("r.xml: it ") for problem in problems), problems
    assert "root:" not in json.dumps(shown)


async def test_dotenv_gives_outputs(server: Server, worker: str) -> None:
    good, bad = "VERSION=1.4.2\nURL=https://x/?a=1&b=2\nEMPTY=\nVERSION=1.4.3", "A=1\n# no"
    spec = {
        "jobs": [
            job(
                "a",
                step("write", f"cat >x.env <<'END'\n{good}\nEND"),
                step("read", "reports/dotenv", path="x.env"),
            ),
            job("b", step("say", "echo got ${{ jobs.a.outputs.VERSION }}"), needs=("a",)),
            job("c", step("write", f"printf '{bad}' >x.env"), step("read", "reports/dotenv", path="x.env")),
        ]
    }
    run = start(server, None, spec)
    lines = await said(server, run, "failed")
    assert "got 1.4.3" in lines
    jobs = {each["name"]: each for each in view(server, run)["jobs"]}
    assert jobs["a"]["steps"][1]["outputs"] == {"VERSION": "1.4.3", "URL": "https://x/?a=1&b=2", "EMPTY": ""}
    assert jobs["c"]["steps"][1]["attempts"][0]["error"].startswith("x.env: line 2")


class _Site(http.server.BaseHTTPRequestHandler):
    """Answers as its paths say."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        said = {
            "path": self.path,
            "body": body.decode(),
            "authorization": self.headers.get("Authorization", ""),
        }
        self._answer(201, json.dumps(said).encode())

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self._answer(302, b"", Location="/ok")
        elif self.path == "/loop":
            self._answer(302, b"", Location="/loop")
        elif self.path == "/huge":
            self._answer(200, bytes(3 << 20))
        elif self.path == "/slow":
            threading.Event().wait(30)
        else:
            self._answer(404 if self.path == "/missing" else 200, b"hello")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


async def test_http_requests(server: Server, worker: str, site: str) -> None:
    server.ask("PUT", "/secrets/HOOK", json={"value": "hunter2-of-the-hook"})
    request = "http/request"
    spec = {
        "jobs": [
            job(
                "post",
                step(
                    "send",
                    request,
                    url=f"{site}/hook",
                    json={"ok": True},
                    headers={"Authorization": "Bearer ${{ secrets.HOOK }}"},
                    expectStatus="201",
                ),
            ),
            job("moved", step("get", request, url=f"{site}/redirect")),
            job(
                "stay",
                step("get", request, url=f"{site}/redirect", followRedirects=False, expectStatus="3xx"),
            ),
            *(
                job(
                    name,
                    step("get", request, url=f"{site}/{name}", timeout="2s" if name == "slow" else "60s"),
                )
                for name in ("loop", "huge", "slow", "missing")
            ),
            job("file", step("get", request, url="file:///etc/passwd")),
        ]
    }
    run = start(server, None, spec)
    await eventually(lambda: view(server, run)["status"] == "failed", 90)
    found = {each["name"]: each["steps"][0] for each in view(server, run)["jobs"]}
    sent = json.loads(found["post"]["outputs"]["body"])
    assert (sent["body"], found["post"]["outputs"]["status"]) == ('{"ok": true}', 201)
    assert "hunter2" not in json.dumps(view(server, run))
    assert "***" in sent["authorization"]
    assert found["moved"]["outputs"]["body"] == "hello"
    assert found["stay"]["outputs"]["status"] == 302
    errors = {name: step["attempts"][0]["error"] for name, step in found.items()}
    assert errors["loop"] == "more than 10 redirects"
    assert "more than 1048576 bytes" in errors["huge"]
    assert errors["slow"] == "no answer within 2 s"
    assert errors["missing"] == "the status 404 is not the one expected"
    assert errors["file"] == "args.url must be an http or https URL"


async def test_a_request_is_cancelled_with_its_run(server: Server, worker: str, site: str) -> None:
    spec = {"jobs": [job("j", step("get", "http/request", url=f"{site}/slow", timeout="100s"))]}
    run = start(server, None, spec)
    await eventually(lambda: view(server, run)["jobs"][0]["steps"][0]["status"] == "running")
    server.ask("POST", f"/workflow-runs/{run}/cancel", json={})
    await eventually(lambda: view(server, run)["status"] == "cancelled")
