"""The bounds of the child processes that prepare a workspace: none is ever raised."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.workers.children import Limits, _bound

LOWERED = {"RLIMIT_CPU": 100, "RLIMIT_FSIZE": 5000, "RLIMIT_AS": 1 << 30}
_LOWER = """
import json, resource, sys
for name, value in json.loads(sys.argv[1]).items():
    resource.setrlimit(getattr(resource, name), (value, value))
"""
_CHILD = f"{_LOWER}\nprint(flush=True); sys.stdin.read()"
_AGENT = f"""{_LOWER}
import asyncio
from pathlib import Path
from pilothouse.workers.children import Children, Limits
said = "import resource; print(resource.getrlimit(resource.RLIMIT_CPU)[1])"
run = Children(Path(sys.argv[2])).run([sys.executable, "-c", said], limits=Limits(600.0, output=9000))
print(asyncio.run(run).stdout.decode())
"""


@pytest.mark.parametrize("name", LOWERED)
def test_a_child_that_has_bounded_itself_meanwhile_keeps_that(name: str) -> None:
    """As the child that unpacks archives does: where it was the quicker, its step failed."""
    lowered = {name: LOWERED[name]}
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(lowered)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        _bound(child.pid, Limits(seconds=600.0, output=9000))
        expected = {"RLIMIT_CORE": 0, "RLIMIT_CPU": 601, "RLIMIT_FSIZE": 9000, **lowered}
        for one, value in expected.items():
            assert resource.prlimit(child.pid, getattr(resource, one)) == (value, value), one


def test_an_agent_with_limits_of_its_own(tmp_path: Path) -> None:
    """Of a service manager or ``ulimit``: its children have those, and start."""
    done = subprocess.run(
        [sys.executable, "-c", _AGENT, json.dumps(LOWERED), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["100"], done.stderr
