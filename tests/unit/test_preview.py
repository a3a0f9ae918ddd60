"""What a plan says of jobs and steps: run, skip and why, or known only at run time; and how that is shown."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.cli.planview import lines
from pilothouse.pipelines.preview import Circumstances, Preview, SpecError, document, preview
from pilothouse.pipelines.spec import parse_spec

SPEC = """
variables: {tag: "1.4", deploy: "yes"}
concurrency: {group: "shop-${{ run.branch }}", cancelInProgress: true}
triggers: [{type: manual, options: {inputs: [{name: where, type: choice, choices: [here, there], default: here}]}}]
jobs:
  - name: build
    timeout: 10m
    retry: {maxAttempts: 2, delay: 30s}
    steps:
      - name: compile
        run: make
        agentSelector: {matchLabels: {os: linux}, matchExpressions: [{key: gpu, operator: Exists}]}
      - {name: publish, run: make, env: {TOKEN: "${{ secrets.TOKEN }}"}, when: variables.where == "there"}
      - {name: report, run: echo, when: always()}
      - {name: broken, run: echo, when: env.NOT_THERE == "x", continueOnError: true}
  - name: deploy
    dependsOn: [build]
    when: variables.deploy == "yes" && run.branch == "main"
    steps:
      - {name: ask, uses: approval, timeout: 2d, args: {message: "Deploy?", roles: [operator]}}
      - {name: ship, run: ./ship, when: jobs.build.outputs.digest != ""}
      - {name: roll-back, run: ./back, when: failure()}
  - {name: after, dependsOn: [deploy], steps: [{name: s, run: make}]}
  - {name: maybe, dependsOn: [build], when: jobs.build.outputs.x == "1", steps: [{name: s, run: make}]}
  - {name: more, dependsOn: [maybe], steps: [{name: s, run: make}]}
  - {name: in-any-case, dependsOn: [maybe], when: always(), steps: [{name: s, run: make}]}
  - name: mend
    dependsOn: [build]
    when: failure() || cancelled()
    steps: [{name: s, run: make, agentSelector: {matchLabels: {repair: "yes"}}}]
"""


def planned(spec: str = SPEC, **given: Any) -> Preview:
    return preview(parse_spec(spec).spec, Circumstances("shop", **given))


def shown(found: Preview) -> list[str]:
    run = {
        "pipeline": "shop",
        "file": ".pilot.yaml",
        "trigger": "manual",
        "branch": "main",
        "tag": "",
        "commit": "",
    }
    return [line.plain for line in lines(run | document(found))]


def test_jobs_and_steps_run_or_not_for_a_reason() -> None:
    found = planned(branch="main")
    said = {name: (verdict.word, verdict.reason) for name, verdict in found.jobs.items()}
    assert said == {
        "build": ("run", ""),
        "deploy": ("run", ""),
        "after": ("run", ""),
        "maybe": ("depends", "jobs.build"),
        "more": ("depends", "whether maybe runs"),
        "in-any-case": ("run", ""),
        "mend": ("skip", "when is false: failure() || cancelled()"),
    }
    steps = {f"{job}/{step}": (v.word, v.after) for (job, step), v in found.steps.items()}
    assert steps["build/publish"] == ("skip", ())
    assert steps["build/report"] == ("run", ("success", "failure", "cancelled"))
    assert steps["build/broken"][0] == "fail"
    assert steps["deploy/ask"] == ("run", ("success",))
    assert steps["deploy/ship"][0] == "depends"
    assert steps["deploy/roll-back"] == ("skip", ("failure",))
    assert found.jobs["mend"].after == ("failure", "cancelled")
    assert steps["mend/s"][0] == "run"  # shown, although it only runs after a failure
    assert (found.group, found.secrets) == ("shop-main", ["TOKEN"])


def test_variables_and_the_branch_decide() -> None:
    found = planned(branch="dev", variables={"where": "there"})
    assert found.steps["build", "publish"].word == "run"
    assert (found.jobs["deploy"].word, found.jobs["deploy"].after) == ("skip", ())
    assert (found.jobs["after"].word, found.jobs["after"].reason) == ("skip", "deploy was skipped")
    assert ("deploy", "ask") not in found.steps
    steps = {each["name"]: each for job in document(found)["jobs"] for each in job["steps"]}
    assert (steps["ask"]["plan"], steps["ask"]["reason"]) == ("skip", "its job does not start")


def test_the_event_decides() -> None:
    spec = "jobs: [{name: j, when: run.trigger == 'cron', steps: [{name: s, run: make}]}]"
    assert planned(spec).jobs["j"].word == "skip"
    assert planned(spec, event="cron").jobs["j"].word == "run"


def test_a_source_is_shown_and_its_secret_is_needed() -> None:
    auth = 'auth: {token: "${{ secrets.FORGE }}"}'
    source = f"source: {{repo: 'https://git.example/tools.git', branch: main, {auth}}}"
    found = planned(f"jobs: [{{name: j, {source}, steps: [{{name: s, run: make}}]}}]")
    assert found.secrets == ["FORGE"]
    assert shown(found)[-2] == "  ● j  files of https://git.example/tools.git at main"


def test_what_the_start_would_refuse_is_refused() -> None:
    for given, said in (({"where": "away"}, "is one of here, there"), ({"tag": "2"}, "there is no input")):
        with pytest.raises(SpecError, match=said):
            planned(variables=given)
    with pytest.raises(SpecError, match="which has no value"):
        planned('jobs: [{name: j, steps: [{name: s, run: "${{ variables.no }}"}]}]')


def test_steps_that_this_machine_cannot_run() -> None:
    labels = {"os": "linux", "local": "true"}
    assert list(planned(branch="main").unmatched(labels)) == [
        ("build", "compile", "gpu Exists"),
        ("mend", "s", "repair=yes"),
    ]
    assert list(planned().unmatched({**labels, "gpu": "", "repair": "yes"})) == []


def test_a_plan_is_shown_by_level() -> None:
    assert shown(planned(branch="main")) == [
        "shop (.pilot.yaml): 7 jobs, 12 steps",
        "  started by: manual, branch main",
        "  variables: tag=1.4 deploy=yes where=here",
        "  needs secrets: TOKEN",
        "  concurrency group shop-main: cancels the run in progress",
        "level 1",
        "  ● build  timeout 10m; at most 2 tries, 30s apart",
        "    ● compile  shell/command; agent os=linux, gpu Exists",
        '    – publish  skipped: when is false: variables.where == "there"; shell/command',
        "    ● report  always; shell/command",
        '    ✗ broken  fails: when: there is no key "NOT_THERE"; test with has(...) if it may be missing; '
        "shell/command; may fail",
        "level 2",
        "  ● deploy  after build",
        '    ● ask  gate: approval (message=Deploy?, roles=["operator"]); timeout 48h',
        '    ? ship  decided at run time (jobs.build): jobs.build.outputs.digest != ""; shell/command',
        "    – roll-back  only after a failure: failure(); shell/command",
        '  ? maybe  decided at run time (jobs.build): jobs.build.outputs.x == "1"; after build',
        "    ● s  shell/command",
        "  – mend  only after a failure or cancel: failure() || cancelled(); after build",
        "    ● s  shell/command; agent repair=yes",
        "level 3",
        "  ● after  after deploy",
        "    ● s  shell/command",
        "  ? more  decided at run time: whether maybe runs; after maybe",
        "    ● s  shell/command",
        "  ● in-any-case  always; after maybe",
        "    ● s  shell/command",
    ]


def test_the_largest_graph_is_planned_quickly() -> None:
    """No work per pair of steps: 5,000 of them with conditions."""
    steps = ", ".join(f"{{name: s{at}, run: x, when: variables.a == '1'}}" for at in range(250))
    jobs = "\n".join(
        f"  - {{name: j{at}, {f'dependsOn: [j{at - 1}], ' if at else ''}steps: [{steps}]}}"
        for at in range(20)
    )
    found = planned(f"variables: {{a: '1'}}\njobs:\n{jobs}\n")
    assert len(found.levels) == 20
    assert {verdict.word for verdict in found.steps.values()} == {"run"}
    assert len(found.steps) == 5000
