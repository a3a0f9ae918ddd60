"""``pilot init``: what it writes for a project passes the check, and runs on a real server and agent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.agent.lock import lock_holder
from pilothouse.cli.starters import starter
from pilothouse.pipelines.spec import parse_spec
from support.waiting import PATIENCE

Files = dict[str, str]

PYTHON_UNITTEST: Files = {
    "requirements.txt": "# nothing\n",
    "adder.py": "def add(a, b):\n    return a + b\n",
    "tests/test_adder.py": "import unittest\nfrom adder import add\n\n\nclass Adds(unittest.TestCase):\n"
    "    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n",
}
PYTHON_PYTEST: Files = {
    "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    '[project]\nname = "adder"\nversion = "1"\n[tool.setuptools]\npy-modules = ["adder"]\n[tool.ruff]\nline-length = 100\n',
    "adder.py": "def add(a, b):\n    return a + b\n",
    "tests/test_adder.py": "from adder import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n",
}
NODE: Files = {
    "package.json": '{"name": "adder", "scripts": {"test": "node test.js", "lint": "node --check adder.js"}}',
    "adder.js": "exports.add = (a, b) => a + b\n",
    "test.js": "require('assert').strictEqual(require('./adder').add(1, 2), 3)\n",
}
GO: Files = {
    "go.mod": "module example.org/adder\n\ngo 1.18\n",
    "adder.go": "package adder\n\n// Add adds.\nfunc Add(a, b int) int { return a + b }\n",
    "adder_test.go": 'package adder\n\nimport "testing"\n\nfunc TestAdd(t *testing.T) {\n\tif Add(1, 2) != 3 {\n'
    "\t\tt.Fatal(Add(1, 2))\n\t}\n}\n",
}
RUST: Files = {
    "Cargo.toml": '[package]\nname = "adder"\nversion = "0.1.0"\nedition = "2021"\n',
    "src/lib.rs": "pub fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n\n#[test]\nfn adds() {\n    assert_eq!(add(1, 2), 3);\n}\n",
}
MAKE: Files = {
    "Makefile": "X := 3\n.PHONY: test lint\ntest: lint\n\t@sh -c '[ $$((1 + 2)) = $(X) ]'\nlint:\n\t@grep -q X Makefile\n",
}
# By what breaks: the project, the job, the file that holds the code, what is replaced in it, and the step that must fail.
PROJECTS: dict[str, tuple[Files, str, str, tuple[str, str], str]] = {
    "unittest": (PYTHON_UNITTEST, "python", "adder.py", ("a + b", "a - b"), "test"),
    "pytest": (PYTHON_PYTEST, "python", "adder.py", ("a + b", "a - b"), "test"),
    "node": (NODE, "node", "adder.js", ("a + b", "a - b"), "test"),
    "go": (GO, "go", "adder.go", ("a + b", "a - b"), "test"),
    "rust": (RUST, "rust", "src/lib.rs", ("    a + b", "    a - b"), "test"),
    "make": (MAKE, "make", "Makefile", ("X := 3", "X := 4"), "test"),
}
TOOLS = {"python": "python3", "node": "npm", "go": "go", "rust": "cargo", "make": "make"}


def write(directory: Path, files: Files) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def steps_of(directory: Path) -> dict[str, list[str]]:
    """The names of the steps by job, of what would be written."""
    spec = parse_spec(starter(directory).text).spec
    return {job.name: [step.name for step in job.steps] for job in spec.jobs}


# -- what is written ----------------------------------------------------------------------------------------

COMMANDS = {
    "a locked uv project": (
        {"pyproject.toml": '[project]\nname = "x"\n[tool.pytest]\n', "uv.lock": "", "test_x.py": ""},
        ["uv sync --locked", "-m pytest"],
    ),
    "poetry": (
        {"pyproject.toml": "[tool.poetry]\nname = 'x'\n", "poetry.lock": "", "test_x.py": "import pytest"},
        ["poetry install --no-interaction", "-m pip install --quiet pytest", "-m pytest"],
    ),
    "pdm": ({"pyproject.toml": '[project]\nname = "x"\n', "pdm.lock": ""}, ["pdm install --frozen-lockfile"]),
    "extras": (
        {
            "pyproject.toml": '[project]\nname = "x"\noptional-dependencies = {test = ["pytest>=7"]}\n',
            "test_x.py": "def test(): pass",
        },
        ["install --quiet -e '.[test]'\n", "-m pytest"],
    ),
    "dependency groups": (
        {"pyproject.toml": '[project]\nname = "x"\n[dependency-groups]\ndev = ["pytest"]\n', "test_x.py": ""},
        ["--group dev\n", "-m pytest"],
    ),
    "a broken pyproject.toml": ({"pyproject.toml": "[[["}, ["python3 -m venv .venv", "compileall"]),
    "a setup.py": ({"setup.py": "", "tests/test_a.py": "import unittest"}, ["-e .", "discover -s tests"]),
    "a package of tests": (
        {"setup.py": "", "tests/__init__.py": "", "tests/test_a.py": "import unittest"},
        ["discover -s tests -t ."],
    ),
    "requirements": (
        {"requirements.txt": "flask\n", "requirements-dev.txt": "pytest\n", "conftest.py": ""},
        ["-r requirements.txt -r requirements-dev.txt\n", "-m pytest"],
    ),
    "flake8": (
        {"setup.cfg": "[metadata]\nname = x\n[flake8]\n"},
        ["-e .", "install --quiet flake8", "-m flake8"],
    ),
    "tox": (
        {"tox.ini": "[testenv]\ncommands = x\n", "setup.py": ""},
        ["install --quiet tox", "tox run -e py"],
    ),
    "npm with a lock file": (
        {"package.json": '{"scripts": {"test": "x", "build": "x"}}', "package-lock.json": "{}"},
        ["npm ci", "npm run test", "npm run build"],
    ),
    "pnpm": (
        {"package.json": '{"scripts": {"test": "x"}}', "pnpm-lock.yaml": ""},
        ["pnpm install", "pnpm run test"],
    ),
    "yarn": (
        {"package.json": '{"scripts": {"test": "x"}}', "yarn.lock": ""},
        ["yarn@1 install", "yarn@1 run test"],
    ),
    "yarn of today": (
        {"package.json": '{"scripts": {"test": "x"}}', "yarn.lock": "", ".yarnrc.yml": ""},
        ["corepack yarn install --immutable"],
    ),
    "npm without a lock file": (
        {"package.json": '{"devDependencies": {"x": "1"}, "scripts": {"lint": "x"}}'},
        ["npm install", "npm run lint"],
    ),
    "what npm init writes": (
        {
            "package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}',
            "index.js": "",
        },
        ["node --check index.js"],
    ),
    "Rust with a lock file": (
        {"Cargo.toml": "", "Cargo.lock": "", "rustfmt.toml": ""},
        ["cargo test --locked", "cargo fmt --check"],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_follow_from_what_is_here(name: str, tmp_path: Path) -> None:
    files, expected = COMMANDS[name]
    write(tmp_path, files)
    made = starter(tmp_path)
    parsed = parse_spec(made.text)
    assert parsed.warnings == ()
    runs = "\n".join(f"{step.args['command']}\n" for job in parsed.spec.jobs for step in job.steps)
    missing = [part for part in expected if part not in runs]
    assert not missing, runs


def test_several_at_once(tmp_path: Path) -> None:
    write(tmp_path, {**PYTHON_PYTEST, **NODE, **GO, **RUST, **MAKE})
    assert steps_of(tmp_path) == {
        "python": ["install", "lint", "test", "build"],
        "node": ["lint", "test"],
        "go": ["vet", "build", "test"],
        "rust": ["build", "test"],
        "make": ["install python", "lint", "test"],
    }
    assert starter(tmp_path).found == ("pyproject.toml", "package.json", "go.mod", "Cargo.toml", "Makefile")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"Makefile": "all:\n"},
        {"package.json": "{}"},
        {"package.json": "[" * 100_000},
        {"package.json": "\x00\xff", "readme": "pytest"},
    ],
)
def test_where_nothing_is_recognized_the_spec_still_works(files: Files, tmp_path: Path) -> None:
    write(tmp_path, files)
    assert steps_of(tmp_path) == {"hello": ["say"]}
    assert starter(tmp_path).found == ()


def test_text_of_files_never_gets_into_the_spec(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "package.json": '{"scripts": {"x; rm -rf /": "y", "test": "z"}, "name": "\\"\\n- evil"}',
            "pyproject.toml": '[project]\nname = "evil\'"\noptional-dependencies = {"test\'; evil" = []}\n',
            "Makefile": "evil test: $(shell evil)\n",
        },
    )
    assert "evil" not in starter(tmp_path).text
    assert steps_of(tmp_path)["make"][-1] == "test"


# -- the command --------------------------------------------------------------------------------------------


def init(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "pilothouse", "init", *arguments)
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_it_writes_a_file_and_overwrites_none(tmp_path: Path) -> None:
    write(tmp_path, MAKE)
    shown = init(tmp_path, "--stdout")
    assert (shown.returncode, list(tmp_path.glob(".pilot*"))) == (0, [])
    done = init(tmp_path)
    assert (done.returncode, done.stdout) == (0, "wrote .pilot.yaml (jobs: make)\n")
    assert (tmp_path / ".pilot.yaml").read_text() == shown.stdout
    (tmp_path / ".pilot.yaml").write_text("mine")
    refused = init(tmp_path)
    assert refused.returncode == 2
    assert ".pilot.yaml already exists" in refused.stderr
    assert "--force" in refused.stderr
    assert (tmp_path / ".pilot.yaml").read_text() == "mine"
    assert init(tmp_path, "--force").returncode == 0
    assert (tmp_path / ".pilot.yaml").read_text() == shown.stdout
    assert [path.name for path in tmp_path.glob(".pilot*")] == [".pilot.yaml"]


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".pilot.yaml").symlink_to(target)
    assert init(tmp_path / "work").returncode == 2
    assert init(tmp_path / "work", "--force").returncode == 0
    assert not target.exists()
    assert not (tmp_path / "work" / ".pilot.yaml").is_symlink()


# -- what is written, run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of commands that reach a ``pilot up``."""
    home = tmp_path_factory.mktemp("up")
    found = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
    found |= {"PILOT_CONFIG_HOME": str(home / "config"), "PILOT_RATELIMIT_DEFAULT": "off"}
    words = ("up", "--port", "0", "--grpc-port", "0", "--data-dir", str(home / "data"))
    with (home / "up.log").open("w") as log:
        server = subprocess.Popen(
            (sys.executable, "-m", "pilothouse", *words),
            cwd=home,
            env=found,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert server.stdout is not None
    ready = server.stdout.readline()
    address = re.search(r"http=(\S+)", ready)
    assert address, (home / "up.log").read_text()
    saved = tomllib.loads((home / "config" / "contexts.toml").read_text())["contexts"]
    assert address[1] in {context["server"] for context in saved.values()}
    yield found
    server.terminate()
    server.wait(PATIENCE)
    server.stdout.close()
    if holder := lock_holder(home / "data" / "agent"):
        os.kill(holder.pid, 9)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", PROJECTS)
def test_what_it_writes_runs_and_fails_where_the_code_is_wrong(
    kind: str, environment: dict[str, str], tmp_path: Path
) -> None:
    files, job, broken, (right, wrong), step = PROJECTS[kind]
    if shutil.which(TOOLS[job]) is None:
        pytest.skip(f"there is no {TOOLS[job]} here")
    directory = tmp_path / "project"
    directory.mkdir()
    write(directory, files)

    def pilot(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "pilothouse", *arguments)
        return subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=500, check=False
        )

    assert pilot("init").returncode == 0
    assert pilot("pipeline", "lint").returncode == 0
    good = pilot("pipeline", "run", "--name", kind)
    assert good.returncode == 0, good.stdout + good.stderr
    text = (directory / broken).read_text()
    assert right in text
    (directory / broken).write_text(text.replace(right, wrong))
    bad = pilot("pipeline", "run", "--name", kind)
    assert bad.returncode == 5, bad.stdout + bad.stderr
    failed = [line for line in (bad.stdout + bad.stderr).splitlines() if "failed" in line]
    assert any(f"{job}/{step}" in line for line in failed), bad.stdout + bad.stderr
