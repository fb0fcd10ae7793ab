from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.artifact import load_model
from recsys.data.interactions import Interactions, load_interactions
from recsys.errors import RecsysError
from recsys.recipe import Recipe
from recsys.training import train

SMALL = Recipe(dimension=16, blocks=1, heads=1, epochs=4, pretrain_epochs=2, batch_tokens=512)
PROJECT = Path(__file__).resolve().parents[2]

# Trains as a user's process would, and dies without a chance to tidy up at the nth optimizer step.
DOOMED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from recsys.data.interactions import load_interactions
from recsys.recipe import Recipe
from recsys.training import train

left = int(sys.argv[3])
step = torch.optim.AdamW.step
def counted(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments, **options)
torch.optim.AdamW.step = counted
train(load_interactions(sys.argv[1]), Recipe.from_dict(eval(sys.argv[4])), sys.argv[2])
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def digests(artifact: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in artifact.iterdir()}


def test_a_run_killed_twice_ends_with_the_weights_of_an_undisturbed_one(
    shop_folder: Path, shop: Interactions, tmp_path: Path
) -> None:
    whole = train(shop, SMALL, tmp_path / "whole")

    windows = sum(max(n - 3, 0) for n in (shop.offsets[1:] - shop.offsets[:-1]).tolist())
    steps = windows // SMALL.batch_tokens
    killed = tmp_path / "killed"
    for survived in (steps + steps // 2, 2 * steps + steps // 2):
        arguments = [str(shop_folder), str(killed), str(survived), repr(SMALL.to_dict())]
        died = subprocess.run(
            [sys.executable, "-c", DOOMED, *arguments], cwd=PROJECT, capture_output=True, text=True
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not (killed / "artifact").exists()
    epochs = []
    resumed = train(shop, SMALL, killed, progress=lambda done, *_: epochs.append(done))

    assert epochs and epochs[0] > 1 and epochs[-1] == 6
    assert digests(resumed.artifact) == digests(whole.artifact)
    assert resumed.metrics == whole.metrics


def test_training_beats_popularity_by_far_and_tells_what_it_does(
    shop: Interactions, tmp_path: Path
) -> None:
    told = []
    recipe = Recipe(
        dimension=32, blocks=1, epochs=15, pretrain_epochs=1, batch_tokens=256, learning_rate=3e-3
    )
    result = train(shop, recipe, tmp_path, progress=lambda *step: told.append(step))

    assert result.metrics["users"] == 300
    assert result.metrics["NDCG@10"] > 2 * result.metrics["popularity NDCG@10"]
    assert result.metrics["HR@10"] >= result.metrics["HR@10 unmasked"]
    assert [step[:2] for step in told] == [(n, 16) for n in range(1, result.epochs + 2)]
    assert "pretraining: loss" in told[0][2] and "validation NDCG@10" in told[-1][2]
    loaded = load_model(result.artifact)
    assert loaded.items == shop.items
    assert loaded.metrics == result.metrics
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_training_stops_when_validation_no_longer_rises(shop: Interactions, tmp_path: Path) -> None:
    # So high a rate breaks the model: it cannot get better for long.
    recipe = Recipe(dimension=16, blocks=1, heads=1, learning_rate=1.0, patience=2, epochs=50)
    assert train(shop, recipe, tmp_path).epochs < 50


def test_a_finished_run_is_not_trained_again(shop: Interactions, tmp_path: Path) -> None:
    first = train(shop, SMALL, tmp_path)
    before = digests(first.artifact)
    told = []
    again = train(shop, SMALL, tmp_path, progress=lambda *step: told.append(step))
    assert told == []
    assert digests(again.artifact) == before
    assert again.epochs == first.epochs


def test_a_run_is_not_continued_with_other_data_or_another_recipe(
    shop: Interactions, tmp_path: Path
) -> None:
    train(shop, Recipe(dimension=8, heads=1, blocks=1, epochs=1, pretrain_epochs=0), tmp_path)
    with pytest.raises(RecsysError, match="holds a run with another recipe; train in a new folder"):
        train(shop, SMALL, tmp_path)
    with pytest.raises(RecsysError, match="another recipe and another data"):
        train(shop.select(range(100)), SMALL, tmp_path)


def test_a_damaged_checkpoint_is_named(shop: Interactions, tmp_path: Path) -> None:
    train(shop, SMALL, tmp_path)
    (tmp_path / "finetune.pt").write_bytes(b"half a che")
    with pytest.raises(RecsysError, match="finetune.pt is damaged; delete it"):
        train(shop, SMALL, tmp_path)


def test_a_shop_without_sequences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 5\n2 6\n")
    with pytest.raises(RecsysError, match="no user has two training events"):
        train(load_interactions(tmp_path / "log.txt"), SMALL, tmp_path / "run")
