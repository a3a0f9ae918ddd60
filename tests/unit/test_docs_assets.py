"""The files of ``/docs`` are those that were recorded, and are in the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/refresh_docs_assets.py"


def check(root: Path) -> int:
    tool = root / "tools" / TOOL.name
    return subprocess.run([sys.executable, str(tool), "--check"], stderr=subprocess.DEVNULL).returncode


def test_the_recorded_hashes_are_those_of_the_files() -> None:
    assert check(ROOT) == 0


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_another_file_is_noticed(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "src/pilothouse/server/swagger_ui"
    shutil.copytree(ROOT / "src/pilothouse/server/swagger_ui", folder)
    (tmp_path / "tools").mkdir()
    shutil.copy(TOOL, tmp_path / "tools")
    assert check(tmp_path) == 0
    if change == "changed":
        (folder / "swagger-ui.css").write_text("body {}")
    elif change == "added":
        (folder / "more.js").write_text("1")
    else:
        (folder / "NOTICE").unlink()
    assert check(tmp_path) == 1


def test_the_wheel_has_them(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
    ).stdout
    for path in (ROOT / "src/pilothouse/server/swagger_ui").iterdir():
        assert f"pilothouse/server/swagger_ui/{path.name} " in listed
