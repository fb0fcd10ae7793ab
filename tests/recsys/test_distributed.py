"""Training in two gloo processes, next to the same training in one."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from recsys.data.interactions import Interactions, write_interactions
from recsys.distributed import Workers, joined
from recsys.errors import RecsysError
from recsys.recipe import Recipe
from recsys.training import train

pytestmark = pytest.mark.usefixtures("one_thread")

# The recipe's loss and pretraining, with so few negatives that it does sample, and item texts.
SMALL = Recipe(
    dimension=16, blocks=1, heads=1, epochs=2, pretrain_epochs=1, batch_tokens=512, length=12,
    negatives=20,
)  # fmt: skip
# Batches of one or two windows: now and then a process has none. The loss is the whole softmax.
TINY = replace(SMALL, batch_tokens=12, epochs=1, pretrain_epochs=0, negatives=2048)


def assert_same(folder: Path, other: Path) -> None:
    """Weights up to rounding, and the same test metrics."""
    weights, others = (load_file(f / "artifact/weights.safetensors") for f in (folder, other))
    torch.testing.assert_close(weights, others, rtol=1e-3, atol=1e-4)
    metrics, expected = (
        json.loads((f / "artifact/metrics.json").read_text()) for f in (folder, other)
    )
    assert metrics == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shard_items", [False, True])
@pytest.mark.parametrize(("recipe", "users"), [(SMALL, 299), (TINY, 40)])
def test_two_processes_train_what_one_trains(
    shop: Interactions, tmp_path: Path, gang, recipe: Recipe, users: int, shard_items: bool
) -> None:
    few = shop.select(range(users))
    write_interactions(few, tmp_path / "few")
    train(few, recipe, tmp_path / "alone")
    codes = gang.run(
        2, "train_run", tmp_path / "few", recipe.to_dict(), tmp_path / "together",
        shard_items=shard_items,
    )  # fmt: skip
    assert codes == [0, 0]
    assert_same(tmp_path / "together", tmp_path / "alone")
    assert len(list((tmp_path / "together/tensorboard").iterdir())) == 1


@pytest.mark.parametrize("shard_items", [False, True])
def test_when_one_process_is_killed_all_end_and_the_run_can_go_on(
    shop_folder: Path, tmp_path: Path, gang, digests, shard_items: bool
) -> None:
    recipe = SMALL.to_dict()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    gang.run(2, "train_run", shop_folder, recipe, whole, shard_items=shard_items)
    codes = gang.run(2, "one_dies", shop_folder, recipe, killed, after=9, shard_items=shard_items)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    gang.run(2, "train_run", shop_folder, recipe, killed, shard_items=shard_items)
    assert digests(killed / "artifact") == digests(whole / "artifact")


def test_a_sharded_run_does_not_go_on_unsharded(
    shop: Interactions, shop_folder: Path, tmp_path: Path, gang
) -> None:
    gang.run(2, "train_run", shop_folder, SMALL.to_dict(), tmp_path, shard_items=True)
    with pytest.raises(RecsysError, match="pretrain.pt is of a run that shards its item table"):
        train(shop, SMALL, tmp_path)


def test_work_in_parts_is_the_same_training(shop: Interactions, tmp_path: Path) -> None:
    train(shop, SMALL, tmp_path / "whole")
    for change in ({"accumulation": 3}, {"activation_checkpointing": True, "accumulation": 2}):
        folder = tmp_path / str(len(change))
        train(shop, replace(SMALL, **change), folder)
        assert_same(folder, tmp_path / "whole")


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 9))
def test_shares_are_equally_long_and_hold_every_row(rows: list[int], count: int) -> None:
    shares = [
        Workers(rank, count, torch.device("cpu")).share(np.array(rows, dtype=object)).tolist()
        for rank in range(count)
    ]
    assert len({len(share) for share in shares}) == 1
    in_turn = [row for turn in zip(*shares, strict=True) for row in turn]
    assert in_turn[: len(rows)] == rows


def test_what_is_found_for_shares_comes_back_in_order(tmp_path: Path, gang) -> None:
    assert gang.run(2, "deal_and_gather", 7, tmp_path / "found") == [0, 0]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"found{rank}", weights_only=True)
        assert found.tolist() == [0, -1, -2, -3, -4, -5, -6]


def test_a_job_that_torchrun_did_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(RecsysError, match="start it with torchrun"), joined():
        pass
