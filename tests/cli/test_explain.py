"""hybrid explain: what a user reads of why an item was recommended, from the model store alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from cli.application import Application
from cli.commands.explain import explain
from cli.learning import environment_store
from recsys.artifact import save_model
from recsys.data.interactions import load_interactions
from recsys.data.synthetic import write_shop
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose model store has one model in production; its weights are random."""
    home = tmp_path_factory.mktemp("home")
    write_shop(home / "shop", users=20, items=50, seed=1)
    items = load_interactions(home / "shop").items
    recipe = Recipe(dimension=16, blocks=1)
    torch.manual_seed(0)
    save_model(home / "model", SequentialRecommender(len(items), recipe), recipe, items, {})
    store = environment_store(Application(home).environment("local"))
    digest = store.put(home / "model", lineage={"data": {"address": str(home / "shop")}})
    store.move_channel("production", digest)
    return home


def run(home: Path, *arguments: object) -> Result:
    return CliRunner().invoke(explain, [str(part) for part in arguments], obj=Application(home))


@pytest.fixture(scope="module")
def recommended(home: Path) -> tuple[str, str]:
    """A user, and the item that the model ranks first for them."""
    shop = load_interactions(home / "shop")
    user = shop.users[0]
    found = (run(home, "--user", user, "--item", item, "-k", 1, "--json") for item in shop.items)
    return user, next(json.loads(result.output)["item"] for result in found if not result.exit_code)


def test_it_names_the_events_that_caused_it(home: Path, recommended) -> None:
    user, item = recommended
    result = run(home, "--user", user, "--item", item, "-k", 1, "--json")
    told = json.loads(result.output)
    shop = load_interactions(home / "shop")
    assert [event["item"] for event in told["events"]] == shop.history(user)
    assert told["text"] == shop.item_text[shop.items.index(item)] != ""
    assert told["rank"] == 1 < told["counterfactual"]["rank"]
    removed = [event["item"] for event in told["events"] if event["removed"]]
    assert removed == told["counterfactual"]["removed"]

    text = " ".join(run(home, "--user", user, "--item", item, "-k", 1).output.split())
    assert text.startswith(f"Item {item} ({told['text']}) is number 1 for user {user}")
    assert f"({', '.join(removed)}) the item falls from 1 to" in text
    assert text.endswith(f"and item {told['counterfactual']['successor']} comes in.")
    assert told["sentence"] in text


def test_an_item_without_a_text_stands_by_itself(home: Path, recommended) -> None:
    user, item = recommended
    catalogue = home / "shop" / "items.csv"
    away = catalogue.rename(home / "items.csv")
    try:
        text = " ".join(run(home, "--user", user, "--item", item, "-k", 1).output.split())
    finally:
        away.rename(catalogue)
    assert text.startswith(f"Item {item} is number 1 for user {user}, score")


def test_an_item_that_stays_is_said_to_stay(home: Path, recommended) -> None:
    user, item = recommended
    text = run(home, "--user", user, "--item", item, "-k", 50).output
    assert "No set of events was found without which the item leaves the first 50." in text


@pytest.mark.parametrize(
    ("user", "item", "sentence"),
    [
        ("nobody", None, "unknown user 'nobody': the data holds 20 users"),
        (None, "nothing", "unknown item 'nothing': the model knows 50 items, for example"),
        (None, "seen", "the item is in the user's history"),
    ],
)
def test_what_is_unknown_is_named(home: Path, recommended, user, item, sentence) -> None:
    known, first = recommended
    if item == "seen":
        item = load_interactions(home / "shop").history(known)[0]
    result = run(home, "--user", user or known, "--item", item or first)
    assert result.exit_code and sentence in str(result.exception)


def test_a_channel_without_a_model_is_named(home: Path) -> None:
    result = run(home, "--user", "u", "--item", "i", "--model", "canary")
    assert result.exit_code and "canary" in str(result.exception)
