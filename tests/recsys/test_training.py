from __future__ import annotations

import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recsys.artifact import load_model
from recsys.data.interactions import Interactions, load_interactions
from recsys.errors import RecipeError, RecsysError
from recsys.recipe import Recipe
from recsys.training import train

# With so few negatives the recipe's loss does sample.
SMALL = Recipe(
    dimension=16, blocks=1, heads=1, epochs=4, pretrain_epochs=2, batch_tokens=512, negatives=20
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_killed_at_any_step_goes_on_there_and_ends_as_an_undisturbed_one(
    shop_folder: Path,
    shop: Interactions,
    tmp_path: Path,
    gang,
    digests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = 0
    step = torch.optim.AdamW.step

    def counted(*arguments, **options):
        nonlocal steps
        steps += 1
        return step(*arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    whole = train(shop, SMALL, tmp_path / "whole")
    total, steps = steps, 0

    killed = tmp_path / "killed"
    deaths = sorted(random.Random(5).sample(range(1, total), 4))
    for before, death in zip([0, *deaths], deaths, strict=False):
        codes = gang.run(
            1, "train_and_die", shop_folder, SMALL.to_dict(), killed,
            after=death - before, save_every_step=True,
        )  # fmt: skip
        assert codes == [-signal.SIGKILL]
        assert not (killed / "artifact").exists()
    resumed = train(shop, SMALL, killed)

    assert steps == total - deaths[-1]
    assert digests(resumed.artifact) == digests(whole.artifact)
    assert resumed.metrics == whole.metrics


def test_a_run_killed_between_checkpoints_ends_as_an_undisturbed_one(
    shop_folder: Path, shop: Interactions, tmp_path: Path, gang, digests
) -> None:
    whole = train(shop, SMALL, tmp_path / "whole")
    killed = tmp_path / "killed"
    # An epoch has 22 steps: the first death is in the second epoch, the other two epochs later.
    for death in (30, 40):
        codes = gang.run(
            1, "train_and_die", shop_folder, SMALL.to_dict(), killed,
            after=death, save_every_step=False,
        )  # fmt: skip
        assert codes == [-signal.SIGKILL]
    epochs = []
    resumed = train(shop, SMALL, killed, progress=lambda done, *_: epochs.append(done))
    assert epochs[0] > 1 and epochs[-1] == 6
    assert digests(resumed.artifact) == digests(whole.artifact)


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
    assert sum(loaded.profile.shares["recommended"]) == pytest.approx(1)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_training_stops_when_validation_no_longer_rises(shop: Interactions, tmp_path: Path) -> None:
    # So high a rate breaks the model: it cannot get better for long.
    recipe = Recipe(dimension=16, blocks=1, heads=1, learning_rate=1.0, patience=2, epochs=50)
    assert train(shop, recipe, tmp_path).epochs < 50


def test_a_finished_run_is_not_trained_again(
    shop: Interactions, tmp_path: Path, digests
) -> None:
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


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("1 5\n2 6\n", "no user has two training events"),
        ("1 5 6\n2 6 5\n", "no user has three events or more"),
    ],
)
def test_a_shop_without_sequences_is_refused_before_anything_is_written(
    tmp_path: Path, log: str, sentence: str
) -> None:
    (tmp_path / "log.txt").write_text(log)
    with pytest.raises(RecsysError, match=sentence):
        train(load_interactions(tmp_path / "log.txt"), SMALL, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_objective_that_needs_the_whole_batch_is_not_worked_on_in_parts(
    shop: Interactions, tmp_path: Path
) -> None:
    recipe = replace(SMALL, contrastive=0.5, accumulation=3)
    with pytest.raises(RecipeError, match="contrastive is 0.5.* 3 parts.*set contrastive to 0"):
        train(shop, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
