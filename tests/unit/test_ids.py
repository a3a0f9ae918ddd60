"""Ids that are worked out from the id of a run."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine import ids

RUN = "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"
INDEX = st.integers(0, 4999)


@given(INDEX, INDEX)
def test_they_are_version_7_uuids_with_the_time_of_their_run(job: int, step: int) -> None:
    for id in (ids.job_id(RUN, job), ids.step_id(RUN, job, step), ids.first_step_run_id(RUN, job, step)):
        parsed = uuid.UUID(id)
        assert str(parsed) == id
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert id[:13] == RUN[:13]


def test_each_part_has_an_id_of_its_own() -> None:
    parts = [(job, step) for job in range(60) for step in range(60)]
    made = [maker(RUN, *part) for part in parts for maker in (ids.step_id, ids.first_step_run_id)]
    made += [ids.job_id(RUN, job) for job in range(5000)]
    made += [ids.step_id(RUN, job, 0) for job in range(60, 5000)]
    other = RUN[:-1] + "1"
    made += [ids.step_id(other, *part) for part in parts]
    assert len(set(made)) == len(made)


def test_they_sort_in_the_order_of_the_graph() -> None:
    made = [
        ids.first_step_run_id(RUN, job, step) for job in range(0, 4000, 97) for step in range(0, 5000, 131)
    ]
    assert made == sorted(made)


@given(INDEX, INDEX)
def test_the_run_lies_between_the_bounds(job: int, step: int) -> None:
    first, last = ids.run_ids_around(ids.step_id(RUN, job, step))
    assert first <= RUN <= last


@given(INDEX, INDEX)
def test_they_name_their_place(job: int, step: int) -> None:
    assert ids.place_of(ids.first_step_run_id(RUN, job, step)) == (job, step)


def test_any_text_has_bounds() -> None:
    for text in ("", "x", "019a", "'; --", "é" * 40):
        first, last = ids.run_ids_around(text)
        assert first < last
        assert ids.place_of(text) is None
