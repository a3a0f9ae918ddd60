"""The committed wire code is what tools/generate_wire.py makes of proto/, and it is usable as it lies."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.wire.agent.v1 import agent_pb2

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT / "src" / "pilothouse" / "wire"


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "generate_wire.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WIRE, tmp_path / "wire", ignore=shutil.ignore_patterns("__pycache__")))


def test_committed_code_is_current() -> None:
    result = generate("--check")
    assert result.returncode == 0, result.stderr


def test_check_names_every_difference_and_a_run_mends_it(copy: Path) -> None:
    changed = copy / "agent" / "v1" / "agent_pb2.pyi"
    stale = copy / "agent" / "v1" / "old_pb2.pyi"
    missing = copy / "stream" / "v1" / "stream_pb2_grpc.py"
    changed.write_text(changed.read_text("utf-8") + "# edited\n", "utf-8")
    missing.unlink()
    stale.write_text("", "utf-8")

    found = generate("--check", "--out", str(copy))
    assert found.returncode == 1
    listed = {tuple(line.split()) for line in found.stderr.splitlines() if line.startswith("  ")}
    assert listed == {
        ("differs", "agent/v1/agent_pb2.pyi"),
        ("missing", "stream/v1/stream_pb2_grpc.py"),
        ("stale", "agent/v1/old_pb2.pyi"),
    }

    assert generate("--out", str(copy)).returncode == 0
    assert generate("--check", "--out", str(copy)).returncode == 0
    assert not stale.exists()


def test_all_modules_share_one_process() -> None:
    modules = sorted(
        "pilothouse.wire." + path.relative_to(WIRE).with_suffix("").as_posix().replace("/", ".")
        for path in WIRE.rglob("*_pb2*.py")
    )
    script = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(modules) == 12


def test_messages_know_their_module() -> None:
    step_run = agent_pb2.StepRun(step_run_id="s", env={"A": "1"}, mask=["hidden"])
    assert agent_pb2.StepRun.__module__ == "pilothouse.wire.agent.v1.agent_pb2"
    assert pickle.loads(pickle.dumps(step_run)) == step_run
