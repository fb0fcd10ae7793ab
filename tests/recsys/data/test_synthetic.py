from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
import pytest

from recsys.data.synthetic import write_shop
from recsys.errors import RecsysError

COLUMNS = {
    "users": ["user", "segment", "since"],
    "items": ["item", "title", "category", "brand", "price", "stock", "text"],
    "events": ["user", "item", "event", "time"],
    "ratings": ["user", "item", "rating", "time"],
    "queries": ["query", "item", "relevance"],
}


def contents(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def test_the_same_seed_makes_the_same_shop(shop_folder: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "same", users=300, items=60, seed=1)
    write_shop(tmp_path / "other", users=300, items=60, seed=2)
    assert contents(tmp_path / "same") == contents(shop_folder)
    assert contents(tmp_path / "other")["events.csv"] != contents(shop_folder)["events.csv"]


def test_the_tables_fit_together(shop_folder: Path) -> None:
    tables = {name: pl.read_csv(shop_folder / f"{name}.csv") for name in COLUMNS}
    assert {name: table.columns for name, table in tables.items()} == COLUMNS
    known_users, known_items = set(tables["users"]["user"]), set(tables["items"]["item"])
    for name in ("events", "ratings"):
        assert set(tables[name]["user"]) <= known_users
    for name in ("events", "ratings", "queries"):
        assert set(tables[name]["item"]) <= known_items
    assert set(tables["events"]["event"]) == {"view", "cart", "purchase"}
    assert tables["events"]["time"].is_sorted()
    assert set(tables["ratings"]["rating"]) <= {1, 2, 3, 4, 5}
    assert set(tables["queries"]["relevance"]) == {0, 1, 2, 3}
    assert (tables["items"]["price"] > 0).all() and (tables["items"]["stock"] >= 0).all()


def test_a_shop_too_small_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="5 users and 60 items: take at least 10 and 50"):
        write_shop(tmp_path, users=5, items=60)
