"""Long versions run only where PILOT_FAULT_ROUNDS says how long; the short ones always run."""

from __future__ import annotations

import pytest

from support.faults import LONG, ROUNDS

OPEN = {
    "test_network.py::test_a_partition_shorter_than_the_lease": "stale heartbeats in a burst make a running step lost",
    "test_network.py::test_a_lost_step_that_still_runs_is_stopped_when_its_agent_is_back[on a new connection]": (
        "an agent that comes back is not told to stop what was lost"
    ),
    "test_viewers.py::test_two_channels_on_one_slow_socket": "a channel loses lines when another fills their socket",
    "test_viewers.py::test_those_who_do_not_read": "frames of the inner format are kept, 4 KiB a line",
    "test_abusive_clients.py::test_requests_without_end": "heads and pipelines are not bounded",
    "test_abusive_clients.py::test_frames_without_end": "tiny frames hold the event loop, and pongs pile up",
    "test_herd.py": "every reader encodes the same pages again",
    "test_wire_noise.py::test_run_streams_of_any_name": "a close reason may be over 123 bytes",
    "test_decoders.py::test_a_cursor_is_what_we_gave_out": "digits of other scripts are taken",
    "test_decoders.py::test_a_batch_of_several_frames_is_read_whole_or_refused[zstd]": "only the first frame is read",
    "test_decoders.py::test_a_bomb_costs_no_more_than_a_full_batch[zstd]": "a zstd bomb is noticed after it has gone off",
}
"""Faults of the product that are known and not mended yet: take a line away with its fault."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if "faults" in item.path.parts]
    for item in ours:
        item.add_marker(pytest.mark.timeout(120 + 60 * (ROUNDS - 1)))
        for name, reason in OPEN.items():
            if name in item.nodeid:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))
    if not LONG:
        long = [item for item in ours if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
