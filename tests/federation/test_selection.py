from __future__ import annotations

from federation.selection import select


def test_a_fraction_of_the_sites_trains_and_everyone_has_a_turn() -> None:
    sites = [f"site-{i}" for i in range(10)]
    rounds = [select(sites, number, fraction=0.3, seed=5) for number in range(1, 30)]
    assert all(len(set(chosen)) == 3 for chosen in rounds)
    assert {site for chosen in rounds for site in chosen} == set(sites)
    assert rounds[0] == select(sites[::-1], 1, fraction=0.3, seed=5)
    assert select(sites, 1, fraction=0.01) != []
    assert select(sites, 1) == sites
