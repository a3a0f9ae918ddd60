"""Python: a virtual environment in the workspace, or the tool whose lock file is here."""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.cli.starters.job import Job, Step, first_of, text_of

_SOURCES = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "tox.ini")
_TEST_GROUPS = ("test", "tests", "testing", "dev")
_REQUIREMENTS = (
    "requirements.txt",
    "requirements-dev.txt",
    "dev-requirements.txt",
    "requirements_dev.txt",
    "requirements-test.txt",
    "test-requirements.txt",
)
_PIP = ".venv/bin/python -m pip install --quiet"
_VENV = "python3 -m venv .venv"
_MAX_TEST_FILES = 200


@dataclass(frozen=True, slots=True)
class _Project:
    """What the files of the directory say."""

    directory: Path
    pyproject: Mapping[str, Any]

    def has(self, *names: str) -> bool:
        return bool(first_of(self.directory, *names))

    def table(self, *keys: str) -> Mapping[str, Any]:
        """A table of pyproject.toml; empty where there is none."""
        found: Any = self.pyproject
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def locked(self) -> bool:
        """Whether the lock file of a tool says what is installed."""
        return self.has("uv.lock", "poetry.lock", "pdm.lock")

    @property
    def extra(self) -> str:
        """The extra that holds what tests need; "" if there is none."""
        extras = self.table("project", "optional-dependencies")
        return next((name for name in _TEST_GROUPS if name in extras), "")

    @property
    def group(self) -> str:
        """The same for dependency groups."""
        return next((name for name in _TEST_GROUPS if name in self.table("dependency-groups")), "")

    @property
    def installable(self) -> bool:
        """Whether pip can install the directory itself."""
        if self.has("setup.py") or self.table("project") or self.table("build-system"):
            return True
        return "[metadata]" in text_of(self.directory, "setup.cfg")

    def declares(self, package: str) -> bool:
        """Whether the installed dependencies name the package."""
        extras, groups = self.table("project", "optional-dependencies"), self.table("dependency-groups")
        lists = [self.table("project").get("dependencies"), extras.get(self.extra), groups.get(self.group)]
        if self.locked:
            poetry = self.table("tool", "poetry", "group").values()
            lists += [*extras.values(), *groups.values(), *map(str, poetry)]
            lists.append(str(self.table("tool", "poetry", "dependencies")))
        lists += [text_of(self.directory, name) for name in _REQUIREMENTS]
        return re.search(rf"(?<![\w-]){package}(?![\w-])", str(lists)) is not None


def find(directory: Path) -> Job | None:
    """The job of a Python project; None where there is none."""
    source = first_of(directory, *_SOURCES)
    if not source:
        return None
    project = _Project(directory, _pyproject(directory))
    if project.has("tox.ini") and _has_section(directory, "tox.ini", "testenv"):
        steps = [Step("install", f"{_VENV}\n{_PIP} tox"), Step("test", ".venv/bin/tox run -e py")]
        return Job("python", "tox.ini", tuple(steps), setup=1, path=".venv/bin")
    setup, extra = _install(project)
    test, test_needs = _test(project)
    lint, lint_needs = _lint(project)
    missing = [tool for tool in (*test_needs, *lint_needs) if not project.declares(tool)]
    if missing:
        setup += f"\n{extra} {' '.join(missing)}"
    steps = [Step("install", setup), *lint, *test, *_build(project)]
    return Job("python", source, tuple(steps), setup=1, path=".venv/bin")


def _pyproject(directory: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text_of(directory, "pyproject.toml"))
    except tomllib.TOMLDecodeError:
        return {}


def _has_section(directory: Path, name: str, section: str) -> bool:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text_of(directory, name))
    except configparser.Error:
        return False
    return parser.has_section(section)


def _install(project: _Project) -> tuple[str, str]:
    """The commands that install the project, and the one that installs more into its environment."""
    # Tools live in an environment of their own: a locked one holds nothing that its lock file does not name.
    tool = "python3 -m venv venv\nvenv/bin/python -m pip install --quiet "
    into = 'VIRTUAL_ENV="$PWD/.venv"'  # else they would install into their own environment
    if project.has("uv.lock"):
        return (
            f"{tool}uv\nvenv/bin/uv sync --locked --all-extras --all-groups",
            "venv/bin/uv pip install --quiet",
        )
    if project.has("poetry.lock"):
        install = f"{into} venv/bin/poetry install --no-interaction --all-extras"
        return f"{tool}poetry\n{_VENV}\n{install}", _PIP
    if project.has("pdm.lock"):
        return f"{tool}pdm\n{_VENV}\n{into} venv/bin/pdm install --frozen-lockfile -G :all", _PIP
    lines = [_VENV]
    files = [name for name in _REQUIREMENTS if project.has(name)]
    lines += [f"{_PIP} {' '.join(f'-r {name}' for name in files)}"] if files else []
    lines += _own(project) if project.installable else []
    return "\n".join(lines), _PIP


def _own(project: _Project) -> list[str]:
    """The project itself, with what it says its tests need."""
    lines = [f"{_PIP} -e '.[{project.extra}]'" if project.extra else f"{_PIP} -e ."]
    if project.group:  # only pip 25.1 and later know dependency groups
        lines += [f"{_PIP} --upgrade pip", f"{_PIP} --group {project.group}"]
    return lines


def _test(project: _Project) -> tuple[list[Step], list[str]]:
    """The step that runs the tests, and the tools it needs."""
    files = _test_files(project.directory)
    configured = "pytest" in project.table("tool") or project.has(
        "pytest.ini", "conftest.py", "tests/conftest.py"
    )
    if not files and not configured:
        return [Step("compile", ".venv/bin/python -m compileall -q -x '/\\.?venv/' .")], []
    texts = [text_of(file.parent, file.name) for file in files]
    plain = texts and all("unittest" in text and "pytest" not in text for text in texts)
    if plain and not configured and not project.declares("pytest"):
        return [Step("test", f".venv/bin/python -m unittest discover{_where(project.directory, files)}")], []
    return [Step("test", ".venv/bin/python -m pytest")], ["pytest"]


def _test_files(directory: Path) -> list[Path]:
    found: list[Path] = []
    for folder in (directory, directory / "tests", directory / "test"):
        if folder.is_dir():
            patterns = ("test*.py", "*_test.py")
            found += [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not found:
        found = [path for path in directory.glob("tests/**/test*.py") if path.is_file()]
    return found[:_MAX_TEST_FILES]


def _where(directory: Path, files: list[Path]) -> str:
    folder = files[0].parent
    if folder == directory:
        return ""
    top = " -t ." if (folder / "__init__.py").is_file() else ""
    return (
        f" -s {folder.name}{top}"
        if folder.parent == directory
        else f" -s {files[0].relative_to(directory).parts[0]}"
    )


def _lint(project: _Project) -> tuple[list[Step], list[str]]:
    if "ruff" in project.table("tool") or project.has("ruff.toml", ".ruff.toml"):
        return [Step("lint", ".venv/bin/python -m ruff check .")], ["ruff"]
    sections = ("setup.cfg", "tox.ini", ".flake8")
    if any(_has_section(project.directory, name, "flake8") for name in sections):
        return [Step("lint", ".venv/bin/python -m flake8 --extend-exclude .venv,venv")], ["flake8"]
    return [], []


def _build(project: _Project) -> list[Step]:
    if not project.table("build-system") or not project.table("project"):
        return []
    if project.has("uv.lock"):
        return [Step("build", "venv/bin/uv build")]
    if project.has("poetry.lock"):
        return [Step("build", "venv/bin/poetry build")]
    if project.has("pdm.lock"):
        return [Step("build", "venv/bin/pdm build")]
    return [Step("build", f"{_PIP} build\n.venv/bin/python -m build")]
