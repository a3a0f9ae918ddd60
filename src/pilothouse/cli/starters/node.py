"""Node: the package manager whose lock file is here, and the scripts of package.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pilothouse.cli.starters.job import Job, Step, first_of, text_of

_SCRIPTS = ("lint", "typecheck", "test", "build")
_NO_TEST = "no test specified"  # what `npm init` writes


def find(directory: Path) -> Job | None:
    """The job of a package; None where there is none, or nothing to do in it."""
    if not first_of(directory, "package.json"):
        return None
    package = _package(directory)
    install, run = _manager(directory, package)
    scripts = package.get("scripts")
    known = scripts if isinstance(scripts, dict) else {}
    steps = [
        Step(name, f"{run} {name}")
        for name in _SCRIPTS
        if name in known and not (name == "test" and _NO_TEST in str(known[name]))
    ]
    if not any(step.name == "test" for step in steps):
        steps += _without_test(directory, package)
    setup = [Step("install", install)] if install else []
    if not steps and not setup:
        return None
    return Job("node", "package.json", (*setup, *steps), setup=len(setup), path="node_modules/.bin")


def _package(directory: Path) -> dict[str, Any]:
    try:
        package = json.loads(text_of(directory, "package.json").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return {}
    return package if isinstance(package, dict) else {}


def _manager(directory: Path, package: dict[str, Any]) -> tuple[str, str]:
    """The command that installs, "" where nothing is to be installed; and the one that runs a script."""
    if first_of(directory, "pnpm-lock.yaml"):
        return "npx --yes pnpm install --frozen-lockfile", "npx --yes pnpm run"
    if first_of(directory, "yarn.lock"):
        if first_of(directory, ".yarnrc.yml"):
            return "corepack yarn install --immutable", "corepack yarn run"
        return "npx --yes yarn@1 install --frozen-lockfile", "npx --yes yarn@1 run"
    if first_of(directory, "package-lock.json", "npm-shrinkwrap.json"):
        return "npm ci", "npm run"
    needs = any(package.get(key) for key in ("dependencies", "devDependencies", "workspaces"))
    return "npm install" if needs else "", "npm run"


def _without_test(directory: Path, package: dict[str, Any]) -> list[Step]:
    """Where no script tests: Node's own test runner, or at least that the main file is JavaScript."""
    if any(directory.glob("test/*.test.*js")) or any(directory.glob("*.test.*js")):
        return [Step("test", "node --test")]
    if first_of(directory, "index.js") and package.get("main", "index.js") in ("index.js", "./index.js"):
        return [Step("check", "node --check index.js")]
    return []
