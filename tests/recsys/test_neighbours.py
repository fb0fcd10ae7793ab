from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.artifact import load_model, save_model
from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.model import SequentialRecommender
from recsys.neighbours import MOST, REACH, neighbours
from recsys.recipe import Recipe
from recsys.text import hash_texts
from recsys.training import train

ITEMS = 50


def events_of(histories: list[list[int]]) -> Interactions:
    lengths = [len(history) for history in histories]
    return Interactions(
        users=[str(user) for user in range(len(histories))],
        items=[str(item) for item in range(ITEMS)],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sequence=np.array([item for history in histories for item in history], dtype=np.int32),
    )


def bag(histories: list[list[int]], item: int) -> list[int]:
    bags = neighbours(events_of(histories))
    return bags.features[bags.offsets[item] : bags.offsets[item + 1]].tolist()


def test_neighbours_stand_near_in_the_same_history() -> None:
    histories = [[1, 2, 3, 4, 5, 6], [9, 1], [7]]
    assert bag(histories, 1) == [2, 3, 4, 9]
    assert bag(histories, 4) == [1, 2, 3, 5, 6]
    assert bag(histories, 7) == [], "nobody took it with anything"
    assert bag([[3, 3, 3, 2]], 3) == [2], "an item is no neighbour of its own"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), max_size=12),
    st.integers(0, ITEMS - 1),
)
def test_the_most_frequent_neighbours_are_kept(histories: list[list[int]], item: int) -> None:
    counts: Counter[int] = Counter()
    for history in histories:
        for at, own in enumerate(history):
            near = history[max(0, at - REACH) : at + REACH + 1]
            counts.update(other for other in near if own == item != other)
    kept = sorted(counts, key=lambda other: (-counts[other], other))[:MOST]
    assert bag(histories, item) == sorted(kept)


def test_a_model_trained_without_texts_keeps_its_neighbours(
    shop: Interactions, tmp_path: Path
) -> None:
    silent = replace(shop, item_text=None)
    recipe = Recipe(dimension=16, epochs=1)
    trained = load_model(train(silent, recipe, tmp_path / "run").artifact).model
    bags = neighbours(leave_one_out(silent).train)
    assert trained.neighbour_tower.features.tolist() == bags.features.tolist()
    before = trained.encode([[1, 2], [3]])
    again = load_model(save_model(tmp_path / "copy", trained, recipe, shop.items, {})).model
    torch.testing.assert_close(again.encode([[1, 2], [3]]), before)
    folded = trained.folded()
    assert folded.neighbour_tower is None
    torch.testing.assert_close(folded.encode([[1, 2], [3]]), before)


@pytest.mark.parametrize(
    ("changes", "texts"), [({"neighbours": False}, False), ({}, True)]
)
def test_neighbours_are_left_out_on_request_and_where_there_are_texts(
    shop: Interactions, tmp_path: Path, changes: dict[str, bool], texts: bool
) -> None:
    data = shop if texts else replace(shop, item_text=None)
    recipe = Recipe(dimension=16, epochs=1, **changes)
    model = load_model(train(data, recipe, tmp_path).artifact).model
    assert model.neighbour_tower is None
    assert (model.text_tower is not None) is texts


def test_an_item_that_came_later_has_no_neighbours(shop: Interactions) -> None:
    recipe = Recipe(dimension=16, text_buckets=64)
    texts = hash_texts(shop.item_text, 64)
    model = SequentialRecommender(60, recipe, texts, neighbours(shop)).eval()
    larger = model.with_new_items(["hat"])
    state = model.encode([[0, 1]])
    torch.testing.assert_close(larger.encode([[0, 1]]), state)
    torch.testing.assert_close(larger.scores(state)[:, 60], state @ larger.text_tower()[60])
