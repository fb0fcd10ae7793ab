"""`hybrid evaluate` and `hybrid compare` on models that were stored as `hybrid train` stores them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.environment import Environment
from cli.learning import environment_store
from recsys.artifact import save_model
from recsys.data.interactions import load_interactions
from recsys.data.synthetic import write_shop
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from tests.cli.ended import ends

RECIPE = Recipe(dimension=8, blocks=1, heads=1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, users=120, items=50, seed=3)
    return folder


def stored(home: Path, data: Path, seed: int) -> str:
    """Digest of a model for the data, with weights that follow from the seed."""
    interactions = load_interactions(data)
    torch.manual_seed(seed)
    model = SequentialRecommender(len(interactions.items), RECIPE)
    artifact = save_model(home / f"model{seed}", model, RECIPE, interactions.items, {})
    source = {"address": str(data), "fingerprint": interactions.fingerprint()}
    store = environment_store(Environment.load("local", home))
    return store.put(artifact, lineage={"made_by": "train", "data": source})


def test_a_stored_model_is_reported_on_with_intervals_and_groups(home, shop, capsys) -> None:
    digest = stored(home, shop, seed=0)
    code, text, error = ends(capsys, "evaluate", digest[:20])
    assert code == 0 and "was trained on" not in error
    assert "test, 120 users" in text
    interval = r"0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]"
    assert re.search(rf"NDCG@10 +{interval} +{interval}", text)
    assert re.search(r"coverage@10 +[01]\.\d{4} +[01]\.\d{4}", text)
    assert re.search(rf"history of 10 to 19 +\d+ +{interval}", text)

    code, text, _ = ends(capsys, "evaluate", digest, "-k", "3", "--json")
    answer = json.loads(text)
    assert code == 0 and answer["model"] == digest and answer["as_trained"] is True
    figure = answer["report"]["whole"]["unmasked"]["NDCG@3"]
    assert 0 <= figure["low"] <= figure["value"] <= figure["high"]


def test_other_data_than_the_models_own_is_said(home, shop, capsys, tmp_path) -> None:
    digest = stored(home, shop, seed=0)
    interactions = load_interactions(shop)
    lines = [" ".join([user, *interactions.history(user)]) for user in interactions.users[:40]]
    (tmp_path / "some.txt").write_text("\n".join(lines) + "\n")
    code, text, error = ends(capsys, "evaluate", digest, "--data", str(tmp_path / "some.txt"))
    assert code == 0 and "test, 40 users" in text
    assert "some.txt is not what the model was trained on" in error


def test_of_a_time_split_the_first_event_after_the_cut_is_asked_for(home, shop, capsys, tmp_path) -> None:
    assert ends(capsys, "data", "split", str(shop), str(tmp_path / "cut"))[0] == 0
    digest = stored(home, tmp_path / "cut" / "train", seed=0)
    code, text, error = ends(capsys, "evaluate", digest, "--data", str(tmp_path / "cut"), "--json")
    answer = json.loads(text)
    assert code == 0 and answer["as_trained"] is True and "was trained on" not in error
    before, test = (load_interactions(tmp_path / "cut" / part) for part in ("train", "test"))
    both = (np.diff(before.offsets) > 0) & (np.diff(test.offsets) > 0)
    assert answer["report"]["whole"]["users"] == both.sum() > 0

    lines = [f"u{user},i0000{user % 5},{user}\n" for user in range(100)]
    (tmp_path / "once.csv").write_text("".join(["user,item,time\n", *lines]))
    assert ends(capsys, "data", "split", str(tmp_path / "once.csv"), str(tmp_path / "once"))[0] == 0
    code, _, error = ends(capsys, "evaluate", digest, "--data", str(tmp_path / "once"))
    assert code == 1 and "No user has events both before the test part and in it" in error


def test_data_with_items_that_the_model_does_not_know_is_refused(
    home, shop, capsys, tmp_path
) -> None:
    digest = stored(home, shop, seed=0)
    (tmp_path / "new.txt").write_text("u1 i00001 i00002 i00003 spade\n")
    code, _, error = ends(capsys, "evaluate", digest, "--data", str(tmp_path / "new.txt"))
    assert code == 1 and "'spade'" in error and "Traceback" not in error


def test_two_models_are_compared_in_a_sentence(home, shop, capsys) -> None:
    first, second = stored(home, shop, seed=0), stored(home, shop, seed=1)
    code, text, _ = ends(capsys, "compare", first, second)
    assert code == 0
    row = r"NDCG@10 +0\.\d{4} +0\.\d{4} +[+-]0\.\d{4} +\[[+-]0\.\d{4}, [+-]0\.\d{4}\] +[01]\.\d{4}"
    assert re.search(row, text)
    assert re.search(r"A and B do not differ|is better than", text.splitlines()[-1])

    code, text, _ = ends(capsys, "compare", first, first, "--json")
    answer = json.loads(text)
    assert answer["differs"] is False and "do not differ demonstrably" in answer["verdict"]
    assert answer["comparison"]["masked"]["NDCG@10"]["p"] == 1.0


def test_models_of_other_data_are_not_compared(home, shop, capsys, tmp_path) -> None:
    first = stored(home, shop, seed=0)
    write_shop(tmp_path / "larger", users=120, items=60, seed=3)
    second = stored(home, tmp_path / "larger", seed=1)
    code, _, error = ends(capsys, "compare", first, second)
    assert code == 2 and "different item vocabularies" in error

    write_shop(tmp_path / "like", users=130, items=50, seed=3)
    third = stored(home, tmp_path / "like", seed=2)
    code, _, error = ends(capsys, "compare", first, third)
    assert code == 2 and "different data" in error and str(tmp_path / "like") in error


@pytest.mark.parametrize("command", [["evaluate"], ["compare", "candidate", "production"]])
def test_a_model_that_is_not_there_is_named(home, capsys, command) -> None:
    code, _, error = ends(capsys, *command)
    assert code == 1 and "No model is in channel 'candidate' yet" in error
