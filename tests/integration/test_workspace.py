"""Workspaces on a real disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pilothouse.agent as agent_package
from pilothouse.agent.removal import MAX_LEVELS, remove_at, remove_quietly, remove_tree
from pilothouse.agent.workspace import WorkspaceError, Workspaces


class Bench:
    """Workspaces below a directory."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.workspaces = Workspaces(self.root)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_life_of_a_workspace(bench: Bench) -> None:
    spaces = bench.workspaces
    assert await spaces.existing() == []
    path = await spaces.create("job-1")
    (path / "kept").write_text("x")
    assert await spaces.create("job-1") == path
    assert (path / "kept").exists()
    assert path.stat().st_mode & 0o777 == 0o700
    await spaces.create("job-0")
    assert await spaces.existing() == ["job-0", "job-1"]
    assert list((await spaces.fresh("job-1")).iterdir()) == []
    await spaces.remove("job-1")
    await spaces.remove("job-1")
    assert await spaces.existing() == ["job-0"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "../a", ".hidden", "a\0", "a\n", "a b", "-a", "ä", "x" * 129]
)
async def test_ids_are_plain_names(bench: Bench, name: str) -> None:
    with pytest.raises(WorkspaceError) as error:
        await bench.workspaces.create(name)
    assert error.value.code == "WORKSPACE_ID_INVALID"


@given(st.text(max_size=20))
def test_no_id_leads_out_of_the_root(name: str) -> None:
    try:
        path = Workspaces(Path("/root-of-all")).path(name)
    except WorkspaceError:
        return
    assert Path(os.path.normpath(path)).parent == Path("/root-of-all")
    assert path.name == name


async def test_removing_follows_no_link(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    path = await bench.workspaces.create("job")
    (path / "link").symlink_to(tmp_path / "outside")
    await bench.workspaces.remove("job")
    (bench.root / "job").symlink_to(tmp_path / "outside")
    await bench.workspaces.fresh("job")
    assert not (bench.root / "job").is_symlink()
    assert (tmp_path / "outside" / "precious").exists()


@pytest.mark.parametrize("levels", [60, 70, 3000])
def test_directories_nested_without_end_can_be_removed(
    bench: Bench, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = bench.root / "deep"
    deep.mkdir(parents=True)
    at = os.open(deep, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT, 0o400, dir_fd=at))
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.fchmod(at, 0o500)
        os.close(at)
        at = below
    os.close(at)
    most, opened = 0, os.open

    def opening(*args: Any, **more: Any) -> int:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))
        return opened(*args, **more)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "open", opening)
    remove_tree(deep)
    assert not deep.exists()
    assert most <= before + MAX_LEVELS + 2
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_only_directories_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / "root" / "job" / "cache" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "job" / "cache" / "deep" / "file").write_text("x")
    for directory in ("root/job/cache/deep", "root/job/cache", "root/job"):
        (tmp_path / directory).chmod(0o500)
    assert as_ordinary_user(tmp_path, remove_job) == 0
    assert not (tmp_path / "root" / "job").exists()


def remove_job() -> None:
    import asyncio

    asyncio.run(Workspaces(Path("root")).remove("job"))


def as_ordinary_user(directory: Path, act: Callable[[], None]) -> int:
    """The exit code of a child that does it in that directory, and not as root, whom no mode stops."""
    if os.geteuid() == 0:
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, 65534, 65534)
    child = os.fork()
    if child == 0:
        try:
            os.chdir(directory)
            if os.geteuid() == 0:
                os.setuid(65534)
            act()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_what_was_prepared_becomes_the_workspace(bench: Bench) -> None:
    await bench.workspaces.create("job")
    (bench.root / "job" / "stale").write_text("x")
    staging = await bench.workspaces.staging("job")
    other = await bench.workspaces.staging("job")
    (staging / "work").mkdir()
    (staging / "work" / "fresh").write_text("x")
    path = await bench.workspaces.adopt("job", staging / "work")
    await bench.workspaces.discard(staging)
    assert os.listdir(path) == ["fresh"]
    assert path.stat().st_mode & 0o777 == 0o700
    assert await bench.workspaces.existing() == ["job"], "what is prepared is no workspace"
    assert Workspaces(bench.root).leftovers() == [other]
    await bench.workspaces.discard_leftovers([other])
    assert sorted(os.listdir(bench.root)) == [".git", "job"]


LOOKING_UP = {
    "git": (["git", "rev-parse", "HEAD"], 128, "not a git repository"),
    "git without environment": (["env", "-i", "git", "status"], 128, "not a git repository"),
    "git reset": (["git", "reset", "--hard"], 128, "not a git repository"),
    "ruff": (["ruff", "check", "--isolated", "."], 1, "F401"),
}


@pytest.mark.parametrize("looking", LOOKING_UP.values(), ids=LOOKING_UP.keys())
@pytest.mark.parametrize("inside", ["", "deep/er"])
async def test_nothing_is_found_above_a_workspace(
    tmp_path: Path, looking: tuple[list[str], int, str], inside: str
) -> None:
    """The data directory may lie in a repository, which even ignores all that is in it."""
    project = tmp_path / "project"
    project.mkdir()
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / ".gitignore").write_text("*\n")
    (project / "precious").write_text("not committed\n")
    path = await Workspaces(project / ".pilothouse" / "agent" / "work").create("job")
    (path / inside).mkdir(parents=True, exist_ok=True)
    (path / inside / "a.py").write_text("import os\n")
    command, code, said = looking
    program = str(Path(sys.executable).with_name("ruff")) if command[0] == "ruff" else command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=path / inside, capture_output=True, text=True, check=False
    )
    assert said in done.stdout + done.stderr
    assert done.returncode == code
    assert (project / "precious").exists()


def test_no_other_module_of_the_agent_removes_trees() -> None:
    """``shutil.rmtree`` ends with an error on directories that are nested deeply."""
    sources = Path(agent_package.__file__).parent.rglob("*.py")
    assert [
        path.name for path in sources if "rmtree(" in path.read_text() or "rmtree," in path.read_text()
    ] == []


def test_a_deep_tree_is_removed_relative_to_a_directory(tmp_path: Path) -> None:
    nest(tmp_path / "tree", 1500)
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    top = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_at(b"link", top)
        assert (tmp_path / "tree").is_dir()
        remove_at(b"tree", top)
        remove_at(b"tree", top)
    finally:
        os.close(top)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_stays(tmp_path: Path) -> None:
    remove_quietly(tmp_path / "missing" / "tree")
    remove_quietly(Path("/proc/self/fd"))


def nest(top: Path, levels: int) -> None:
    """Directories within each other, deeper than a path may be long."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
