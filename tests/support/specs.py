"""Specs for tests: one with every field, and any number of generated ones."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

FULL = """
namespace: shop
version: 1.10
variables: {TAG: v1, zip: 0123, flag: on, empty: }
runtime:
  type: docker
  image: python:3.12
  env: {CI: true}
  resources: {cpuRequest: 500m, memory_limit: 1Gi}
  config: {privileged: no, shm: 64}
meta: {team: core, size: 3}
triggers:
  - type: cron
    options: {schedule: "0 3 * * *"}
jobs:
  - name: unit-test
    timeout: 90m
    retry: {max_attempts: 3, delay: 10s}
    on_lost: rerun
    env: &env {LEVEL: debug}
    steps:
      - name: Check out
        uses: scm
      - name: test
        uses: shell
        args:
          command: make test TAG=${{ variables.TAG }}
          working_directory: src
          shell: [bash, -e]
        timeout: 1h30m
        continue_on_error: true
        onLost: fail
        retry: {maxAttempts: 2}
        agent_selector:
          match_labels: {os: linux}
          matchExpressions:
            - {key: gpu, operator: doesnotexist}
            - {key: cores, operator: gt, values: [4]}
  - name: approve
    approval: {required: true, type: manual, params: {roles: [operator], count: 2}}
    depends_on: [unit-test]
  - name: deploy
    description: ships it
    concurrency: prod
    when: success() && jobs["unit-test"].outputs.ok == "yes"
    source: {type: git, repo: "https://example.org/x.git", branch: main, auth: {token: "${{ secrets.GIT }}"}}
    target: {type: kubernetes, config: {namespace: shop}}
    notify:
      onSuccess: {plugin: email, action: send, params: {to: [ops@example.org]}}
    env: *env
    dependsOn: [approve, unit-test]
    steps:
      - name: roll out
        uses: shell
        action: script
        args:
          script: |
            kubectl apply -f .
            echo ${{ secrets.KUBE }} $${{ literal }}
        runOnAgent: true
"""

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: "${{" not in json.dumps(value))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,6}", fullmatch=True)
TEXT_MAPS = st.dictionaries(
    st.text(max_size=5), st.text(max_size=8).filter(lambda text: "${{" not in text), max_size=2
)
ENVIRONMENTS = st.dictionaries(
    st.from_regex(r"[^=\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,5}", fullmatch=True).filter(
        lambda name: "${{" not in name
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8).filter(
        lambda text: "${{" not in text
    ),
    max_size=2,
)
DURATIONS = st.sampled_from(["5s", "90m", "1h30m", "1500ms"])


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    jobs = []
    for position, name in enumerate(names):
        step = {
            "name": draw(NAMES),
            "uses": "dummy",
            "args": draw(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=2)),
            "env": draw(ENVIRONMENTS),
            "timeout": draw(DURATIONS),
            "runOnAgent": draw(st.booleans()),
            "retry": {"maxAttempts": draw(st.integers(1, 100)), "delay": draw(DURATIONS)},
            "agentSelector": {"matchLabels": draw(TEXT_MAPS)},
        }
        if draw(st.booleans()):
            step["onLost"] = draw(st.sampled_from(["fail", "rerun"]))
        job = {"name": name, "steps": [step], "onLost": draw(st.sampled_from(["fail", "rerun"]))}
        job["dependsOn"] = draw(st.lists(st.sampled_from(names[:position]), unique=True)) if position else []
        jobs.append(job)
    return {"jobs": jobs, "variables": draw(TEXT_MAPS), "meta": draw(st.just({}) | st.just({"a": [1, {}]}))}
