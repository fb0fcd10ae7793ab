from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.errors import RecsysError
from recsys.search.documents import documents
from recsys.search.ranker import (
    Candidates,
    SearchModel,
    candidates_of,
    cross_validated,
    fit_weights,
    load_search,
    save_search,
)


def test_all_words_of_a_title_find_its_item(model: SearchModel, catalogue: pl.DataFrame) -> None:
    item, title = catalogue.row(17, named=False)[0], catalogue["title"][17]
    same = set(catalogue.filter(pl.col("title") == title)["item"])
    assert model.search(title, k=1)[0].item in same and item in same


def test_the_score_is_the_weighted_sum_of_the_signals(model: SearchModel) -> None:
    found = model.search("blue kettle", k=5)
    assert len(found) == 5 and [hit.score for hit in found] == sorted(
        (hit.score for hit in found), reverse=True
    )
    for hit in found:
        total = sum(model.weights[name] * value for name, value in hit.signals.items())
        assert hit.score == pytest.approx(total, abs=1e-5)


def test_more_items_than_there_are_gives_them_all(model: SearchModel) -> None:
    assert len(model.search("kettle", k=1000)) == len(model.docs.items)


def test_what_no_signal_speaks_for_is_not_found(model: SearchModel) -> None:
    weights = {"lexical": 0.7, "title": 0.3, "semantic": 0.0}
    by_words = SearchModel(model.docs, model.towers, model.vectors, weights)
    assert by_words.search("zzzzqqq") == []
    found = {hit.item for hit in by_words.search("kettle", k=1000)}
    assert 0 < len(found) < len(model.docs.items)


def test_a_query_without_a_word_is_named(model: SearchModel) -> None:
    with pytest.raises(RecsysError, match="'\\?!' has no word"):
        model.search("?!")


def test_a_stored_model_ranks_as_before_and_has_equal_bytes(
    model: SearchModel, tmp_path: Path
) -> None:
    first = save_search(tmp_path / "first", model)
    loaded = load_search(first)
    pairs = zip(model.search("wool blanket"), loaded.search("wool blanket"), strict=True)
    for before, after in pairs:
        assert after.item == before.item and after.score == pytest.approx(before.score)
    second = save_search(tmp_path / "second", loaded)
    for file in ("weights.safetensors", "search.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


@pytest.mark.parametrize("file", ["weights.safetensors", "search.json"])
def test_a_damaged_model_is_named(model: SearchModel, tmp_path: Path, file: str) -> None:
    folder = save_search(tmp_path / "model", model)
    (folder / file).write_bytes((folder / file).read_bytes()[:40])
    with pytest.raises(RecsysError, match="damaged"):
        load_search(folder)
    (folder / file).unlink()
    with pytest.raises(RecsysError, match=f"{file} is missing"):
        load_search(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vocabulary": lambda words: words[:5]}, r"the field title names word \d+ of 5"),
        ({"vocabulary": lambda words: words[::-1]}, "as many items and words, but others"),
        ({"items": lambda items: items[1:]}, r"\d+ items and \d+ vectors"),
        ({"items": lambda items: items[::-1]}, "as many items and words, but others"),
    ],
)
def test_another_vocabulary_than_that_of_the_index_is_refused(
    model: SearchModel, tmp_path: Path, change: dict, told: str
) -> None:
    folder = save_search(tmp_path / "model", model)
    content = json.loads((folder / "search.json").read_text())
    content |= {name: changed(content[name]) for name, changed in change.items()}
    (folder / "search.json").write_text(json.dumps(content))
    with pytest.raises(RecsysError, match=rf"is not the one that its index was made with \({told}"):
        load_search(folder)


def test_an_empty_catalogue_is_said() -> None:
    with pytest.raises(RecsysError, match="no words to search"):
        documents(pl.DataFrame({"item": ["a"], "text": ["-"]}))


def query(relevant_by: int) -> Candidates:
    """A query whose relevant item only the signal with this place ranks first."""
    signals = np.zeros((4, 3), np.float32)
    signals[3, relevant_by] = 1
    signals[[0, 1, 2], [(relevant_by + 1) % 3] * 3] = 0.6
    return Candidates(np.arange(4), signals, {3: 3.0})


def test_the_signal_that_finds_what_is_relevant_gets_the_weight() -> None:
    for place in range(3):
        weights = fit_weights([query(place)] * 4)
        assert weights.argmax() == place and weights.sum() == pytest.approx(1)


def test_a_query_is_ranked_by_weights_it_did_not_help_to_choose() -> None:
    queries = {str(number): query(0) for number in range(9)} | {"odd": query(2)}
    weights = cross_validated(queries, folds=10)
    assert weights["odd"] == pytest.approx(fit_weights([query(0)] * 9))
    with pytest.raises(RecsysError, match="too few for 5 folds"):
        cross_validated({"odd": query(2)})


def test_judged_queries_of_another_catalogue_are_refused(
    model: SearchModel, judged: dict[str, dict[str, float]]
) -> None:
    assert set(candidates_of(model, judged)) <= set(judged)
    with pytest.raises(RecsysError, match="none of the 1 judged queries"):
        candidates_of(model, {"kettle": {"elsewhere": 3.0}})
