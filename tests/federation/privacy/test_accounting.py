from __future__ import annotations

import math

import pytest
from scipy.optimize import minimize_scalar

from federation.errors import FederationError
from federation.privacy.accounting import Release, epsilon, noise_for


def test_without_sampling_it_is_the_gaussian_mechanism():
    # Rényi divergence of order a: a T / (2 s²); conversion of Canonne, Kamath and Steinke (2020).
    noise, steps, delta = 4.0, 10, 1e-6

    def converted(order: float) -> float:
        divergence = order * steps / (2 * noise**2)
        rest = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        return divergence + rest

    wanted = minimize_scalar(converted, bounds=(1.01, 100), method="bounded").fun
    assert epsilon([Release(1.0, noise, steps)], delta) == pytest.approx(wanted, rel=0.01)


def test_a_published_figure():
    # Mironov, Talwar and Zhang (2019): q = 256/60000, s = 1.1, 60 epochs, delta = 1e-5: about 3.
    steps = 60 * 60000 // 256
    found = epsilon([Release(256 / 60000, 1.1, steps)], 1e-5)
    assert 2.5 < found < 3.1


def test_it_adds_up_in_any_order_and_grows():
    releases = [Release(0.1, 1.0, 10), Release(0.1, 2.0, 20), Release(0.1, 1.0, 5)]
    whole = epsilon(releases, 1e-6)
    assert whole == epsilon(releases[::-1], 1e-6)
    merged = [Release(0.1, 1.0, 15), Release(0.1, 2.0, 20)]
    assert whole == pytest.approx(epsilon(merged, 1e-6))
    assert whole > epsilon(releases[:2], 1e-6) > 0 == epsilon([], 1e-6)


def test_noise_uses_the_budget_and_keeps_within_it():
    spent = [Release(0.1, 2.0, 30)]
    noise = noise_for(8.0, 1e-6, sampling=0.1, steps=50, spent=spent)
    after = epsilon([*spent, Release(0.1, noise, 50)], 1e-6)
    assert 7.9 < after <= 8.0
    assert noise > noise_for(8.0, 1e-6, sampling=0.1, steps=50)


def test_a_spent_budget_is_refused():
    with pytest.raises(FederationError, match="The privacy budget is spent: epsilon is .* of 2 "):
        noise_for(2.0, 1e-6, sampling=0.1, steps=5, spent=[Release(0.1, 0.6, 100)])
