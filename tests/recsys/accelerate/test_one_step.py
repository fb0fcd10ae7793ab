"""A lone request in one graph: what it finds is what the encoder and the whole product find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.accelerate import one_step
from recsys.accelerate.export import lone_graph
from recsys.accelerate.one_step import OneStep
from recsys.accelerate.runtime import one_step_of, open_runtime
from recsys.artifact import load_model
from recsys.errors import RecsysError
from recsys.exact import ExactIndex
from recsys.model import SequentialRecommender
from recsys.ranking import Ranker
from recsys.recipe import Recipe


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


@pytest.mark.parametrize("blocks", [1, 3])
def test_models_of_any_depth_are_answered_in_one_step(blocks: int) -> None:
    torch.manual_seed(blocks)
    model = SequentialRecommender(60, Recipe(dimension=16, heads=2, blocks=blocks, length=9)).eval()
    table, history = model.output_table.detach().numpy(), [4, 9, 4, 31]
    found, at = OneStep(model, table)(history, 60, True)
    scores = table @ model.encode([history])[0].detach().numpy()
    assert np.allclose(found, scores[at], atol=1e-5) and sorted(at) == list(range(60))


def test_a_graph_that_is_not_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(dimension=16, heads=2, blocks=1, length=9)
    model, other = (SequentialRecommender(60, recipe).eval() for _ in range(2))
    monkeypatch.setattr(one_step, "lone_graph", lambda _, table: lone_graph(other, table))
    with pytest.raises(RecsysError, match="off by"):
        OneStep(model, model.output_table.detach().numpy())


def test_another_index_is_asked_for_every_request(ranker: Ranker) -> None:
    assert ranker.searched_by(ranker.index).one_step is None


def test_a_table_that_is_no_numbers_is_left_to_what_tells_of_it(
    ranker: Ranker, artifact: Path
) -> None:
    model, table = load_model(artifact).model.folded(), ranker.index.table.copy()
    assert one_step_of(model, ranker.encode, ExactIndex(table)) is not None
    table[3] = np.nan
    assert one_step_of(model, ranker.encode, ExactIndex(table)) is None
