from __future__ import annotations

import math

import pytest

from federation.errors import FederationError
from federation.strategies.buffered import FedBuff
from federation.updates import Update, Weights
from tests.federation.strategies.plain import numbers, places


def test_stale_updates_count_less(weights: Weights, updates: list[Update]) -> None:
    moved, _ = FedBuff(buffer=7, rate=0.5).aggregate(weights, updates, {})
    present = places(moved)
    for place, before in places(weights).items():
        change = 0.0
        for update in updates:
            change += numbers(update).get(place, 0.0) / math.sqrt(1 + update.staleness)
        assert present[place] == pytest.approx(before + 0.5 * change / 7, rel=1e-5, abs=1e-6)


def test_two_updates_of_one_site_may_meet_in_a_buffer(
    weights: Weights, updates: list[Update]
) -> None:
    old, new = updates[1], updates[2]
    twice = [Update("north", old.delta, 5, 1.0, staleness=1), Update("north", new.delta, 5, 1.0)]
    results = [FedBuff(2).aggregate(weights, sent, {})[0] for sent in (twice, twice[::-1])]
    assert results[0]["table"].tobytes() == results[1]["table"].tobytes()


def test_a_buffer_that_is_not_full_makes_no_version(
    weights: Weights, updates: list[Update]
) -> None:
    with pytest.raises(FederationError, match="6 updates: the buffer holds 7"):
        FedBuff(7).aggregate(weights, updates[:6], {})
