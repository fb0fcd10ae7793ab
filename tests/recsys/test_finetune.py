from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.errors import RecsysError
from recsys.evaluate import evaluate
from recsys.finetune import fewest_steps, finetune, train_local
from recsys.loop import Moments, adamw, train_epoch, weights_of
from recsys.model import SequentialRecommender
from recsys.objectives import NextItem
from recsys.packing import pack
from recsys.randomness import Stage
from recsys.recipe import Recipe

RECIPE = Recipe(dimension=16, blocks=1, heads=1)


def fresh(shop: Interactions) -> SequentialRecommender:
    torch.manual_seed(0)
    return SequentialRecommender(len(shop.items), RECIPE)


def distance(model: SequentialRecommender, start: dict[str, torch.Tensor]) -> float:
    return sum(float((weights_of(model)[n] - w).square().sum()) for n, w in start.items()) ** 0.5


def test_where_people_come_back_for_what_they_had_the_epoch_is_chosen_by_that(tmp_path: Path) -> None:
    """Each user goes round among five items: left out of the ranking, none could be predicted."""
    rounds = [[(user + step % 5) % 40 for step in range(20)] for user in range(80)]
    length, count = len(rounds[0]), len(rounds)
    shop = Interactions(
        users=[str(user) for user in range(count)],
        items=[str(item) for item in range(40)],
        offsets=np.arange(count + 1) * length,
        sequence=np.concatenate(rounds).astype(np.int32),
    )
    model, split, recipe = fresh(shop), leave_one_out(shop), replace(RECIPE, patience=2, epochs=8)
    told: list[str] = []
    epochs = finetune(
        model, shop, split, recipe, tmp_path / "run.pt", progress=lambda *step: told.append(step[2])
    )
    figures = evaluate(model, shop, split, part="test")
    assert epochs > 1 + recipe.patience and "validation NDCG@10 unmasked" in told[0]
    assert figures["NDCG@10"] == 0 and figures["NDCG@10 unmasked"] > 0.3


def test_local_training_learns_and_repeats_exactly(shop: Interactions) -> None:
    events = leave_one_out(shop).train
    first, second, other = fresh(shop), fresh(shop), fresh(shop)
    told = []
    before = train_local(fresh(shop), events, RECIPE, epochs=1, seed=4)
    after = train_local(
        first, events, RECIPE, epochs=4, seed=4, progress=lambda *step: told.append(step[:2])
    )
    assert after < before - 0.1
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    train_local(second, events, RECIPE, epochs=4, seed=4)
    train_local(other, events, RECIPE, epochs=4, seed=5)
    assert distance(second, weights_of(first)) == 0.0
    assert distance(other, weights_of(first)) > 0.0


def test_with_its_moments_the_optimizer_goes_on_as_if_it_had_not_stopped(
    shop: Interactions,
) -> None:
    events, recipe = leave_one_out(shop).train, replace(RECIPE, weight_decay=0.0)
    parted, whole, forgetful, moments = fresh(shop), fresh(shop), fresh(shop), Moments()
    optimizer, objective = adamw(whole, recipe), NextItem(events, recipe)
    for seed in (1, 2, 3):
        train_local(parted, events, recipe, epochs=1, seed=seed, moments=moments, steps=16)
        train_local(forgetful, events, recipe, epochs=1, seed=seed)
        train_epoch(whole, optimizer, objective, recipe, seed, Stage.LOCAL, 0, fewest_steps=16)
    assert distance(parted, weights_of(whole)) == 0.0
    assert distance(forgetful, weights_of(whole)) > 0.0


def test_an_optimizer_that_goes_on_takes_as_many_steps_in_all_as_one_in_one_place() -> None:
    assert [fewest_steps(epochs, True) for epochs in (3, 20, 40, 60, 1000)] == [64, 64, 32, 21, 16]
    assert fewest_steps(1000, False) == 64


def test_the_proximal_term_keeps_a_site_near_the_global_model(shop: Interactions) -> None:
    events = leave_one_out(shop).train
    moved = []
    for mu in (0.0, 1.0, 100.0):
        model = fresh(shop)
        start = weights_of(model)
        train_local(model, events, RECIPE, epochs=3, seed=0, proximal_mu=mu)
        moved.append(distance(model, start))
    assert moved[0] > 1.2 * moved[1] > 1.2 * moved[2]


def test_its_steps_are_adamws_on_the_gradient_and_the_pull_to_the_global_model(
    shop: Interactions,
) -> None:
    """FedProx (Li et al., 2020, algorithm 2): three steps, AdamW's written out from its paper."""
    mu, rate, decay, steps = 0.7, 0.01, 0.1, 3
    recipe = replace(RECIPE, dropout=0.0, learning_rate=rate, weight_decay=decay)
    # A single user: an epoch is one step. In double precision: AdamW divides small by small.
    events = leave_one_out(shop).train.select([0])
    torch.manual_seed(0)
    model = SequentialRecommender(len(shop.items), recipe).double()
    reference = copy.deepcopy(model)
    train_local(model, events, recipe, epochs=steps, seed=0, proximal_mu=mu)

    objective = NextItem(events, recipe)
    batch = pack(objective.windows, np.arange(1))
    weights = {name: tensor.detach().numpy() for name, tensor in reference.named_parameters()}
    start = {name: array.copy() for name, array in weights.items()}
    first, second, reached = (dict.fromkeys(weights, 0.0) for _ in range(3))
    for step in range(1, steps + 1):
        reference.zero_grad()
        objective(reference, *batch, np.random.default_rng())[0].backward()
        for name, parameter in reference.named_parameters():
            gradient = parameter.grad.numpy()
            reached[name] += np.abs(gradient)
            gradient = gradient + mu * (weights[name] - start[name])
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            # In place: the arrays are the reference's own weights.
            weights[name] *= 1 - rate * decay
            weights[name] -= rate * mean / (np.sqrt(square) + 1e-8)
    for name, parameter in model.named_parameters():
        # Positions beyond the user's events and the mask of pretraining, which no gradient reached,
        # stay: their decay would cross the network.
        expected = np.where(reached[name], weights[name], start[name])
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_rows_that_no_gradient_reached_stay_as_they_were(shop: Interactions) -> None:
    model = fresh(shop)
    start = weights_of(model)
    recipe = replace(RECIPE, negatives=4)
    few = leave_one_out(shop).train.select([0])
    train_local(model, few, recipe, epochs=1, seed=0)
    table, before = model.item_embedding.weight, start["item_embedding.weight"]
    changed = (table != before).any(dim=1)
    # The user's own items and the negatives drawn, not the mask of pretraining.
    assert set(few.sequence.tolist()) <= set(changed.nonzero()[:, 0].tolist())
    assert not changed[model.mask]
    assert 0 < changed.sum() < len(table) - 1


def test_rows_of_items_that_a_site_has_no_events_of_can_stay_as_they_were(
    shop: Interactions,
) -> None:
    few, recipe = leave_one_out(shop).train.select([0, 1]), replace(RECIPE, negatives=30)
    model = fresh(shop)
    start = weights_of(model)
    train_local(model, few, recipe, epochs=1, seed=0, own_rows=True)
    changed = (model.item_embedding.weight != start["item_embedding.weight"]).any(dim=1)
    assert set(changed.nonzero()[:, 0].tolist()) == set(few.sequence.tolist())
    assert all(
        (weights_of(model)[name] != weight).any()
        for name, weight in start.items()
        if name.startswith("blocks") and weight.ndim == 2
    )


def test_the_callers_random_state_is_left_alone(shop: Interactions) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    model = fresh(shop)
    torch.manual_seed(7)
    train_local(model, shop, RECIPE, epochs=1, seed=0)
    assert torch.rand(1) == expected


def test_data_that_do_not_fit_are_refused(shop: Interactions) -> None:
    other = SequentialRecommender(3, RECIPE)
    with pytest.raises(RecsysError, match="the data has 60 items, the model 3"):
        train_local(other, shop, RECIPE, epochs=1, seed=0)
    with pytest.raises(RecsysError, match="no user has two training events"):
        train_local(fresh(shop), shop.select([]), RECIPE, epochs=1, seed=0)
