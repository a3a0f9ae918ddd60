"""Long versions run only with PILOT_FAULT_ROUNDS; short ones always run."""

from __future__ import annotations

import pytest

from support.faults.fleet import LONG, ROUNDS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if "faults" in item.path.parts]
    for item in ours:
        item.add_marker(pytest.mark.timeout(400 + 60 * (ROUNDS - 1)))
    if not LONG:
        long = [item for item in ours if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
