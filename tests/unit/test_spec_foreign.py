"""Keywords of other CI products are answered with the equivalent keyword, wherever they are used."""

from __future__ import annotations

import pytest

from pilothouse.pipelines.spec import SpecError, parse_spec
from pilothouse.pipelines.spec import foreign_words as words
from pilothouse.pipelines.spec.messages import MESSAGES

STEP = "jobs:\n  - name: j\n    steps:\n      - name: s\n        run: make\n        {}\n"
JOB = "jobs:\n  - name: j\n    steps: [{{name: s, run: make}}]\n    {}\n"
SPEC = "jobs: [{{name: j, steps: [{{name: s, run: make}}]}}]\n{}\n"


def said(text: str) -> list[str]:
    """Every problem as ``line:column: message (expected …)``."""
    with pytest.raises(SpecError) as caught:
        parse_spec(text)
    return [p.describe("f").removeprefix("f:").replace(" error: ", " ") for p in caught.value.problems]


def warned(text: str) -> list[str]:
    return [warning.describe("f").removeprefix("f:") for warning in parse_spec(text).warnings]


KEYS = {
    (JOB, "needs: build"): '"needs" is a key of GitHub Actions and GitLab CI: write dependsOn: [build]',
    (JOB, "needs: [a, b]"): '"needs" is a key of GitHub Actions and GitLab CI: write dependsOn: [a, b]',
    (JOB, "needs: [{job: a}]"): '"needs" is a key of GitHub Actions and GitLab CI: write dependsOn: [build]',
    (JOB, "requires: [a]"): '"requires" is a key of CircleCI: write dependsOn: [a]',
    (JOB, "depends: a"): '"depends" is a key of other products: write dependsOn: [a]',
    (JOB, "if: failure()"): '"if" is a key of GitHub Actions: write when: failure()',
    (JOB, "timeout-minutes: 20"): '"timeout-minutes" is a key of GitHub Actions: write timeout: 20m',
    (JOB, "script: [make, make test]"): '"script" is a key of GitLab CI and Woodpecker: '
    "write steps: [{name: build, run: make}]",
    (JOB, "script: make all"): '"script" is a key of GitLab CI and Woodpecker: '
    "write steps: [{name: build, run: make all}]",
    (JOB, "agentSelector: {}"): '"agentSelector" belongs to the step, not to the job',
    (JOB, "continueOnError: true"): '"continueOnError" belongs to the step, not to the job',
    (STEP, "if: always()"): '"if" is a key of GitHub Actions: write when: always()',
    (STEP, "if: ${{ github.ref == 'x' }}"): '"if" is a key of GitHub Actions: write when: success()',
    (STEP, "with: {a: b}"): '"with" is a key of GitHub Actions: the arguments of an action are its args: '
    "write args: {…}",
    (STEP, "working-directory: docs"): '"working-directory" is a key of GitHub Actions: '
    "write args: {workingDirectory: docs}",
    (
        STEP,
        "continue-on-error: true",
    ): '"continue-on-error" is a key of GitHub Actions: write continueOnError: true',
    (
        STEP,
        "commands: [make]",
    ): '"commands" is a key of GitLab CI, Woodpecker and Azure Pipelines: write run: make',
    (STEP, "dependsOn: [a]"): '"dependsOn" is a key of GitHub Actions, GitLab CI and Woodpecker: '
    "steps run one after another; dependsOn is for jobs",
    (
        SPEC,
        "on: push",
    ): '"on" is a key of GitHub Actions: runs are started with `pilot pipeline run` or through the '
    "API; nothing here starts them by itself",
    (SPEC, "timeout: 5m"): '"timeout" belongs to the job, not to the spec',
    (SPEC, "dependsOn: [a]"): '"dependsOn" belongs to the job, not to the spec',
    (SPEC, "test: {script: make, stage: x}"): '"test" looks like a job of GitLab CI: '
    "write jobs: [{name: test, steps: …}]",
}


@pytest.mark.parametrize(("frame", "key"), KEYS)
def test_keys_of_other_products(frame: str, key: str) -> None:
    text = frame.format(key)
    line = text[: text.index(key)].count("\n") + 1
    column = len(text[: text.index(key)].rpartition("\n")[2]) + 1
    assert said(text) == [f"{line}:{column}: {KEYS[frame, key]}"]


# Words that issue trackers of comparable tools see most; each must be answered, wherever it is tried.
COMMON = {
    JOB: "if needs image matrix strategy tags stage script runs-on with environment services container only rules "
    "before_script after_script artifacts cache extends allow_failure continue-on-error timeout-minutes "
    "working-directory secrets permissions commands depends agents label parallelism uses outputs variables",
    STEP: "if needs image matrix with environment services container secrets commands script command id shell "
    "working-directory continue-on-error timeout-minutes allow_failure cache artifacts label depends_on",
    SPEC: "on stages stage image services env before_script after_script workflow workflows pipeline steps agents "
    "permissions defaults cache include name script trigger",
}


@pytest.mark.parametrize(
    ("frame", "word"), [(frame, word) for frame, all in COMMON.items() for word in all.split()]
)
def test_common_words_are_answered(frame: str, word: str) -> None:
    (problem,) = said(frame.format(f"{word}: x"))
    assert f'"{word}" is a key of ' in problem
    assert "did you mean" not in problem


def test_no_word_of_ours_is_called_foreign() -> None:
    for name, known in words.KEYS.items():
        assert not known.keys() & MESSAGES[name].spellings.keys(), name


def test_our_own_words_misspelt_are_still_corrected() -> None:
    assert said(JOB.format("dependson: [a]"))[0].startswith(
        '4:5: unknown key "dependson"; did you mean "dependsOn"?'
    )
    assert said(STEP.format("tiemout: 5m"))[0].startswith(
        '6:9: unknown key "tiemout"; did you mean "timeout"?'
    )


FORMS = {
    "jobs:\n  build:\n    steps: []\n": '2:3: jobs must be a list, not a map (expected a list: "- name: build" in '
    'place of "build:")',
    "jobs:\n- name: j\n  steps:\n  - npm test\n": "4:5: steps[0] must be a map, not a text (expected a map such as "
    "{name: test, run: npm test})",
    "jobs:\n- name: j\n  steps: [checkout]\n": "3:11: steps[0] must be a map, not a text (expected it left out: the "
    "files are in the workspace before the first step)",
    "jobs:\n- name: j\n  steps:\n  - {name: s, uses: actions/checkout@v4}\n": '4:21: "actions/checkout@v4" is an action '
    "of another product: leave it out: the files are in the workspace before the first step",
    "jobs:\n- name: j\n  steps:\n  - {name: s, uses: actions/setup-node@v4}\n": '4:21: "actions/setup-node@v4" is an '
    "action of another product: install the tool on the agent, or in a step: run: …",
    "jobs:\n- name: j\n  steps:\n  - {name: s, uses: me/mine@v1}\n": '4:21: "me/mine@v1" is an action of another '
    "product: actions of GitHub do not run here: write what it does as run: …",
    "jobs:\n- name: j\n  when: manual\n  steps: [{name: s, run: x}]\n": "3:9: in `manual`: this is how other products "
    "write it (expected no when: runs are started by hand)",
    "jobs:\n- name: j\n  steps: [{name: s, run: x, when: on_failure}]\n": "3:35: in `on_failure`: this is how other "
    "products write it (expected failure())",
    "jobs:\n- name: j\n  steps: [{name: s, run: 'x ${{ github.sha }}'}]\n": "3:29: in `github.sha`: unknown name "
    '"github", which other products have (expected run.commit)',
    "jobs:\n- name: j\n  steps:\n  - name: s\n    run: |\n      echo\n      x ${{ matrix.os }}\n": "7:9: in `matrix.os`: "
    'unknown name "matrix", which other products have (expected a job or step of its own for each combination: '
    "there is no matrix)",
    "jobs:\n- name: j\n  when: needs.a.result == 'x'\n  steps: [{name: s, run: x}]\n": "3:9: in `needs.a.result == 'x'`: "
    'unknown name "needs", which other products have (expected jobs.NAME.outputs)',
}


@pytest.mark.parametrize("text", FORMS)
def test_forms_of_other_products(text: str) -> None:
    assert FORMS[text] in said(text)


def test_variables_that_nothing_sets_are_warned_of() -> None:
    text = "jobs:\n- name: j\n  steps:\n  - name: s\n    run: |\n      echo ${{CI_COMMIT_SHA:-x}} $GITHUB_TOKEN\n"
    text = text.replace("${{", "${").replace("}}", "}")
    assert warned(text) == [
        "5:10: warning: $CI_COMMIT_SHA is a variable of another product, and nothing sets it here (expected PILOT_COMMIT)",
        "5:10: warning: $GITHUB_TOKEN is a variable of another product, and nothing sets it here (expected an env of "
        "yours that sets it)",
    ]
    script = text.replace("run: |\n      ", "uses: shell\n    args:\n      script: |\n        ")
    assert [line.partition(":")[0] for line in warned(script)] == ["7", "7"]


@pytest.mark.parametrize(
    "step",
    [
        "{name: s, run: echo $CI_COMMIT_SHA, env: {CI_COMMIT_SHA: x}}",
        "{name: s, run: CI_COMMIT_SHA=5; echo $CI_COMMIT_SHA}",
        "{name: s, run: read -r CI_COMMIT_SHA; echo $CI_COMMIT_SHA}",
        "{name: s, run: echo CI_COMMIT_SHA $CI_COMMIT_SHAPE $CI}",
        "{name: s, uses: dummy, args: {text: $CI_COMMIT_SHA}}",
    ],
)
def test_variables_that_are_set_are_not_warned_of(step: str) -> None:
    assert warned(f"jobs: [{{name: j, steps: [{step}]}}]") == []
