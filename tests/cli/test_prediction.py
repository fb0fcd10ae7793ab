"""`hybrid train --task rating|click|search` on a store in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.environment import Environment
from cli.learning import environment_store
from handlers.drift import observer_of
from handlers.kinds import kind_in
from recsys.click import load_click
from recsys.rating import load_rating
from recsys.search.ranker import DEFAULT_WEIGHTS, load_search
from tests.cli.ended import ends


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def impressions(home: Path) -> Path:
    """A log in which item a is clicked half of the time, and item b hardly ever."""
    random = np.random.default_rng(0)
    rows = ["time,item,position,click,propensity,segment"]
    for time in range(400):
        item = "ab"[time % 2]
        clicked = int(random.random() < (0.5 if item == "a" else 0.05))
        rows.append(f"{time},{item},{time % 3},{clicked},0.5,{'xy'[time % 4 // 2]}")
    file = home / "impressions.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def stored(home: Path, digest: str) -> Path:
    store = environment_store(Environment.load("local", home / "home"))
    assert store.channels() == {}, "channels are for what recommends"
    return store.get(digest, home / "fetched")


def compared(folder: Path) -> set[str]:
    """What a service of the stored model compares with its training."""
    return {what for what, _ in observer_of(kind_in(folder).open(folder), folder).expected}


def test_a_rating_model_of_the_generated_shop_is_stored(home, capsys) -> None:
    code, out, _ = ends(capsys, "train", "--task", "rating", "--epochs", "2", "--json")
    assert code == 0
    trained = json.loads(out)
    assert {"RMSE", "bias RMSE", "mean RMSE"} <= trained["metrics"].keys()
    folder = stored(home, trained["digest"])
    model = load_rating(folder)
    assert model.recipe.epochs == 2 and len(model.items) > 100
    assert compared(folder) == {"users", "items", "predicted"}


def test_a_click_model_learns_from_a_log_and_a_recipe_file(home, impressions, capsys) -> None:
    recipe = home / "recipe.yaml"
    recipe.write_text("features: [segment]\ndimension: 2\nlearning_rate: 1\n")
    code, out, _ = ends(
        capsys, "train", "--task", "click", "--data", str(impressions), "--recipe", str(recipe),
        "--json",
    )  # fmt: skip
    assert code == 0
    trained = json.loads(out)
    assert trained["metrics"]["log loss"] < trained["metrics"]["constant log loss"]
    folder = stored(home, trained["digest"])
    assert load_click(folder).recipe.features == ("segment",)
    assert compared(folder) == {"items", "context_1_segment", "predicted"}


def test_a_search_model_of_the_generated_shop_is_stored(home, capsys) -> None:
    code, out, _ = ends(capsys, "train", "--task", "search", "--epochs", "1", "--json")
    assert code == 0
    digest = json.loads(out)["digest"]
    folder = stored(home, digest)
    model = load_search(folder)
    # No place of this machine: the same model has the same digest wherever it is trained.
    store = environment_store(Environment.load("local", home / "home"))
    assert str(home) not in json.dumps(store.manifest(json.loads(out)["digest"]).lineage)
    assert model.towers.recipe.epochs == 1
    # The shop's judged queries have set them.
    assert model.weights != DEFAULT_WEIGHTS
    assert compared(folder) == {"words", "query_words", "scores"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "click"], "shop logs no impressions"),
        (["--judgments", "queries.csv"], "Only --task search takes --judgments"),
        (["--task", "rating", "--blocks", "2"], "unknown key 'blocks'"),
        (["--task", "rating", "--workers", "2"], "Only --task next-item takes --workers"),
        (["--drop-bad-rows"], "hybrid data convert does"),
        (["--task", "bids"], "'bids' is not one of"),
    ],
)
def test_what_a_task_does_not_take_is_a_usage_error(home, capsys, arguments, said) -> None:
    code, _, error = ends(capsys, "train", *arguments)
    assert code == 2 and said in error


def test_ratings_that_are_missing_are_refused_or_left_out(home, capsys) -> None:
    rows = [f"u{row % 6},i{row % 5},{row % 5 + 1}" for row in range(40)]
    (home / "ratings.csv").write_text("\n".join(["user,item,rating", *rows, "u1,i1,", "u2,i2,-\n"]))
    arguments = ("train", "--task", "rating", "--epochs", "1", "--data", str(home / "ratings.csv"))
    code, _, error = ends(capsys, *arguments)
    assert code == 1 and "line 42: rating is None, it must be a number" in error
    code, out, error = ends(capsys, *arguments, "--drop-bad-rows", "--json")
    assert code == 0 and "2 rows dropped: rating is not a number" in error
    store = environment_store(Environment.load("local", home / "home"))
    data = store.manifest(json.loads(out)["digest"]).lineage["data"]
    assert (data["rows"], data["dropped"]) == (40, 2)


def test_too_few_ratings_are_named(home, capsys) -> None:
    (home / "ratings.csv").write_text("user,item,rating\nu,i,5\n")
    code, _, error = ends(capsys, "train", "--task", "rating", "--data", str(home / "ratings.csv"))
    assert code == 1 and "1 ratings are too few" in error
