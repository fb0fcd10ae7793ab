from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys import index
from recsys.errors import RecsysError
from recsys.exact import ExactIndex, Index
from recsys.index import ApproximateIndex, CosineIndex, QuantisedIndex, build_index


def clustered(items: int, d: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A table in groups of different norms, and states near some of its items."""
    torch.manual_seed(seed)
    centres = torch.randn(items // 50, d) * (0.5 + torch.rand(items // 50, 1))
    table = centres[torch.randint(len(centres), (items,))] + 0.3 * torch.randn(items, d)
    states = 3 * table[::97] + 0.5 * torch.randn(len(table[::97]), d)
    return table.numpy(), states.numpy()


def best(states: np.ndarray, table: np.ndarray, k: int = 10) -> np.ndarray:
    """int64[B, k] by the whole product."""
    return np.argsort(-(states @ table.T), axis=1)[:, :k]


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return (found[:, :, None] == wanted[:, None, :]).any(2).mean()


@pytest.mark.parametrize("kind", [ExactIndex, QuantisedIndex, ApproximateIndex])
def test_every_index_finds_the_best_items_with_their_exact_scores(kind: type) -> None:
    table, states = clustered(5000)
    scores, items = kind(table).search(states, 10)
    assert scores.shape == items.shape == (len(states), 10) and items.dtype == np.int64
    assert recall(items, best(states, table)) >= 0.99
    exact = np.take_along_axis(states @ table.T, items, 1)
    np.testing.assert_allclose(scores, exact, atol=1e-3, rtol=1e-3)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_states_unlike_items_find_their_items_as_well() -> None:
    table, _ = clustered(5000)
    narrow = (torch.randn(400, 3) @ torch.randn(3, 16) + 0.1 * torch.randn(400, 16)).numpy()
    made = ApproximateIndex(table, narrow[:200])
    assert recall(made.search(narrow[200:], 10)[1], best(narrow[200:], table)) >= 0.97
    assert made.to_space.shape[1] <= 16


def test_a_higher_recall_visits_more_clusters() -> None:
    table, states = clustered(5000)
    few, many = (ApproximateIndex(table, states, recall=wanted) for wanted in (0.5, 0.9999))
    assert few.visited < many.visited <= 1


def visits(made: ApproximateIndex, states: np.ndarray) -> list[int]:
    """Clusters that are visited for each state."""
    counts = []
    for state in states:
        faiss.cvar.indexIVF_stats.reset()
        made.search(state[None], 10)
        counts.append(faiss.cvar.indexIVF_stats.nlist)
    return counts


def test_a_state_whose_best_items_are_together_visits_few_clusters() -> None:
    table, states = clustered(20_000, d=64)
    random = np.random.default_rng(0)
    hard = random.normal(size=states.shape).astype(np.float32)
    made = ApproximateIndex(table, np.concatenate([states, hard])[::2], recall=0.999)
    easy, others = visits(made, states[:30]), visits(made, hard[:30])
    assert np.median(easy) == index.FIRST < np.median(others) / 2
    assert recall(made.search(hard, 10)[1], best(hard, table)) >= 0.99


@pytest.mark.parametrize("kind", [ExactIndex, QuantisedIndex, ApproximateIndex])
def test_more_items_than_there_are_cannot_be_found(kind: type) -> None:
    table, states = clustered(300)
    scores, items = kind(table).search(states, 1000)
    assert scores.shape == items.shape == (len(states), 300)
    reached = np.isfinite(scores[0])
    assert len(np.unique(items[0, reached])) == reached.sum() > 10


def test_scores_hold_what_is_reached_and_minus_infinity_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "REACH", 20)
    table, states = clustered(2000)
    exact = states @ table.T
    scores = QuantisedIndex(table).scores(states)
    reached = np.isfinite(scores)
    assert (reached.sum(1) == 20).all()
    np.testing.assert_allclose(scores[reached], exact[reached], atol=1e-3, rtol=1e-3)
    assert np.isfinite(ExactIndex(table).scores(states)).all()


def test_search_is_exact_below_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = clustered(1000)

    def kind(**how: bool) -> type[Index]:
        return type(build_index(table, **how))

    assert index.EXACT_BELOW == 100_000
    assert kind() is ExactIndex and kind(quantised=True) is QuantisedIndex
    monkeypatch.setattr(index, "EXACT_BELOW", 1000)
    assert kind() is kind(quantised=True) is ApproximateIndex


def test_near_duplicates_are_told_apart_by_ranking_more_of_them() -> None:
    torch.manual_seed(0)
    products = torch.randn(20, 16)
    table = (products.repeat_interleave(400, 0) + 1e-3 * torch.randn(8000, 16)).numpy()
    states = (products[torch.randint(20, (600,))] + torch.randn(600, 16)).numpy()
    made = ApproximateIndex(table, states[:400])
    assert recall(made.search(states[400:], 10)[1], best(states[400:], table)) >= 0.98


@pytest.mark.parametrize("threshold", [100_000, 100], ids=["whole product", "scanned"])
@pytest.mark.parametrize("kind", [ExactIndex, QuantisedIndex, ApproximateIndex])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.0005])
def test_only_what_is_allowed_is_found_and_as_many_as_there_are(
    kind: type, share: float, threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, states = clustered(5000)
    made = kind(table)
    monkeypatch.setattr(index, "EXACT_BELOW", threshold)
    allowed = np.random.default_rng(0).random(5000) < share
    scores, items = made.search(states, 10, allowed)
    count = min(10, allowed.sum())
    assert (np.isfinite(scores).sum(1) == count).all()
    assert allowed[items[np.isfinite(scores)]].all()
    chosen = np.flatnonzero(allowed)
    assert recall(items[:, :count], chosen[best(states, table[chosen], count)]) >= 0.98


def test_a_kept_index_is_the_same_index(tmp_path: Path) -> None:
    table, states = clustered(5000)
    made = ApproximateIndex(table, states)
    made.save(tmp_path)
    again = ApproximateIndex.load(tmp_path, table)
    assert again.visited == made.visited
    allowed = np.arange(5000) % 3 == 0
    for given in (None, allowed):
        for one, other in zip(made.search(states, 10, given), again.search(states, 10, given)):
            assert np.array_equal(one, other)
    (tmp_path / "index.faiss").unlink()
    with pytest.raises(RuntimeError, match="index.faiss"):
        ApproximateIndex.load(tmp_path, table)


def test_an_index_kept_by_another_version_is_refused(tmp_path: Path) -> None:
    table, states = clustered(3000)
    ApproximateIndex(table, states).save(tmp_path)
    content = load_file(tmp_path / "index.safetensors")
    del content["spread"]
    save_file(content, tmp_path / "index.safetensors")
    with pytest.raises(RecsysError, match="is of another version: make it anew"):
        ApproximateIndex.load(tmp_path, table)


@pytest.mark.parametrize("other", ["fewer", "another order", "other weights"])
def test_an_index_of_another_vocabulary_is_refused(tmp_path: Path, other: str) -> None:
    table, states = clustered(3000)
    ApproximateIndex(table, states).save(tmp_path)
    tables = {"fewer": table[:-1], "another order": table[::-1], "other weights": table * 2}
    with pytest.raises(RecsysError, match="is of other items or weights: make it anew"):
        ApproximateIndex.load(tmp_path, tables[other])


def test_items_near_one_are_found_by_their_cosine() -> None:
    table, _ = clustered(3000)
    # Lengths tell nothing of what an item is like.
    table *= np.random.default_rng(1).uniform(0.1, 10, (len(table), 1)).astype(np.float32)
    norms = np.linalg.norm(table, axis=1)
    cosines = (table / norms[:, None]) @ (table / norms[:, None]).T
    np.fill_diagonal(cosines, -np.inf)
    made, items = CosineIndex(ExactIndex(table), norms), np.arange(0, 3000, 61)
    values, found = made.search(items, 10)
    assert recall(found, np.argsort(-cosines[items], axis=1)[:, :10]) > 0.99
    assert np.allclose(values, np.take_along_axis(cosines[items], found, 1), atol=1e-5)
    allowed = np.zeros(3000, dtype=bool)
    allowed[[61, 500, 501, 502]] = True
    values, found = made.search(items[:2], 10, allowed)
    assert set(found[0][np.isfinite(values[0])]) == {61, 500, 501, 502}
    assert set(found[1][np.isfinite(values[1])]) == {500, 501, 502}
