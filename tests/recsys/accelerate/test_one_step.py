"""A lone request in one graph: what it finds is what the encoder and the whole product find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.accelerate.runtime import one_step_of, open_runtime
from recsys.exact import ExactIndex
from recsys.ranking import Ranker


@pytest.fixture
def ranker(artifact: Path) -> Ranker:
    return open_runtime(artifact)[0]


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("length", [1, 7, 60])
def test_it_finds_what_the_steps_find(ranker: Ranker, seen: bool, length: int) -> None:
    random = np.random.default_rng(length)
    items = len(ranker.index.table)
    for k in (1, 10, items + 5):
        # Short histories have some items twice, long ones more events than the model looks at.
        history = random.integers(0, items // 2, length)
        states = ranker.encode([history])
        values, places = ranker.rank(states, [history], k, seen=seen)
        found, at = ranker.one_step(history, k, seen)
        kept = np.isfinite(values[0])
        assert np.allclose(found[np.isfinite(found)], values[0][kept], atol=1e-5)
        assert list(at[np.isfinite(found)]) == list(places[0][kept])
        assert seen or not set(at[np.isfinite(found)]) & set(history)


def test_another_index_is_asked_for_every_request(ranker: Ranker) -> None:
    assert ranker.searched_by(ranker.index).one_step is None


def test_a_table_that_is_no_numbers_is_left_to_what_tells_of_it(ranker: Ranker) -> None:
    table = ranker.index.table.copy()
    assert one_step_of(ranker.encode, ExactIndex(table), 0.0) is not None
    table[3] = np.nan
    assert one_step_of(ranker.encode, ExactIndex(table), 0.0) is None
