"""The gate between a federated model and the channel from which models are deployed."""

from __future__ import annotations


import pytest
import torch

from cli.environment import Environment
from cli.errors import CommandError
from cli.learning import environment_store
from cli.promotion import promote
from model_store.store import Store
from recsys.artifact import save_model
from recsys.data.interactions import load_interactions
from recsys.data.split import leave_one_out
from recsys.data.synthetic import write_shop
from recsys.finetune import train_local
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe

RECIPE = Recipe(dimension=16, blocks=1, heads=1, length=12, text_buckets=0)


def quiet(done: int, total: int, text: str) -> None:
    pass


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment.load("local", tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def models(environment: Environment) -> dict[str, str]:
    """Digests of a model that has learnt something, one that has not, one of another catalogue."""
    shop = environment.folder / "shop"
    write_shop(shop, users=150, items=60)
    interactions = load_interactions(shop)
    data = {"address": str(shop), "fingerprint": interactions.fingerprint()}
    store = environment_store(environment)
    digests = {}
    for name, epochs in (("untrained", 0), ("trained", 6)):
        torch.manual_seed(0)
        model = SequentialRecommender(len(interactions.items), RECIPE)
        train_local(model, leave_one_out(interactions).train, RECIPE, epochs=epochs, seed=0)
        artifact = save_model(environment.folder / name, model, RECIPE, interactions.items, {})
        digests[name] = store.put(artifact, lineage={"data": data})
    strange = save_model(
        environment.folder / "strange", SequentialRecommender(3, RECIPE), RECIPE, ["a", "b", "c"], {}
    )
    digests["strange"] = store.put(strange, lineage={"data": data | {"fingerprint": "other"}})
    return digests


@pytest.fixture
def store(environment: Environment, models: dict[str, str]) -> Store:
    store = environment_store(environment)
    store.move_channel("candidate", models["strange"])
    return store


def test_a_model_below_production_is_no_candidate(
    environment: Environment, models: dict[str, str], store: Store
) -> None:
    store.move_channel("production", models["trained"])
    with pytest.raises(CommandError, match=r"not the candidate, as it is below production: NDCG@10"):
        promote(environment, models["untrained"], quiet)
    assert store.channels()["candidate"] == models["strange"]


def test_a_model_above_production_is_one_and_the_figures_are_told(
    environment: Environment, models: dict[str, str], store: Store
) -> None:
    store.move_channel("production", models["untrained"])
    said = promote(environment, models["trained"], quiet)
    assert said.startswith("Not below production: NDCG@10") and "150 users" in said
    assert store.channels()["candidate"] == models["trained"]


def test_what_cannot_be_compared_passes_and_says_so(
    environment: Environment, models: dict[str, str], store: Store
) -> None:
    store.move_channel("production", models["trained"])
    assert "Nothing else is in production" in promote(environment, models["trained"], quiet)
    said = promote(environment, models["strange"], quiet)
    assert said.startswith("Not compared with production:") and "item vocabularies" in said
    assert store.channels()["candidate"] == models["strange"]
