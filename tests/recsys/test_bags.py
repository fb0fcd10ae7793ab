from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.bags import Bags, BagTower

BAGS = Bags(
    features=np.array([3, 5, 9, 0, 3, 5, 5], dtype=np.int32),
    offsets=np.array([0, 3, 3, 6, 7]),
    buckets=12,
)


def test_the_tower_sums_the_features_at_unit_scale_and_so_do_its_gradients() -> None:
    torch.manual_seed(0)
    tower = BagTower(BAGS, 8)
    weight = tower.embedding.weight
    lengths = np.diff(BAGS.offsets)
    whole = torch.zeros(4, 12, dtype=torch.float)
    for item, length in enumerate(lengths):
        for feature in BAGS.features[BAGS.offsets[item] : BAGS.offsets[item + 1]]:
            whole[item, feature] = length**-0.5
    seed = torch.randn(4, 8, dtype=torch.float)

    expected = whole @ weight
    (expected * seed).sum().backward()
    gradient, weight.grad = weight.grad, None
    given = tower()
    (given * seed).sum().backward()

    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(weight.grad, gradient)
    assert not given[1].any(), "an empty bag has no vector"
    torch.testing.assert_close(tower.embed(tower.features, tower.offsets), expected)


def test_members_are_dropped_while_training_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    tower = BagTower(BAGS, 8, dropout=0.25)
    expected = tower.eval()()
    tower.train()
    drawn = torch.stack([tower() for _ in range(4000)])
    assert (drawn[0] != drawn[1]).any()
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.03, rtol=0)
    assert not drawn[:, 1].any()


def test_what_is_dropped_gets_no_gradient() -> None:
    torch.manual_seed(0)
    tower = BagTower(BAGS, 8, dropout=0.5).train()
    vectors = tower()
    vectors.sum().backward()
    gradient = tower.embedding.weight.grad
    # Item 3 has feature 5 alone: its vector is that, doubled, or nothing.
    kept = bool(vectors[3].any())
    alone = torch.where(torch.tensor(kept), 2.0, 0.0) * tower.embedding.weight[5]
    torch.testing.assert_close(vectors[3], alone)
    assert not gradient[[1, 2, 4, 6, 7, 8, 10, 11]].any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_some_of_the_items_alone_are_what_they_are_among_all(dropout: float) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 9, 40)
    features = [np.sort(random.choice(30, size, replace=False)) for size in lengths]
    bags = Bags(
        np.concatenate(features).astype(np.int32), np.cumsum([0, *lengths]).astype(np.int64), 30
    )
    torch.manual_seed(0)
    tower = BagTower(bags, 8, dropout).train()
    items = torch.tensor([0, 3, 4, 17, 38, 39])
    given, gradients = [], []
    for chosen in (items, None):
        torch.manual_seed(1)
        vectors = tower(chosen) if chosen is not None else tower()[items]
        (vectors * torch.arange(48.0).reshape(6, 8)).sum().backward()
        given.append(vectors.detach())
        gradients.append(tower.embedding.weight.grad)
        tower.embedding.weight.grad = None
    assert torch.equal(*given) and torch.equal(*gradients) and gradients[0].any()


def test_a_stretch_of_the_items_drops_what_the_whole_drops() -> None:
    torch.manual_seed(0)
    tower = BagTower(BAGS, 8, dropout=0.5).train()
    torch.manual_seed(1)
    whole = tower()
    tower.index(2, 4)
    torch.manual_seed(1)
    torch.testing.assert_close(tower(), whole[2:4])
