from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.packing import Windows, pack
from recsys.recipe import Recipe

HISTORIES = [[1, 2, 3], [4], [5, 6, 7], [0, 9, 8, 7, 6], [2]]


@pytest.fixture
def model() -> SequentialRecommender:
    torch.manual_seed(0)
    return SequentialRecommender(10, Recipe(dimension=16, heads=2, length=4)).eval()


def test_a_packed_batch_gives_what_each_history_gives_alone(model: SequentialRecommender) -> None:
    together = model.encode(HISTORIES)
    alone = torch.cat([model.encode([history]) for history in HISTORIES])
    assert together.shape == (5, 16)
    torch.testing.assert_close(together, alone)
    assert (together[0] - together[2]).abs().max() > 1e-3


def test_only_the_latest_events_count(model: SequentialRecommender) -> None:
    torch.testing.assert_close(model.encode([[3, 0, 9, 8, 7]]), model.encode([[0, 9, 8, 7]]))


def test_events_do_not_see_the_future_unless_they_may(model: SequentialRecommender) -> None:
    def states(items: list[int], causal: bool) -> torch.Tensor:
        one = Windows(np.array(items), np.array([0]), np.array([len(items)]))
        return model(pack(one, np.array([0]))[0], causal=causal)

    torch.testing.assert_close(states([1, 2, 3], True)[:2], states([1, 2, 9], True)[:2])
    changed = (states([1, 2, 3], False)[:2] - states([1, 2, 9], False)[:2]).abs()
    assert changed.max() > 1e-4


def test_scores_are_for_items_only(model: SequentialRecommender) -> None:
    assert model.scores(model.encode(HISTORIES)).shape == (5, 10)
    assert model.encode([]).shape == (0, 16)


@pytest.mark.parametrize(
    ("histories", "sentence"),
    [
        ([[1], []], "history 1 is empty"),
        ([[10]], "names item 10, the model knows the items 0 to 9"),
        ([[3, -1]], "names item -1"),
    ],
)
def test_a_history_that_cannot_be_encoded_is_named(
    model: SequentialRecommender, histories: list[list[int]], sentence: str
) -> None:
    with pytest.raises(RecsysError, match=sentence):
        model.encode(histories)
