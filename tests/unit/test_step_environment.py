"""What of the agent's environment reaches a step, and what of it is the agent's alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pilothouse.agent.executors import environment
from pilothouse.agent.executors.users import StepUser
from support.steps import step_task

PLAIN = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/ann",
    "LANG": "de_DE.UTF-8",
    "LC_TIME": "C",
    "TZ": "Europe/Berlin",
    "TMPDIR": "/scratch",
    "http_proxy": "http://proxy:3128",
    "HTTPS_PROXY": "http://ann:pw@proxy:3128",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "GIT_SSL_CAINFO": "/etc/ca.pem",
    "REQUESTS_CA_BUNDLE": "/etc/ca.pem",
    "PIP_INDEX_URL": "https://mirror.example/simple",
    "JAVA_HOME": "/opt/java",
    "CARGO_HOME": "/opt/cargo",
    "LD_LIBRARY_PATH": "/opt/lib",
    "XDG_CACHE_HOME": "/scratch/cache",
    "TOKENIZERS_PARALLELISM": "false",
    "KEYMAP": "de",
    "AUTHOR": "ann",
    "COMPASS": "north",
    "AWS_REGION": "eu-west-1",
    "DOCKER_HOST": "unix:///run/docker.sock",
    "WORDS": "a: b @ c",
}
PRIVATE = {
    "VIRTUAL_ENV": "/x",
    "VIRTUAL_ENV_PROMPT": "x",
    "PYTHONHOME": "/x",
    "PYTHONPATH": "/x",
    "__PYVENV_LAUNCHER__": "/x",
    "PILOT_TOKEN": "x",
    "PILOT_AGENT_TOKEN": "x",
    "PILOT_SERVER": "x",
    "PILOT_ANYTHING": "x",
    "GIT_DIR": "/elsewhere/.git",
    "GIT_INDEX_FILE": "x",
    "GIT_WORK_TREE": "x",
    "GIT_ASKPASS": "x",
    "GIT_AUTHOR_NAME": "x",
    "SSH_AUTH_SOCK": "x",
    "SSH_AGENT_PID": "1",
    "SSH_CONNECTION": "x",
    "GPG_AGENT_INFO": "x",
    "GPG_TTY": "x",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus",
    "XAUTHORITY": "x",
    "KRB5CCNAME": "x",
    "KUBECONFIG": "x",
    "GITHUB_TOKEN": "x",
    "GH_PAT": "x",
    "NPM_TOKEN": "x",
    "npm_config__auth": "x",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_SESSION_TOKEN": "x",
    "AWS_SHARED_CREDENTIALS_FILE": "x",
    "GOOGLE_APPLICATION_CREDENTIALS": "x",
    "AZURE_CLIENT_SECRET": "x",
    "VAULT_TOKEN": "x",
    "PGPASSWORD": "x",
    "MYSQL_PWD": "x",
    "DB_PASS": "x",
    "SOME_API_KEY": "x",
    "SIGNING_KEY": "x",
    "SONAR_APIKEY": "x",
    "DOCKER_AUTH_CONFIG": "x",
    "CREDENTIALS_DIRECTORY": "x",
    "DATABASE_URL": "postgres://ann:pw@db/shop",
    "PIP_EXTRA_INDEX_URL": "https://ann:pw@mirror.example/simple",
    "SEVERAL": "https://a.example https://ann:pw@b.example",
    "NOTIFY_SOCKET": "x",
    "LISTEN_FDS": "1",
    "JOURNAL_STREAM": "x",
    "PWD": "/somewhere",
    "OLDPWD": "/somewhere",
    "TMUX": "/tmp/tmux-0/default,1,0",
    "TMUX_PANE": "%1",
    "STY": "1.pts",
    "SHLVL": "3",
    "_": "/usr/bin/env",
}


def given(**more: str) -> dict[str, str]:
    return environment.of_the_agent({**PLAIN, **more})


def test_what_is_ordinary_is_passed_on() -> None:
    assert given() == PLAIN


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_private_is_not(name: str) -> None:
    assert given(**{name: PRIVATE[name]}) == PLAIN


def test_what_the_owner_passes_on_is_there() -> None:
    environ = {**PLAIN, **PRIVATE}
    assert environment.of_the_agent(environ, ["NPM_TOKEN", "SSH_AUTH_SOCK", "NOT_SET"]) == {
        **PLAIN,
        "NPM_TOKEN": "x",
        "SSH_AUTH_SOCK": "x",
    }


def test_an_empty_environment_has_a_path_and_a_language() -> None:
    assert environment.of_the_agent({}) == {"PATH": environment.DEFAULT_PATH, "LANG": "C.UTF-8"}


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this process takes for its own virtual environment."""
    home = tmp_path / "x" / ".venv"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(home))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    (tmp_path / "link").symlink_to(home)
    (tmp_path / "bin-link").symlink_to(home / "bin")
    return home


@pytest.mark.parametrize(
    "entry",
    [
        "{home}/bin",
        "{home}/bin/",
        "{home}/../.venv/bin",
        "{home}/./bin//",
        "{tmp}/link/bin",
        "{tmp}/bin-link",
        "{tmp}/bin-link/",
        "x/.venv/bin",
        "./link/bin",
    ],
)
@pytest.mark.parametrize("place", ["first", "last", "twice"])
def test_its_own_programs_are_not_in_the_path(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own = entry.format(home=venv, tmp=tmp_path)
    path = {
        "first": f"{own}:/usr/bin:/bin",
        "last": f"/usr/bin:/bin:{own}",
        "twice": f"{own}:/usr/bin:{own}:/bin",
    }
    assert given(PATH=path[place])["PATH"] == "/usr/bin:/bin"


def test_an_activated_environment_is_left_too_whichever_it_is(venv: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    found = given(PATH=f"{other}/bin:{venv}/bin:/usr/bin", VIRTUAL_ENV=str(other))
    assert found["PATH"] == "/usr/bin"
    assert "VIRTUAL_ENV" not in found


def test_what_lies_beside_it_stays(venv: Path, tmp_path: Path) -> None:
    """As with pipx: `~/.local/bin/pilot` is a link into the environment, and its directory is the user's."""
    local = tmp_path / "local" / "bin"
    local.mkdir(parents=True)
    (local / "pilot").symlink_to(venv / "bin" / "pilot")
    path = f"{local}:{venv}/lib:{venv}/bin/more:/usr/bin"
    assert given(PATH=path)["PATH"] == path


def test_a_path_of_nothing_else_becomes_the_usual_one(venv: Path) -> None:
    assert given(PATH=f"{venv}/bin:")["PATH"] == environment.DEFAULT_PATH


def test_without_an_environment_of_its_own_nothing_is_taken_from_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert given(PATH="/usr/bin:/opt/x/bin")["PATH"] == "/usr/bin:/opt/x/bin"


def test_conda_is_an_environment_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("conda-meta", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    conda = {
        "CONDA_PREFIX": str(tmp_path),
        "CONDA_DEFAULT_ENV": "agents",
        "CONDA_SHLVL": "1",
        "CONDA_EXE": "/opt/conda",
    }
    found = given(PATH=f"{tmp_path}/bin:/usr/bin", **conda)
    assert found == {**PLAIN, "PATH": "/usr/bin", "CONDA_EXE": "/opt/conda"}


def test_another_user_has_a_home_of_their_own() -> None:
    user = StepUser("bob", "/home/bob", 1001, 1001, switched=True, shell="/bin/zsh")
    found = environment.of_the_user(
        {"HOME": "/root", "USER": "root", "MAIL": "x", "XDG_RUNTIME_DIR": "x", "A": "b"}, user
    )
    assert found == {"HOME": "/home/bob", "USER": "bob", "LOGNAME": "bob", "SHELL": "/bin/zsh", "A": "b"}
    own = StepUser("ann", "/home/ann", 1000, 1000)
    assert environment.of_the_user({"HOME": "/elsewhere"}, own)["HOME"] == "/elsewhere"
    assert environment.of_the_user({}, own) == {"HOME": "/home/ann", "USER": "ann", "LOGNAME": "ann"}


def test_what_every_step_finds(tmp_path: Path) -> None:
    task = step_task(
        tmp_path,
        step_run_id="attempt-1",
        pipeline_name="shop",
        branch="main",
        commit_sha="9fceb02",
        tag="v1.0",
        event="push",
        attempt=3,
    )
    assert environment.of_the_step(task, Path("/data/env")) == {
        "CI": "true",
        "PILOT": "true",
        "PILOT_RUN_ID": "run-1",
        "PILOT_JOB": "build",
        "PILOT_STEP": "compile",
        "PILOT_STEP_RUN_ID": "attempt-1",
        "PILOT_ATTEMPT": "3",
        "PILOT_PIPELINE": "shop",
        "PILOT_COMMIT": "9fceb02",
        "PILOT_BRANCH": "main",
        "PILOT_TAG": "v1.0",
        "PILOT_EVENT": "push",
        "PILOT_WORKSPACE": os.path.realpath(tmp_path),
        "PILOT_ENV": "/data/env",
        "PYTHONUNBUFFERED": "1",
        "GIT_CEILING_DIRECTORIES": os.path.realpath(tmp_path.parent),
    }
