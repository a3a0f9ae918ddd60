"""``pilot pipeline exec``: runs the local spec on this machine, without a server of the user's."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.errors import UsageError
from pilothouse.cli.live import Progress, ProgressOption, require_terminal
from pilothouse.cli.output import Output
from pilothouse.cli.plan import OneFile, planned
from pilothouse.cli.session import Session, command
from pilothouse.cli.spec_file import find_spec
from pilothouse.cli.variables import Variables, variables_of

_KEPT = (
    "PILOT_CONFIG_HOME",
    "PILOT_DEBUG",
    "PILOT_GIT_ALLOW",
    "PILOT_GIT_CA",
    "PILOT_GIT_KNOWN_HOSTS",
    "PILOT_MAX_CHECKOUT",
)
"""Variables that also hold for this command. Other ``PILOT_…`` are settings of the user's servers."""


def exec_here(
    session: Session,
    file: OneFile = None,
    var: Variables = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=env:VAR]",
            help="Secret with the value of an environment variable (the same name), or of a prompt; repeatable.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K=V", help="Label of this machine for agent selectors (KEY=VALUE); repeatable."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve all gates without asking.")] = False,
    no_checkout: Annotated[
        bool, typer.Option("--no-checkout", help="Start with an empty workspace.")
    ] = False,
    progress: ProgressOption = Progress.AUTO,
) -> None:
    """Run the local spec and files on this machine, without a server. Ctrl-C cancels the run."""
    from pilothouse.agent.settings import architecture, os_name
    from pilothouse.cli.agent import labels_of
    from pilothouse.cli.here import place
    from pilothouse.cli.local_run import LABELS, LocalRun, Wishes
    from pilothouse.cli.starting import Order

    require_terminal(progress)
    repository = place(Path.cwd())
    spec = find_spec(file, Path.cwd(), repository.root)
    variables = variables_of(var or [])
    labels = {"os": os_name(), "arch": architecture(), **LABELS, **labels_of(label or [])}
    plan = planned(session.out, spec, repository, variables, warn=False)
    _check_labels(plan.unmatched(labels))
    _tell_limits(session.out, plan.starting)
    secrets = secrets_of(secret or [], plan.secrets)
    order = Order(
        spec=spec,
        repository=repository,
        name="",
        project="",
        variables=variables,
        send_checkout=not no_checkout,
        save=False,
        chosen=True,
        progress=progress,
        transient=True,
    )
    for name in [name for name in os.environ if name.startswith("PILOT_") and name not in _KEPT]:
        del os.environ[name]
    raise typer.Exit(LocalRun(session, order, Wishes(secrets, labels, yes=yes)).run())


def secrets_of(given: list[str], needed: Collection[str]) -> dict[str, str]:
    """The values of the ``--secret`` options, which are removed from the environment: steps inherit that.

    Raises UsageError, also for needed secrets that are not given; no message contains a value.
    """
    found = {}
    used = set()
    for each in given:
        name, equals, source = each.partition("=")
        if not name or (equals and not source.startswith("env:")):
            raise UsageError(
                "--secret: expected NAME or NAME=env:VARIABLE",
                "values are never arguments: others could read them",
            )
        variable = source.removeprefix("env:") or name
        used.add(variable)
        found[name] = os.environ.get(variable) or _asked(name, variable, asked=not equals)
    missing = [name for name in needed if name not in found]
    if missing:
        options = " ".join(f"--secret {name}" for name in missing)
        raise UsageError(f"the spec needs secrets: {', '.join(missing)}", f"give them with {options}")
    for variable in used:
        os.environ.pop(variable, None)
    return found


def _asked(name: str, variable: str, *, asked: bool) -> str:
    from pilothouse.cli.login import read_secret

    if not asked or not sys.stdin.isatty():
        raise UsageError(f"--secret {name}: the environment variable {variable} is not set, or empty")
    value = read_secret(f"Value of {name}", from_stdin=False)
    if not value:
        raise UsageError("a secret must not be empty")
    return value


def _check_labels(unmatched: Iterable[tuple[str, str, str]]) -> None:
    """Raise UsageError for steps that would wait for another agent for ever: job, step, what it requires."""
    for job, step, unmet in unmatched:
        raise UsageError(
            f"step {job}/{step} needs an agent with {unmet}, which this machine is not labelled with",
            "add labels with --label KEY=VALUE, or run it on a server with `pilot pipeline run`",
        )


def _tell_limits(out: Output, starting: Iterable[str]) -> None:
    """Warn of what cannot work here. ``starting``: the steps that start other pipelines."""
    for step in starting:
        out.say(
            f"warning: step {step} starts another pipeline, which only a server has: it will fail here",
            "yellow",
        )


def add_to(pipelines: typer.Typer) -> None:
    """Add the command to ``pilot pipeline``."""
    examples = (
        "pilot pipeline exec",
        "pilot pipeline exec --var tag=1.5 --secret REGISTRY_TOKEN",
        "pilot pipeline exec ci/deploy.yaml --secret TOKEN=env:MY_TOKEN --yes",
    )
    command(pipelines, "exec", options=False, examples=examples)(exec_here)
