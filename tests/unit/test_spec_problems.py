"""Specs that are wrong: every kind of message, at its exact line and column."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from pilothouse.pipelines.spec import SpecError, SpecProblem, parse_spec, spec_from_json


def problems_of(text: str) -> tuple[SpecProblem, ...]:
    with pytest.raises(SpecError) as caught:
        parse_spec(textwrap.dedent(text), file="ci.yaml")
    assert caught.value.code == "SPEC_INVALID"
    return caught.value.problems


def lines_of(text: str) -> list[str]:
    """Every problem as printed, ``line:column: …``, without ``error``."""
    described = [problem.describe("f") for problem in problems_of(text)]
    return [line.removeprefix("f:").replace(": error: ", ": ", 1) for line in described]


# A job around the lines of one step, which begin at line 6, column 9; and around those of a job, line 3, column 5.
STEP = "jobs:\n  - name: j\n    steps:\n      - name: s\n        uses: dummy\n"
JOB = "jobs:\n  - name: j\n"
GOOD = "    steps: [{name: s, uses: dummy}]\n"

YAML_PROBLEMS = {
    "": "1:1: the spec is empty (expected a map with jobs)",
    "# only a remark": "1:1: the spec is empty (expected a map with jobs)",
    "- a": "1:1: the spec must be a map, not a list (expected a map with namespace, version, variables, runtime, ...)",
    "hello": "1:1: the spec must be a map, not a text (expected a map with namespace, version, variables, runtime, ...)",
    "a: b: c": "1:5: this is not YAML: mapping values are not allowed in this context "
    '(expected a text that holds ": " in quotes, or other indentation)',
    "a: {x: ${{ y }}}": "1:9: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}' "
    "(expected a comma or }; within { } a text with ${{ }} goes in quotes)",
    "a:\n\t- b": "2:1: a tab, which YAML does not allow here (expected spaces for indentation)",
    "a:\n  b: 1\n\tc: 2": "3:1: a tab, which YAML does not allow here (expected spaces for indentation)",
    "a: @b": "1:4: this is not YAML: while scanning for the next token, found character that cannot start any "
    "token (expected a text that begins with @, ` or % goes in quotes)",
    'a:\n  "b\nc': "3:2: this is not YAML: while scanning a quoted scalar, found unexpected end of stream, "
    "begun on line 2",
    "a: b\x07": "1:5: a control character, which YAML does not allow",
    "a: \ud800": "1:4: an unpaired surrogate: the text is not valid Unicode",
    "jobs: []\n---\njobs: []": "2:1: a second document begins here (expected one spec in a text)",
    "jobs: *x": "1:7: *x refers to an anchor that is not complete before it",
    "jobs: &x [*x]": "1:11: *x refers to an anchor that is not complete before it",
    "jobs: !!python/name:os.system ''": '1:7: the tag "tag:yaml.org,2002:python/name:os.system" is not allowed '
    "(expected plain YAML)",
    "? [a]\n: b": "1:3: a key must be a text, not a list",
    "[" * 60: "1:51: nested more than 50 levels deep",
}


@pytest.mark.parametrize("text", YAML_PROBLEMS)
def test_text_that_cannot_be_read(text: str) -> None:
    assert lines_of(text) == [YAML_PROBLEMS[text]]


def test_bounds_of_the_text() -> None:
    assert lines_of("#" * 1_048_577) == ["1:1: the spec has 1048577 characters, the bound is 1048576"]
    laughs = "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in ("ab", "bc", "cd", "de", "ef"))
    assert lines_of(f"a: &a {'[' + ','.join('x' * 10) + ']'}\n{laughs}") == [
        "5:29: the spec holds more than 100000 values, with every alias expanded"
    ]


def test_bounds_of_what_is_behind_aliases_and_in_expressions() -> None:
    text = f"meta: {{a: &a {'x' * 20_000}, b: [{', '.join(['*a'] * 60)}]}}\n{JOB}{GOOD}"
    assert lines_of(text)[0].endswith(
        "the spec holds more than 1048576 characters, with every alias expanded"
    )
    for expression, count in (("${{ run.id }}", 5001), (f"${{{{ '{'x' * 4000}' }}}}", 66)):
        script = "".join(f'        - "{expression}"\n' for _ in range(count))
        found = problems_of(
            STEP + "        args:\n          x:\n" + script.replace("        -", "            -")
        )
        assert [problem.message for problem in found] == [
            "the spec holds more than 5000 expressions, or 262144 characters of them, with every alias expanded"
        ]
    many = "".join(f"  v{n}: x\n" for n in range(40_000))
    uses = "".join(f"          A{n}: ${{{{ jobs.w{n}.outputs.x }}}}\n" for n in range(100))
    assert len(problems_of(f"variables:\n{many}{STEP}        env:\n{uses}")) == 50


SPEC_PROBLEMS = {
    "namespace: x\n": "1:1: the spec has no jobs (expected at least one job)",
    "jobs: []\n": "1:7: the spec has no jobs (expected at least one job)",
    "jobs: 5\n": '1:7: jobs must be a list, not a number (expected a list: "- " before each element)',
    "jobs:\n  - build\n": "2:5: jobs[0] must be a map, not a text (expected a map with name, description, env, "
    "concurrency, ...)",
    f"job: 1\n{JOB}{GOOD}": '1:1: unknown key "job"; did you mean "jobs"? '
    "(expected one of namespace, version, variables, runtime, meta, jobs, triggers, checkout, concurrency, notify)",
    f"<<: {{a: 1}}\n{JOB}{GOOD}": "1:1: merge keys (<<) are not supported (expected the keys written "
    "out, or an anchor for the whole value (env: &common {…}, then env: *common); variables that jobs share go into "
    "runtime.env, those that steps share into env of the job)",
    f"{JOB}{GOOD}jobs: []\n": '4:1: the key "jobs" comes twice in this map, first on line 1 '
    "(expected every key once)",
    f"variables: [a]\n{JOB}{GOOD}": "1:12: variables must be a map of texts, not a list (expected NAME: value)",
    f"variables: {{a: [b]}}\n{JOB}{GOOD}": "1:16: a must be a text, not a list (expected a text)",
    f"namespace: {{}}\n{JOB}{GOOD}": "1:12: namespace must be a text, not a map (expected a text)",
    f"meta: x\n{JOB}{GOOD}": "1:7: meta must be a map, not a text (expected name: value)",
    f"triggers: [{{options: {{}}}}]\n{JOB}{GOOD}": "1:12: the trigger has no type "
    "(expected one of manual, cron, event)",
    f"checkout: {{depth: -1}}\n{JOB}{GOOD}": '1:19: depth must be a whole number, not "-1" (expected 0 to 2147483647)',
    f"checkout: {{lfs: 2}}\n{JOB}{GOOD}": '1:17: lfs must be true or false, not "2" (expected true or false)',
    f"checkout: true\n{JOB}{GOOD}": "1:11: checkout must be a map, not true or false "
    "(expected a map with depth, tags, submodules, lfs)",
    f"runtime: {{env: {{=: 1}}}}\n{JOB}{GOOD}": '1:17: "=" cannot be the name of an environment variable '
    "(expected a name without =, spaces and control characters, such as LOG_LEVEL)",
    f"meta: {{a: {{<<: {{b: c}}}}}}\n{JOB}{GOOD}": "1:12: merge keys (<<) are not supported (expected the keys written "
    "out, or an anchor for the whole value (env: &common {…}, then env: *common); variables that jobs share go into "
    "runtime.env, those that steps share into env of the job)",
    f"runtime: {{imag: x}}\n{JOB}{GOOD}": '1:11: unknown key "imag"; did you mean "image"? '
    "(expected one of type, image, env, resources, config)",
}

JOB_PROBLEMS = {
    "    steps: []\n": '3:12: job "j" has no steps (expected at least one step)',
    f"    approval: {{required: maybe}}\n{GOOD}": '3:26: required must be true or false, not "maybe" '
    "(expected true or false)",
    f"    timeout: 30\n{GOOD}": '3:14: timeout: "30" has no unit: did you mean 30s? '
    "(expected a duration such as 30s, 5m or 1h30m)",
    f"    timeout: 0s\n{GOOD}": "3:14: timeout must be longer than 0s "
    "(expected a duration such as 30s, 5m or 1h30m)",
    f"    retry: {{maxAttempts: 101}}\n{GOOD}": '3:26: maxAttempts must be a whole number, not "101" '
    "(expected 1 to 100)",
    f"    retry: {{delay: 5s}}\n{GOOD}": "3:12: maxAttempts must be a whole number (expected 1 to 100)",
    f"    retry: {{max_attempts: 2, maxAttempts: 3}}\n{GOOD}": "3:30: maxAttempts and max_attempts are the same field "
    "(expected only one of them)",
    f"    queueTimeout: 5\n{GOOD}": '3:19: queueTimeout: "5" has no unit: did you mean 5s? '
    "(expected a duration such as 30s, 5m or 1h30m)",
    f"    env: {{x y: 1}}\n{GOOD}": '3:11: "x y" cannot be the name of an environment variable '
    "(expected a name without =, spaces and control characters, such as LOG_LEVEL)",
    f"    onLost: retry\n{GOOD}": '3:13: onLost cannot be "retry"; did you mean "rerun"? (expected one of fail, rerun)',
    f"    dependsOn: j\n{GOOD}": '3:16: dependsOn must be a list, not a text (expected a list: "- " before each '
    "element)",
    f"    dependsOn: [j]\n{GOOD}": '3:17: job "j" depends on itself (expected another job)',
    f"    dependsOn:\n      - k\n{GOOD}": '4:9: there is no job "k" (expected a job of this spec)',
    f"    when: [a]\n{GOOD}": "3:11: when must be a condition, not a list (expected a CEL expression)",
    f"    when: 1 + 1\n{GOOD}": "3:11: in `1 + 1`: when needs a condition that gives true or false "
    '(expected a condition such as variables.deploy == "yes")',
    f"    when: 'jobs.k.outputs.x == 1'\n{GOOD}": '3:12: there is no job "k" (expected one of j)',
    f"    env:\n      A: x ${{{{ nope }}}}\n{GOOD}": '4:12: in `nope`: unknown name "nope"; if it is meant as text, '
    'write "nope" in quotes (expected one of variables, env, run, job, step, jobs, secrets)',
}

STEP_PROBLEMS = {
    "        action: walk\n": '6:17: dummy has no action "walk" (expected one of run)',
    "        agentSelector: {matchExpressions: [{key: a, operator: Is}]}\n": '6:63: operator cannot be "Is" '
    "(expected one of In, NotIn, Exists, DoesNotExist, Gt, Lt)",
    "        agentSelector: {matchExpressions: [{key: a, operator: In}]}\n": "6:44: In needs values "
    "(expected a list with at least one value)",
    "        agentSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}\n": "6:79: Exists takes no "
    "values (expected no values)",
    "        agentSelector: {matchExpressions: [{key: a, operator: Lt, values: [b]}]}\n": "6:75: Lt compares with one "
    'whole number (expected a list with one number, such as ["4"])',
    "        agentSelector: {matchExpressions: [{operator: Exists}]}\n": "6:44: the label expression has no key "
    "(expected the name of a label)",
    "        env: {a=b: z}\n": '6:15: "a=b" cannot be the name of an environment variable '
    "(expected a name without =, spaces and control characters, such as LOG_LEVEL)",
    "        env: {'': z}\n": "6:15: an environment variable needs a name "
    "(expected a name without =, spaces and control characters, such as LOG_LEVEL)",
    "        env: {a b: z}\n": '6:15: "a b" cannot be the name of an environment variable '
    "(expected a name without =, spaces and control characters, such as LOG_LEVEL)",
    '        env: {"a\\0b": z}\n': '6:15: "a\\x00b" cannot be the name of an environment variable '
    "(expected a name without =, spaces and control characters, such as LOG_LEVEL)",
    '        env: {A: "x\\0y"}\n': '6:18: the value of "A" holds a NUL character, which an environment variable cannot '
    "(expected a text without NUL)",
    f"        env: {{A: {'x' * 131_070}}}\n": '6:18: the value of "A" is too long for an environment variable '
    "(expected at most 131071 bytes, the name and = included; or a file)",
    "        env: {<<: {A: b}, C: d}\n": "6:15: merge keys (<<) are not supported (expected the keys written out, or an "
    "anchor for the whole value (env: &common {…}, then env: *common); variables that jobs share go into runtime.env, "
    "those that steps share into env of the job)",
    "      - {name: t, run: a, uses: shell}\n": "6:33: a step has run or uses, not both "
    "(expected only run, which means uses: shell)",
    "      - {name: t, run: a, action: script}\n": "6:35: a step has run or action, not both "
    "(expected only run, which means uses: shell)",
    "      - {name: t, run: a, args: {command: b}}\n": "6:34: run is the command already "
    "(expected no args.command beside run)",
    "      - {name: t, run: a, args: {script: b}}\n": '6:34: shell/command takes no argument "script" '
    "(expected one of command, shell, workingDirectory)",
    "      - {name: t, run: ''}\n": "6:24: the step has no run (expected a command, or several lines of them)",
    "      - {name: t, run: [a, b]}\n": "6:24: run must be a text, not a list (expected a text)",
    "      - {name: t, run: a, args: {workingDirectory: /srv}}\n": "6:34: workingDirectory of shell/command is an absolute "
    "path (expected a directory in the workspace, such as src)",
    "      - {name: t, run: a, args: {working_directory: a/../../b}}\n": "6:34: working_directory of shell/command leads out "
    "of the workspace (expected a directory in the workspace, such as src)",
    "      - {name: t, run: a, args: {workingDirectory: b, working_directory: c}}\n": "6:55: working_directory and "
    "workingDirectory are the same argument (expected only one of them)",
    "        background: maybe\n": '6:21: background must be true or false, not "maybe" (expected true or false)',
    "        args: {x: 'a ${{ 1 + }}'}\n": "6:22: in `1 +`: the expression ends too early (expected a value)",
    "        args: {x: 'a ${{ 1 '}\n": "6:22: in `${{ 1`: ${{ is never closed (expected }} at its end)",
    "        args: {x: \"$${{ ${{ '${{' }} ${{ {1 }}\"}\n": "6:38: in `${{ {1 }}`: ${{ is never closed (expected }} at its end, outside of quotes and braces)",
    '        args: {x: "\\x24{{ nope }}"}\n': '6:19: in `nope`: unknown name "nope"; if it is meant as text, write "nope" in quotes (expected one of variables, env, run, job, step, jobs, secrets)',
    "        args:\n          x:\n            one ${{ 1 }}\n            ${{ nope }}\n": '9:13: in `nope`: unknown name "nope"; if it is meant as text, write "nope" in quotes (expected one of variables, env, run, job, step, jobs, secrets)',
    "        args:\n          x: |\n            one\n            é ${{ 1 }} ${{ jobs.unit-test.x }}\n": "9:24: in "
    "`jobs.unit-test.x`: jobs.unit-test is read as a subtraction, because of the hyphen "
    '(expected jobs["unit-test"])',
    "        args: {x: ['${{ jobs[\"k\"].outputs.x }}']}\n": '6:21: there is no job "k" (expected one of j)',
    "        contineOnError: true\n": '6:9: unknown key "contineOnError"; did you mean "continueOnError"? (expected '
    "one of name, run, uses, action, args, env, continueOnError, timeout, when, agentSelector, runOnAgent, onLost, retry, background)",
    "      - {name: s, uses: dummy}\n": '6:16: two steps of job "j" are named "s" (expected a name of its own)',
    "      - {uses: dummy}\n": "6:9: the step has no name (expected up to 63 letters, digits, spaces, _ . or -, the "
    "first a letter or a digit)",
    "      - {name: -x, uses: dummy}\n": '6:16: the name "-x" is not allowed (expected up to 63 letters, digits, '
    "spaces, _ . or -, the first a letter or a digit)",
    "      - {name: t}\n": "6:9: the step has neither run nor uses (expected run: a command; or uses: "
    "one of approval, artifacts, dummy, http, pipeline, reports, scm, shell, window)",
    "      - {name: t, uses: shel}\n": '6:25: unknown action "shel"; did you mean "shell"? '
    "(expected one of approval, artifacts, dummy, http, pipeline, reports, scm, shell, window)",
    "      - {name: t, uses: shell}\n": "6:9: the step has no action, and its arguments do not tell which "
    "(expected action: command or script)",
    "      - {name: t, uses: shell, args: {command: a, script: b}}\n": "6:38: the step has no action, and command and "
    "script could both be meant (expected action: command or script)",
    "      - {name: t, uses: shell, action: command, args: {}}\n": "6:55: shell/command needs args.command "
    "(expected a text)",
    "      - {name: t, uses: shell, args: {command: {a: b}}}\n": "6:39: command of shell/command has the wrong type "
    "(expected a text)",
    "      - {name: t, uses: shell, args: {command: a, shel: b}}\n": '6:51: shell/command takes no argument "shel"; '
    'did you mean "shell"? (expected one of command, shell, workingDirectory)',
    "      - {name: t, uses: shell, args: [a]}\n": "6:38: args must be a map, not a list (expected name: value)",
}


@pytest.mark.parametrize("text", SPEC_PROBLEMS)
def test_problems_of_the_spec(text: str) -> None:
    assert lines_of(text) == [SPEC_PROBLEMS[text]]


@pytest.mark.parametrize("text", JOB_PROBLEMS)
def test_problems_of_a_job(text: str) -> None:
    assert lines_of(JOB + text) == [JOB_PROBLEMS[text]]


@pytest.mark.parametrize("text", STEP_PROBLEMS)
def test_problems_of_a_step(text: str) -> None:
    assert lines_of(STEP + text) == [STEP_PROBLEMS[text]]


def test_names_of_jobs() -> None:
    text = "jobs:\n" + "".join(f"  - name: {name}\n{GOOD}" for name in ("a", "'a b'", "a", "''"))
    expected = "expected up to 63 letters, digits, _ . or -, the first a letter or a digit"
    assert lines_of(text) == [
        f'4:11: the name "a b" is not allowed ({expected})',
        '6:11: two jobs are named "a" (expected a name of its own)',
        f"8:11: the job has no name ({expected})",
    ]


def test_a_circle_of_jobs_is_named() -> None:
    text = """\
        jobs:
          - {name: a, steps: [{name: s, uses: dummy}], dependsOn: [c]}
          - {name: b, steps: [{name: s, uses: dummy}], dependsOn: [a]}
          - name: c
            steps: [{name: s, uses: dummy}]
            dependsOn:
              - b
          - {name: d, steps: [{name: s, uses: dummy}], dependsOn: [c]}
        """
    (problem,) = problems_of(text)
    assert problem.message == "jobs depend on each other in a cycle: a -> c -> b -> a"
    assert (problem.line, problem.column, problem.path) == (3, 60, "jobs[1].dependsOn[0]")


def test_a_long_chain_of_jobs_is_not_a_cycle() -> None:
    jobs = [{"name": f"j{n}", "steps": [{"name": "s", "uses": "dummy"}]} for n in range(1000)]
    for n in range(1, 1000):
        jobs[n]["dependsOn"] = [f"j{n - 1}"]
    assert len(spec_from_json({"jobs": jobs}).spec.jobs) == 1000
    jobs[0]["dependsOn"] = ["j999"]
    with pytest.raises(
        SpecError, match=r"cycle: j0 -> j999 -> j998 -> j997 -> j996 -> j995 -> \.\.\. -> j4 "
    ):
        spec_from_json({"jobs": jobs})
    with pytest.raises(SpecError, match="the spec has 1001 jobs"):
        spec_from_json({"jobs": [*jobs[1:], *({**job, "name": f"x{n}"} for n, job in enumerate(jobs[:2]))]})


def test_all_problems_come_at_once_in_order_and_bounded() -> None:
    text = f"a: 1\n{JOB}    b: 1\n{GOOD}c: 1\n"
    assert [(p.line, p.path) for p in problems_of(text)] == [(1, "a"), (4, "jobs[0].b"), (6, "c")]
    assert len(problems_of("".join(f"k{n}: 1\n" for n in range(500)))) == 50


def test_the_error_reads_like_a_compiler() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(f"a: 1\n{JOB}    timeout: 5x\n{GOOD}", file="ci.yaml")
    assert str(caught.value).splitlines() == [
        'ci.yaml:1:1: error: unknown key "a" '
        "(expected one of namespace, version, variables, runtime, meta, jobs, triggers, checkout, concurrency, notify)",
        'ci.yaml:4:14: error: timeout: "5x" is not a duration (expected a duration such as 30s, 5m or 1h30m)',
    ]


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("jobs[0].steps[0].timeout", {"timeout": "x"}),
        ("jobs[0].steps[0].args.a[1].b", {"args": {"a": [1, {"b": "${{ }}"}]}}),
        ('jobs[0].steps[0].env["a.b"]', {"env": {"a.b": []}}),
        ("jobs[0].steps[0].agentSelector.matchLabels", {"agent_selector": {"match_labels": 1}}),
    ],
)
def test_objects_have_paths_instead_of_lines(path: str, step: dict[str, Any]) -> None:
    message = {"jobs": [{"name": "j", "steps": [{"name": "s", "uses": "dummy", **step}]}]}
    with pytest.raises(SpecError) as caught:
        spec_from_json(message)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.path) == (0, 0, path)
    assert str(caught.value).startswith(f"{path}: error: ")


def test_objects_are_bounded_too() -> None:
    deep: Any = {}
    for _ in range(2000):
        deep = {"a": deep}
    for hostile in (deep, {"a": [0] * 100_001}, {"a": "x" * 1_048_577}, {"a": 10**5000}):
        with pytest.raises(SpecError, match="the spec is too big"):
            spec_from_json({"meta": hostile})
