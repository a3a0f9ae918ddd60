"""Which pipeline a command means, which spec runs, and which run is the last; against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.desk import Desk
from support.server import Server, running

SPEC = "jobs:\n  - name: build\n    steps:\n      - name: say\n        uses: shell\n        args: {command: echo %s}\n"

MakeDesk = Callable[..., Desk]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("cli_pipelines")) as server:
        yield server


@pytest.fixture
def desk(server: Server, tmp_path: Path) -> MakeDesk:
    def make(name: str, *, word: str = "hello", origin: str = "", token: str = "", at: str = "") -> Desk:
        made = Desk(tmp_path / at / name, server.url, token or server.admin)
        made.write(".pilot.yaml", SPEC % word)
        if origin:
            made.commit(origin)
        return made

    return make


def started(desk: Desk, *more: str) -> str:
    """The id of a run without an agent."""
    return desk.good("pipeline", "run", "--detach", "--no-checkout", *more).strip()


def shown(desk: Desk, *words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(desk.good(*words, "-o", "json"))
    return found


def test_two_first_runs_at_once_make_one_pipeline(server: Server, desk: MakeDesk) -> None:
    here = desk("first-runs")
    ready = [here.start("pipeline", "run", "--detach", "--no-checkout") for _ in range(4)]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in ready]
    assert [code for _out, _err, code in ended] == [0] * 4, ended
    found = server.ask("GET", "/pipelines?name=first-runs")["list"]
    assert [(each["name"], each["totalRuns"]) for each in found] == [("first-runs", 4)]
    assert len({out for out, _err, _code in ended}) == 4


def test_a_run_changes_no_saved_spec_unless_it_is_to(desk: MakeDesk) -> None:
    here = desk("saved", word="one")
    first = here.pilot("pipeline", "run", "--detach", "--no-checkout")
    assert "pipeline saved created; .pilot.yaml is its saved spec, which triggers use" in first.stderr
    assert here.good("pipeline", "spec") == SPEC % "one"
    again = here.pilot("pipeline", "run", "--detach", "--no-checkout")
    assert "differs" not in again.stderr
    here.write(".pilot.yaml", SPEC % "two")
    other = here.pilot("pipeline", "run", "--detach", "--no-checkout")
    assert other.returncode == 0, other.stderr
    hint = "this .pilot.yaml differs from the saved spec of pipeline saved, which triggers use; --save replaces it"
    assert other.stderr.splitlines() == [hint]
    assert here.good("pipeline", "spec") == SPEC % "one"
    triggered = here.pilot("pipeline", "trigger", "--detach")
    assert "this .pilot.yaml differs from the saved spec, which is used" in triggered.stderr
    saving = here.pilot("pipeline", "run", "--detach", "--no-checkout", "--save")
    assert (saving.returncode, "differs" in saving.stderr) == (0, False)
    assert here.good("pipeline", "spec", "saved") == SPEC % "two"
    assert "differs" not in here.pilot("pipeline", "trigger", "--detach").stderr


def test_only_the_own_file_of_a_pipeline_is_compared_with_what_is_saved(desk: MakeDesk) -> None:
    """Another file, named for one run, is meant to differ."""
    here = desk("compared")
    (here.directory / "ci").mkdir()
    for name in ("ci/deploy.yaml", "other.yaml"):
        here.write(name, SPEC % name)
    started(here)
    run = ("pipeline", "run", "--detach", "--no-checkout")
    assert here.pilot(*run, "-f", "other.yaml").stderr == ""
    assert "this ./.pilot.yaml" not in here.pilot(*run, "-f", "./.pilot.yaml").stderr
    here.write(".pilot.yaml", SPEC % "new")
    for file in ((), ("-f", ".pilot.yaml"), ("-f", str(here.directory / ".pilot.yaml"))):
        assert (
            "this .pilot.yaml differs from the saved spec of pipeline compared, which"
            in here.pilot(*run, *file).stderr
        )
    assert here.pilot(*run, "-f", "-", stdin=SPEC % "stdin").stderr == ""

    # From now on its own file is another one.
    saving = here.pilot(*run, "-f", "ci/deploy.yaml", "--save")
    assert saving.stderr == "pipeline compared; ci/deploy.yaml is its saved spec, which triggers use\n"
    assert shown(here, "pipeline", "view", "compared")["file"] == "ci/deploy.yaml"
    assert "saved from" in here.good("pipeline", "view", "compared")
    assert here.pilot(*run, "-f", "ci/deploy.yaml").stderr == ""
    assert "differs" not in here.pilot("pipeline", "trigger", "--detach").stderr
    here.write("ci/deploy.yaml", SPEC % "newer")
    assert "this ci/deploy.yaml differs from" in here.pilot(*run, "-f", "ci/deploy.yaml").stderr
    assert "this ci/deploy.yaml differs from" in here.pilot("pipeline", "trigger", "--detach").stderr
    assert here.pilot(*run, "-f", "other.yaml").stderr == ""
    told = (
        "this .pilot.yaml differs from the saved spec of pipeline compared (saved from ci/deploy.yaml), which"
    )
    assert told in here.pilot(*run).stderr
    here.good(*run, "--save")
    assert shown(here, "pipeline", "view", "compared")["file"] == ".pilot.yaml"


NEEDY = (
    "variables: {tag: '1'}\njobs:\n  - name: build\n    steps:\n      - name: say\n        run: echo ${{ variables.tag }}\n"
    '        env: {TOKEN: "${{ secrets.NOT_THERE }}"}\n'
)


@pytest.mark.parametrize(
    ("spec", "words", "said"),
    [
        (
            NEEDY.partition("\n")[2],
            ("--var", "TOKEN=1"),
            '.pilot.yaml:5:14: error: step "say" of job "build" uses variable "tag"',
        ),
        (NEEDY, ("--var", "tag=1", "--var", "gat=2"), 'variable "gat" is given, but'),
        (NEEDY, (), '.pilot.yaml:7:22: error: step "say" of job "build" needs secret "NOT_THERE"'),
        (NEEDY, ("--var", "tga=1"), '"tga" is given, but nothing in the spec uses it; did you mean "tag"?'),
    ],
)
def test_what_a_run_lacks_is_told_before_anything_is_packed_or_made(
    server: Server, desk: MakeDesk, spec: str, words: tuple[str, ...], said: str
) -> None:
    here = desk("lacking")
    here.write(".pilot.yaml", spec)
    here.commit()
    (here.directory / ".git/index").write_bytes(b"none")  # could not be packed
    done = here.pilot("pipeline", "run", "--detach", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert "index" not in done.stderr
    assert server.ask("GET", "/pipelines?name=lacking")["total"] == 0


def test_a_disabled_pipeline_gets_no_files(server: Server, desk: MakeDesk) -> None:
    here = desk("switched-off")
    run_id = started(here)
    pipeline = server.ask("GET", f"/workflow-runs/{run_id}")["pipeline_id"]
    server.ask("PUT", f"/pipelines/{pipeline}", json={"isEnabled": 0})
    done = here.pilot("pipeline", "run", "--detach")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: pipeline switched-off is disabled\n"


def test_trigger_and_view(server: Server, desk: MakeDesk) -> None:
    here = desk("viewed")
    started(here)
    run_id = here.good("pipeline", "trigger", "viewed", "--var", "tag=1.5", "-d").strip()
    assert server.ask("GET", f"/workflow-runs/{run_id}")["variables"] == {"tag": "1.5"}
    native = shown(here, "pipeline", "view", "viewed")
    assert {"id", "name", "project", "spec", "created_at", "total_runs"} <= native.keys()
    assert (native["name"], native["total_runs"], native["enabled"]) == ("viewed", 2, True)
    assert native["status"] in ("pending", "running")
    assert str(native["created_at"]).endswith("Z")
    detached = shown(here, "pipeline", "trigger", "viewed", "--detach")
    assert server.ask("GET", f"/workflow-runs/{detached['id']}")["pipeline_id"] == native["id"]


def test_a_pipeline_without_a_saved_spec_cannot_be_triggered(server: Server, desk: MakeDesk) -> None:
    server.ask("POST", "/pipelines", json={"name": "specless"})
    done = desk("anywhere").pilot("pipeline", "trigger", "specless")
    assert done.returncode == 2
    assert "no saved spec" in done.stderr
    assert "pilot pipeline run --save" in done.stderr


@pytest.mark.parametrize(
    "words", [("pipeline", "view"), ("pipeline", "trigger"), ("run", "list", "--pipeline")]
)
def test_a_name_that_no_pipeline_has(server: Server, desk: MakeDesk, words: tuple[str, ...]) -> None:
    server.pipeline(
        f"storefront-{len(words)}-{words[1]}",
        {"jobs": [{"name": "a", "steps": [{"name": "b", "uses": "shell", "args": {"command": "true"}}]}]},
    )
    done = desk("elsewhere").pilot(*words, f"storefront-{len(words)}-{words[1]}x")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"did you mean storefront-{len(words)}-{words[1]}" in done.stderr


def test_runs_by_the_name_or_id_of_their_pipeline(server: Server, desk: MakeDesk) -> None:
    here = desk("listed")
    mine = started(here)
    pipeline_id = server.ask("GET", f"/workflow-runs/{mine}")["pipeline_id"]
    outside = desk("outside-of-listed")
    for name in ("listed", pipeline_id):
        found = json.loads(outside.good("run", "list", "--pipeline", name, "-o", "json"))
        assert [run["id"] for run in found] == [mine]


def test_last_is_the_newest_run_of_the_pipeline_here(desk: MakeDesk) -> None:
    ours, theirs = desk("ours"), desk("theirs")
    mine, other = started(ours), started(theirs)
    assert shown(ours, "run", "view", "last")["id"] == mine
    assert shown(ours, "run", "view")["id"] == mine, "no id means the same"
    assert shown(ours, "run", "view", "--all")["id"] == other
    listed = ours.pilot("run", "list", "-o", "json")
    assert [run["id"] for run in json.loads(listed.stdout)] == [mine]
    assert "runs of pipeline ours; use --all for all pipelines" in listed.stderr
    assert {mine, other} <= {run["id"] for run in json.loads(ours.good("run", "list", "--all", "-o", "json"))}
    ours.good("run", "cancel")
    assert shown(theirs, "run", "view")["status"] != "cancelled"
    assert shown(ours, "run", "view")["status"] == "cancelled"


@pytest.mark.parametrize(
    "words", [("cancel",), ("cancel", "last"), ("rerun",), ("rerun", "last", "--failed")]
)
def test_what_changes_something_is_refused_where_no_pipeline_is(
    desk: MakeDesk, words: tuple[str, ...]
) -> None:
    run_id = started(desk("-".join(("somewhere", *words)).replace("--", "")))
    nowhere = desk("nowhere")
    done = nowhere.pilot("run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no pipeline belongs to" in done.stderr
    assert "--all" in done.stderr
    assert shown(nowhere, "run", "view", run_id)["status"] != "cancelled"
    looking = nowhere.pilot("run", "view")
    assert looking.returncode == 0
    assert "using the newest run of all pipelines" in looking.stderr


def test_the_pipeline_is_that_of_the_remote(desk: MakeDesk) -> None:
    """Two clones are one pipeline, whatever their directories and the form of the address."""
    one = desk("clone", origin="https://user:secret@git.example/Team/Tool.git")
    two = desk("another-name", origin="https://GIT.example/Team/Tool")
    first, second = started(one), started(two)
    assert {run["id"] for run in json.loads(one.good("run", "list", "-o", "json"))} == {first, second}
    assert shown(one, "run", "view", "last")["id"] == second
    assert shown(one, "pipeline", "view")["repository"] == "https://git.example/Team/Tool"


def test_a_directory_that_gets_a_remote_keeps_its_pipeline(desk: MakeDesk) -> None:
    here = desk("growing")
    first = started(here)
    here.commit("https://git.example/team/growing.git")
    second = started(here)
    assert {run["id"] for run in json.loads(here.good("run", "list", "-o", "json"))} == {first, second}


def test_two_directories_of_one_name_are_two_pipelines(desk: MakeDesk) -> None:
    one, two = desk("twin", at="a"), desk("twin", at="b")
    first = started(one)
    done = two.pilot("pipeline", "run", "--detach", "--no-checkout")
    assert done.returncode == 2
    assert "pipeline twin belongs to another repository" in done.stderr
    second = started(two, "--name", "twin-b")
    assert shown(one, "run", "view")["id"] == first
    assert shown(two, "run", "view")["id"] == second
    third = started(two)  # the name was given once: now it is that of this directory
    assert shown(two, "run", "view")["id"] == third
    assert shown(two, "pipeline", "view")["name"] == "twin-b"


def test_a_moved_directory_is_found_by_name(desk: MakeDesk) -> None:
    old, new = desk("moved", at="old"), desk("moved", at="new")
    first = started(old)
    second = started(new, "--name", "moved")
    assert {run["id"] for run in json.loads(new.good("run", "list", "-o", "json"))} == {first, second}


def test_a_spec_from_another_directory_runs_with_the_files_of_this_one(
    server: Server, desk: MakeDesk
) -> None:
    here, other = desk("worktree"), desk("specs")
    other.write("deploy.yaml", SPEC % "deploy")
    done = here.pilot("pipeline", "run", "--detach", "-f", str(other.directory / "deploy.yaml"))
    assert done.returncode == 0, done.stderr
    assert f"of {here.directory} " in done.stderr
    assert shown(here, "pipeline", "view")["name"] == "worktree"


def test_lists_are_native(server: Server, desk: MakeDesk) -> None:
    here = desk("native")
    started(here)
    server.ask("PUT", "/secrets/KEY", json={"value": "v"})
    server.ask("POST", "/tokens", json={"name": "for scripts"})
    for words in (("pipeline", "list"), ("secret", "list"), ("run", "list"), ("token", "list")):
        listed = json.loads(here.good(*words, "-o", "json"))
        assert listed, words
        for each in listed:
            for key, value in each.items():
                assert key == key.lower(), (words, key)
                if key.endswith("_at"):
                    assert value is None or value.endswith("Z"), (words, key, value)
                assert key != "status" or value is None or value.isalpha(), (words, value)


@pytest.fixture(scope="module")
def values(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(tmp_path_factory.mktemp("desk") / "values", server.url, server.admin)
    made.write(".pilot.yaml", SPEC % "hello")
    started(made)
    return made


@pytest.mark.parametrize(
    "words",
    [
        ("run", "list", "--status", "nonsense"),
        ("run", "list", "--kind", "nonsense"),
        ("run", "list", "--limit", "0"),
        ("run", "list", "--limit", "x"),
        ("run", "list", "--all", "--pipeline", "x"),
        ("run", "view", "abc"),
        ("run", "view", "--progress", "tty"),
        ("run", "watch", "--progress", "tty"),
        ("run", "watch", "--progress", "nonsense"),
        ("run", "logs", "--tail", "-1"),
        ("run", "logs", "--attempt", "0"),
        ("run", "logs", "--since", "yesterday"),
        ("run", "logs", "--since", "10x"),
        ("run", "logs", "--grep", "("),
        ("run", "logs", "-o", "yaml"),
        ("run", "cancel", "--reason", "x" * 501, "--all"),
        ("agent", "list", "--status", "nonsense"),
        ("pipeline", "run", "--name", "!", "--no-checkout"),
        ("pipeline", "run", "--var", "novalue"),
        ("pipeline", "trigger", "--var", "=x"),
        ("token", "create", "x", "--role", "nonsense"),
        ("token", "create", "x", "--expires-in", "soon"),
        ("token", "create", "x" * 1000),
        ("secret", "set", "not a name"),
        ("-o", "xml", "version"),
    ],
)
def test_a_wrong_value_is_a_usage_error(values: Desk, words: tuple[str, ...]) -> None:
    done = values.pilot(*words, stdin="v")
    assert done.returncode == 2, (words, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "Value error" not in done.stderr


def test_a_pipeline_is_created_saved_changed_and_deleted(server: Server, desk: MakeDesk) -> None:
    here = desk("by-hand", word="one")
    here.good("pipeline", "create", "made", "--description", "by hand")
    saved = json.loads(here.good("pipeline", "save", "made", "-m", "first", "-o", "json"))
    assert here.good("pipeline", "spec", "made") == SPEC % "one"
    here.write(".pilot.yaml", SPEC % "two")
    moved = here.pilot("pipeline", "save", "made", "--expect", "0" * 40)
    assert moved.returncode != 0
    assert "SPEC_CONFLICT" in moved.stderr or "changed meanwhile" in moved.stderr
    here.good("pipeline", "save", "made", "--expect", saved["commitSha"])
    assert here.good("pipeline", "spec", "made") == SPEC % "two"
    here.good("pipeline", "edit", "made", "--name", "renamed", "--disable")
    assert here.pilot("pipeline", "trigger", "renamed", "--detach").returncode != 0
    assert here.pilot("pipeline", "edit", "renamed").returncode != 0, "nothing to change"
    here.good("pipeline", "edit", "renamed", "--enable")
    here.good("pipeline", "trigger", "renamed", "--detach")
    paused = here.pilot("pipeline", "pause", "renamed")
    assert paused.stderr == "Pipeline renamed is paused. Resume it with `pilot pipeline resume`.\n"
    assert "PIPELINE_DISABLED" in here.pilot("pipeline", "trigger", "renamed", "--detach").stderr
    assert json.loads(here.good("pipeline", "resume", "renamed", "-o", "json"))["enabled"] is True
    here.good("pipeline", "trigger", "renamed", "--detach")
    here.good("pipeline", "delete", "renamed")
    assert server.ask("GET", "/pipelines?name=renamed")["total"] == 0
    refused = here.pilot("pipeline", "create", "bad", "--repo", "file:///etc")
    assert "PILOT_GIT_ALLOW" in refused.stderr
