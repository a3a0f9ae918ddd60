"""Mutation testing of one part of the code: ``make mutants MODULE=plan``.

mutmut changes one expression after another in a copy of the checkout, and runs the tests that belong to the part
and reach the changed function. A change that no test notices has survived. The checkout is only read; the report
goes to ``build/mutants/<module>.txt``. What survives on purpose is explained in docs/decisions/0017-mutants.md.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTMUT = ROOT / ".venv/mutants/bin/python"
LIMIT = 30 * 60
"""Seconds that one module may take."""
MEMORY = 4 << 30
"""Bytes of address space of each process: a change may make a loop endless."""
EXAMPLES = 30
"""Examples of tests with random input: a change that only a rare example would notice needs a test of its own."""


@dataclass(frozen=True)
class Module:
    """``sources``: globs below ``src/pilothouse``; ``tests``: globs below ``tests``."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


PLAN = (
    "",
    "_background",
    "_cleanup",
    "_gates",
    "_reasons",
    "_timeouts",
    "_told",
    "_shares",
    "_groups",
    "_ends",
)
MODULES = {
    "plan": Module(
        ("engine/plan.py", "engine/cleanup.py"),
        tuple(f"unit/test_plan{it}.py" for it in PLAN),
    ),
    "matching": Module(("engine/matching.py",), ("unit/test_matching.py",)),
    "selectors": Module(("engine/selectors.py",), ("unit/test_matching.py", "unit/test_selectors.py")),
    "masking": Module(
        ("wire/masking/*.py",),
        (
            "unit/test_masking.py",
            "unit/test_patterns.py",
            "unit/test_joining.py",
            "integration/test_masking_of_tools.py",
        ),
    ),
    "cursors": Module(
        ("journal/model.py", "journal/window.py", "journal/reader.py", "journal/pages.py"),
        (
            "unit/test_reader.py",
            "unit/test_entries.py",
            "unit/test_pages.py",
            "unit/test_window_reader.py",
            "contract/test_journal_contract.py",
        ),
    ),
    "packing-archive": Module(
        ("cli/checkout/archive.py", "cli/checkout/manifest.py"), ("unit/test_checkout_archive.py",)
    ),
    "packing-git": Module(
        ("cli/checkout/objects.py", "cli/checkout/index.py"), ("unit/test_checkout_reading.py",)
    ),
    "transitions": Module(
        ("engine/transitions.py", "engine/step_transitions.py"),
        (
            *(f"unit/test_plan{it}.py" for it in PLAN),
            "contract/test_engine_contract.py",
            "contract/test_outputs_contract.py",
            "contract/test_growth_contract.py",
            "contract/test_child_trees_contract.py",
        ),
    ),
    "states": Module(
        ("engine/model.py",),
        ("unit/test_states.py", *(f"unit/test_plan{it}.py" for it in PLAN)),
    ),
    "gates": Module(
        ("engine/gates/*.py",),
        ("unit/test_gate*.py", "contract/test_gate*_contract.py", "contract/test_child_trees_contract.py"),
    ),
    "expressions": Module(
        ("expressions/*.py",),
        ("unit/test_expression*.py", "unit/test_secrecy.py", "unit/test_contexts.py"),
    ),
}
"""What is mutated together, and the tests that must notice it: the quickest first, those with random input last, but
for tests/unit/test_plan_random.py, which takes minutes where every call is counted."""

ENDINGS = {0: "survived", 33: "reached by no test", 34: "skipped", None: "not tried: out of time"}
"""mutmut's exit codes of what is reported; 36, 24, -24 and 152 are timeouts, which count as noticed."""

SHOW = """
import sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
for name in sys.argv[1:]:
    print("#", name)
    print(*(line for line in get_diff_for_mutant(name).splitlines()[2:]), sep="\\n")
"""


def copy_of_checkout(to: Path, module: Module) -> None:
    """Everything that tests read, with mutmut's settings for this module."""
    skipped = shutil.ignore_patterns(
        ".venv", ".git", "build", "node_modules", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, to, ignore=skipped, symlinks=True)
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/pilothouse/{one}" for one in module.sources],
        "also_copy": sorted(one.name for one in to.iterdir()),
        "pytest_add_cli_args": ["-m", "not postgres"],
        "pytest_add_cli_args_test_selection": files(to, module.tests),
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]  # JSON of these is TOML, too
    with (to / "pyproject.toml").open("a") as file:
        file.write("\n[tool.mutmut]\n" + "\n".join(lines) + "\n")
    fewer_examples(to / "tests")


def fewer_examples(tests: Path) -> None:
    """Tests with random input try ``EXAMPLES``, whether they state a number or use that of tests/conftest.py."""
    for path in tests.rglob("*.py"):
        before = path.read_text()
        after = re.sub(r"max_examples=\d+", f"max_examples={EXAMPLES}", before)
        after = after.replace('("pilothouse", ', f'("pilothouse", max_examples={EXAMPLES}, ')
        if after != before:
            path.write_text(after)


def files(root: Path, globs: Iterable[str]) -> list[str]:
    """The test files; a glob that matches none is an error."""
    found: list[str] = []
    for glob in globs:
        matching = sorted(str(path.relative_to(root)) for path in (root / "tests").glob(glob))
        if not matching:
            raise SystemExit(f"tests/{glob} matches no file")
        found += matching
    return found


def endings(directory: Path) -> dict[str, int | None]:
    """By mutant, the exit code of its tests; ``None`` where there was no time."""
    found: dict[str, int | None] = {}
    for path in sorted((directory / "mutants/src").rglob("*.meta")):
        found.update(json.loads(path.read_text())["exit_code_by_key"])
    return found


def bounded() -> None:
    """For the process that runs mutmut, and all its children."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def report(directory: Path) -> str:
    """The numbers, then each mutant that was not noticed, as a diff."""
    results = endings(directory)
    counts = Counter(ENDINGS.get(code, "noticed") for code in results.values())
    parts = [f"{len(results)} mutants: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))]
    for code in (0, 33):
        names = [name for name, ending in results.items() if ending == code]
        if names:
            shown = [str(MUTMUT), "-c", SHOW, *names]
            diffs = subprocess.run(shown, cwd=directory, check=True, capture_output=True, text=True).stdout
            parts.append(f"== {ENDINGS[code]}\n{diffs}")
    return "\n\n".join(parts) + "\n"


def main(names: list[str]) -> int:
    """1: a name is unknown, or mutmut did not start."""
    if len(names) != 1 or names[0] not in MODULES:
        print(f"make mutants MODULE=…, one of: {', '.join(MODULES)}")
        return 1
    [name] = names
    with tempfile.TemporaryDirectory(prefix=f"pilot-mutants-{name}-") as temporary:
        directory = Path(temporary) / "checkout"
        copy_of_checkout(directory, MODULES[name])
        command = ["timeout", str(LIMIT), str(MUTMUT), "-m", "mutmut", "run", "--max-children", "2"]
        with (Path(temporary) / "log").open("w+") as log:
            mutated = directory / "mutants/src"
            mutated.mkdir(parents=True)  # Python ignores entries of its path that do not exist when it starts
            env = os.environ | {"PYTHONPATH": str(mutated)}  # for child processes of tests
            # The memory of each is bounded before it starts; we have no threads.
            subprocess.run(
                command, cwd=directory, env=env, stdout=log, stderr=log, preexec_fn=bounded, check=False
            )
            log.seek(0)
            said = log.read().replace("\r", "\n")
        if not any(code is not None for code in endings(directory).values()):
            print(said[-5000:])
            return 1
        text = report(directory)
    path = ROOT / f"build/mutants/{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text + f"\nThis report: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
