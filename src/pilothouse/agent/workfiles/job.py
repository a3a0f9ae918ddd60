"""The program of built-in actions: one job on the files of a workspace (see ``children.script``).

The job is a JSON object on standard input: ``do``, ``workspace``, ``become`` (``[uid, gid, groups]`` of the user of
the steps, or null), and what the job needs. What is given as a path outside of the workspace is opened before the
user is changed. ``pack`` writes to standard output and answers on standard error; the others answer on standard
output. An answer is a JSON object, ``{"refused": message}`` where the job cannot be done.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any

from pilothouse.agent.workfiles.dotenv import MAX_BYTES, BadDotenv, parse
from pilothouse.agent.workfiles.junit import BadReport, Cases, read_file, summarized
from pilothouse.agent.workfiles.pack import pack
from pilothouse.agent.workfiles.walk import Search, open_file
from pilothouse.wire.placing import Refused, place, shown

MAX_REPORTS = 2000
"""Files of one report."""
MAX_REPORT_BYTES = 512 << 20


def main() -> None:
    """Read the job, do it, answer."""
    job = json.load(sys.stdin)
    packing = job["do"] == "pack"
    try:
        source = open(job["source"], "rb") if job.get("source") else None  # noqa: SIM115
        _become(job["become"])
        workspace = os.open(job["workspace"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        answer = _JOBS[job["do"]](job, workspace, source)
    except Refused as refused:
        answer = {"refused": str(refused)}
    except OSError as error:
        answer = {"refused": f"the files cannot be read or written: {error.strerror}"}
    json.dump(answer, sys.stderr if packing else sys.stdout)


def _become(user: list[Any] | None) -> None:
    if user is not None:
        os.setgroups(user[2])
        os.setgid(user[1])
        os.setuid(user[0])


def _pack(job: dict[str, Any], workspace: int, source: IO[bytes] | None) -> dict[str, Any]:
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        return pack(job, workspace, out)


def _place(job: dict[str, Any], workspace: int, source: IO[bytes] | None) -> dict[str, Any]:
    assert source is not None
    return place(job, workspace, source)


def _junit(job: dict[str, Any], workspace: int, source: IO[bytes] | None) -> dict[str, Any]:
    """``patterns``, ``hidden``. Answers ``{"files", "read", "report", "notes"}``."""
    search = Search(workspace, MAX_REPORTS, job["hidden"])
    found = search.find(job["patterns"])
    if sum(each.size for each in found) > MAX_REPORT_BYTES:
        raise Refused(f"the reports have more than {MAX_REPORT_BYTES} bytes together")
    cases, problems, read = Cases(), list[str](), 0
    for each in found:
        try:
            with open(open_file(workspace, each.path), "rb") as file:
                read_file(file, cases)
            read += 1
        except BadReport as bad:
            problems.append(f"{shown(each.path)}: {bad}")
        except OSError as error:
            problems.append(f"{shown(each.path)}: {error.strerror}")
    report = summarized(cases, read, problems)
    report["passed_ids"] = base64.b64encode(b"".join(report.pop("passed_tests"))).decode()
    return {"files": len(found), "read": read, "report": report, "notes": search.notes}


def _dotenv(job: dict[str, Any], workspace: int, source: IO[bytes] | None) -> dict[str, Any]:
    """``patterns``. Answers ``{"files", "variables", "notes"}``."""
    search = Search(workspace, 20, True)
    found, variables = search.find(job["patterns"]), dict[str, str]()
    for each in found:
        with open(open_file(workspace, each.path), "rb") as file:
            data = file.read(MAX_BYTES + 1)
        try:
            variables |= parse(data)
        except BadDotenv as bad:
            raise Refused(f"{shown(each.path)}: {bad}") from None
    return {"files": len(found), "variables": variables, "notes": search.notes}


_JOBS: dict[str, Callable[[dict[str, Any], int, IO[bytes] | None], dict[str, Any]]] = {
    "pack": _pack,
    "place": _place,
    "junit": _junit,
    "dotenv": _dotenv,
}
