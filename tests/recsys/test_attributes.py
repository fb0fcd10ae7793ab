from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.attributes import attributes_of, read_attributes, write_attributes
from recsys.data.interactions import load_interactions, write_interactions
from recsys.diversity import diversified
from recsys.errors import RecsysError
from recsys.filters import ItemFilters

EVENTS = "user,item,time\nu,b,1\nu,a,2\nv,b,3\n"
ITEMS = "item,title,price,stock,category\nb,Kettle,2.5,3,home\nc,Hat,,0,\n"


def test_attributes_come_from_the_catalogue_in_the_vocabularys_order(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_text(ITEMS)
    loaded = load_interactions(tmp_path / "events.csv")
    assert loaded.items == ["a", "b", "c"]
    assert loaded.attributes.rows(named=True) == [
        {"category": None, "price": None, "stock": None},
        {"category": "home", "price": 2.5, "stock": 3.0},
        {"category": None, "price": None, "stock": 0.0},
    ]
    write_interactions(loaded, tmp_path / "written")
    again = load_interactions(tmp_path / "written")
    assert again.attributes.equals(loaded.attributes)
    assert again.fingerprint() == loaded.fingerprint()


def test_a_catalogue_that_knows_nothing_gives_no_attributes() -> None:
    catalogue = pl.DataFrame({"item": ["a"], "text": ["A"], "price": [None]})
    assert attributes_of(catalogue, ["a", "b"]) is None


def test_attributes_of_other_items_are_refused(tmp_path: Path) -> None:
    assert read_attributes(tmp_path, ["a"]) is None
    prices = pl.DataFrame({"price": [1.0, None]})
    write_attributes(tmp_path, ["a", "b"], prices)
    assert prices.columns == ["price"]
    assert read_attributes(tmp_path, ["a", "b"])["price"].to_list() == [1.0, None]
    for items in (["b", "a"], ["a"], ["a", "b", "c"]):
        with pytest.raises(RecsysError, match="tells of other items than"):
            read_attributes(tmp_path, items)
    (tmp_path / "attributes.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecsysError, match="attributes.parquet is damaged"):
        read_attributes(tmp_path, ["a", "b"])


def test_what_is_not_known_passes_no_filter() -> None:
    filters = ItemFilters({"price": [1.0, 2.0, None], "category": ["x", None, "y"]})
    assert filters.mask(min_price=1.0, max_price=1.5).tolist() == [True, False, False]
    assert filters.mask(max_price=9.0).tolist() == [True, True, False]
    assert filters.mask(categories=("y", "z")).tolist() == [False, False, True]
    assert filters.mask(categories=("x", "y"), max_price=3.0).tolist() == [True, False, False]
    assert not filters.mask(categories=("z",)).any()
    with pytest.raises(KeyError, match="stock"):
        filters.mask(in_stock=True)


def test_diversity_is_maximal_marginal_relevance() -> None:
    random = np.random.default_rng(0)
    scores, vectors = np.sort(random.random(30))[::-1], random.normal(size=(30, 4))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    chosen = [0]
    while len(chosen) < 8:
        gains = {
            item: 0.4 * relevance[item] - 0.6 * max(unit[item] @ unit[other] for other in chosen)
            for item in range(30) if item not in chosen
        }  # fmt: skip
        chosen.append(max(gains, key=gains.get))
    assert diversified(scores, vectors, 8, 0.6).tolist() == chosen
    assert diversified(scores, vectors, 99, 0.0).tolist() == list(range(30))
    assert sorted(diversified(scores[:3], vectors[:3], 9, 1.0).tolist()) == [0, 1, 2]
    assert diversified(scores[:0], vectors[:0], 9, 0.5).tolist() == []
