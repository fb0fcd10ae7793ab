from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.errors import RecsysError
from recsys.finetune import train_local
from recsys.model import SequentialRecommender
from recsys.packing import Windows, pack
from recsys.recipe import Recipe
from recsys.text import hash_texts

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
    assert model.scores(model.encode([]), []).shape == (0, 10)


def test_what_was_seen_counts_where_the_histories_are_told(model: SequentialRecommender) -> None:
    with torch.no_grad():
        model._seen_bias.fill_(-0.125)
    state = model.encode(HISTORIES)
    difference = model.scores(state, HISTORIES) - model.scores(state)
    for history, row in zip(HISTORIES, difference, strict=True):
        expected = [-5.0 if item in history else 0.0 for item in range(10)]
        torch.testing.assert_close(row, torch.tensor(expected))


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


TEXTS = [f"{kind} {number}" for kind in ("kettle", "hat") for number in range(5)]


@pytest.fixture
def reader() -> SequentialRecommender:
    torch.manual_seed(0)
    recipe = Recipe(dimension=16, heads=2, length=4, text_buckets=512)
    return SequentialRecommender(10, recipe, hash_texts(TEXTS, 512)).eval()


def test_texts_are_added_on_the_way_in_and_on_the_way_out(reader: SequentialRecommender) -> None:
    before = reader.encode(HISTORIES), reader.output_table
    with torch.no_grad():
        reader.text_tower.embedding.weight.mul_(2)
    assert (reader.encode(HISTORIES) - before[0]).abs().max() > 1e-3
    torch.testing.assert_close(reader.output_table, before[1] + reader.text_tower() / 2)
    torch.testing.assert_close(reader.input_table()[reader.mask], reader.item_embedding.weight[-1])


def test_a_folded_model_answers_the_same_without_its_tower(reader: SequentialRecommender) -> None:
    folded = reader.folded()
    assert folded.text_tower is None and reader.text_tower is not None
    torch.testing.assert_close(folded.encode(HISTORIES), reader.encode(HISTORIES))
    torch.testing.assert_close(folded.output_table, reader.output_table)


def test_new_items_are_scored_by_their_texts_and_the_others_as_before(
    reader: SequentialRecommender,
) -> None:
    larger = reader.with_new_items(["hat 7", TEXTS[2], ""])
    state = reader.encode(HISTORIES)
    torch.testing.assert_close(larger.encode(HISTORIES), state)
    scores = larger.scores(state)
    assert (larger.items, scores.shape) == (13, (5, 13))
    torch.testing.assert_close(scores[:, :10], reader.scores(state))
    torch.testing.assert_close(scores[:, 11], state @ reader.text_tower()[2])
    assert not scores[:, 12].any()
    assert larger.encode([[10, 12]]).isfinite().all()
    assert torch.equal(larger.input_table()[larger.mask], reader.input_table()[reader.mask])


def test_without_texts_there_are_no_new_items(model: SequentialRecommender) -> None:
    with pytest.raises(RecsysError, match="trained without item texts"):
        model.with_new_items(["hat"])


def test_a_text_for_each_item_is_required() -> None:
    with pytest.raises(RecsysError, match="10 item texts for 11 items"):
        SequentialRecommender(11, Recipe(text_buckets=512), hash_texts(TEXTS, 512))


def test_an_item_without_events_is_recommended_to_those_whom_its_text_fits(
    shop: Interactions,
) -> None:
    recipe = Recipe(dimension=32, blocks=1, heads=2, text_buckets=1024, dropout=0.2)
    torch.manual_seed(0)
    model = SequentialRecommender(60, recipe, hash_texts(shop.item_text, 1024))
    train_local(model, shop, recipe, epochs=25, seed=0)
    categories = [text.split(". ")[1].split(":")[0] for text in shop.item_text]
    new = [f"A new thing. {category}: a new thing." for category in ("camera", "toys")]
    model = model.eval().with_new_items(new)
    scores = model.scores(model.encode([[item] for item in range(60)]))
    camera, toys = (
        [item for item in range(60) if categories[item] == kind] for kind in ("camera", "toys")
    )
    gap = scores[:, 60] - scores[:, 61]
    assert gap[camera].mean() > gap[toys].mean() + 0.5
