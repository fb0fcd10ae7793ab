from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsys.losses import PopularitySampler, generalised_bce, sampled_softmax

ROWS, ITEMS, WIDTH = 6, 11, 4


@pytest.fixture
def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, dtype=torch.double, requires_grad=True)
    table = torch.randn(ITEMS, WIDTH, dtype=torch.double, requires_grad=True)
    return hidden, table, torch.tensor([0, 3, 3, 10, 7, 5])


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, tensors)


def test_every_item_drawn_once_is_the_whole_softmax(parts: tuple) -> None:
    hidden, table, targets = parts
    everything = torch.arange(ITEMS)
    evenly = torch.full((ITEMS,), -math.log(ITEMS), dtype=torch.double)
    given = sampled_softmax(hidden, table, targets, everything, evenly)
    expected = F.cross_entropy(hidden @ table.T, targets)
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(
        gradients(given, hidden, table), gradients(expected, hidden, table)
    )


def test_a_bias_counts_for_targets_and_negatives(parts: tuple) -> None:
    hidden, table, targets = parts
    bias = torch.tensor(-1.5, dtype=torch.double, requires_grad=True)
    there = torch.rand(ROWS, ITEMS) < 0.4
    there[0, targets[0]] = True
    everything = torch.arange(ITEMS)
    biased = {"bias": bias, "biased": there.nonzero(as_tuple=True)}

    def compare(given: torch.Tensor, whole: Callable[[torch.Tensor], torch.Tensor]) -> None:
        expected = whole(hidden @ table.T + bias * there)
        torch.testing.assert_close(given, expected)
        torch.testing.assert_close(
            gradients(given, hidden, table, bias), gradients(expected, hidden, table, bias)
        )

    evenly = torch.full((ITEMS,), -math.log(ITEMS), dtype=torch.double)
    compare(
        sampled_softmax(hidden, table, targets, everything, evenly, **biased),
        lambda logits: F.cross_entropy(logits, targets),
    )
    own = F.one_hot(targets, ITEMS).double()
    compare(
        generalised_bce(hidden, table, targets, everything, 0.0, **biased),
        lambda logits: F.binary_cross_entropy_with_logits(logits - math.log(ITEMS), own) * ITEMS,
    )


def test_the_correction_makes_the_sample_stand_for_the_catalogue(parts: tuple) -> None:
    hidden, table, targets = (part.detach() for part in parts)
    sampler = PopularitySampler(np.arange(ITEMS) ** 2, 0.75)
    negatives = sampler.draw(200_000, np.random.default_rng(0))
    corrected = sampled_softmax(hidden, table, targets, negatives, sampler.log_chance.double())
    whole = F.cross_entropy(hidden @ table.T, targets)
    assert corrected.item() == pytest.approx(whole.item(), abs=0.02)
    uncorrected = sampled_softmax(
        hidden, table, targets, negatives, torch.full((ITEMS,), -math.log(ITEMS)).double()
    )
    assert abs(uncorrected.item() - whole.item()) > 0.1


def test_the_sampler_draws_by_the_power_of_popularity() -> None:
    counts = np.array([0, 3, 15, 80])
    for power in (0.0, 0.75, 1.0):
        sampler = PopularitySampler(counts, power)
        expected = (counts + 1.0) ** power / ((counts + 1.0) ** power).sum()
        drawn = np.bincount(sampler.draw(100_000, np.random.default_rng(0)), minlength=4)
        assert drawn / 100_000 == pytest.approx(expected, abs=0.01)
        assert sampler.log_chance.exp().tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_is_what_the_paper_says_row_by_row(parts: tuple, calibration: float) -> None:
    hidden, table, targets = parts
    negatives = torch.tensor([1, 3, 9])
    given = generalised_bce(hidden, table, targets, negatives, calibration)

    alpha = 3 / (ITEMS - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    losses = []
    for state, target in zip(hidden, targets.tolist(), strict=True):
        chances = torch.sigmoid(table @ state - math.log(ITEMS))
        positive = chances[target] ** beta
        others = [1 - chances[n] for n in negatives.tolist() if n != target]
        losses.append(-torch.log(positive) - sum(torch.log(other) for other in others))
    expected = sum(losses) / ROWS
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(
        gradients(given, hidden, table), gradients(expected, hidden, table)
    )
    if calibration == 0.0:
        assert beta == pytest.approx(1.0)


def test_huge_scores_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    table = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    targets, negatives = torch.tensor([0, 0]), torch.tensor([1, 0])
    evenly = torch.full((2,), -math.log(2))
    for loss in (
        sampled_softmax(hidden, table, targets, negatives, evenly),
        generalised_bce(hidden, table, targets, negatives, 0.5),
    ):
        for gradient in gradients(loss, hidden, table):
            assert gradient.isfinite().all()
