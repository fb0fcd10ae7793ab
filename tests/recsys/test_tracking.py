from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recsys.errors import RecsysError
from recsys.tracking import Tracker


def test_tensorboard_shows_each_stage_by_epoch(tmp_path: Path) -> None:
    with Tracker(tmp_path, {"dimension": 8}) as tracker:
        tracker.log("pretrain", 1, {"loss": 4.0})
        tracker.log("finetune", 1, {"loss": 3.0})
        tracker.log("finetune", 2, {"loss": 2.0})
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in shown.Scalars("finetune/loss")] == [(1, 3.0), (2, 2.0)]
    assert [(e.step, e.value) for e in shown.Scalars("pretrain/loss")] == [(1, 4.0)]
    assert not (tmp_path / "wandb").exists()


def test_weights_and_biases_keeps_an_offline_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracker(tmp_path, {"dimension": 8}, "shop") as tracker:
        tracker.log("finetune", 1, {"loss": 3.0})
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    # W&B's own process writes it, and may do so after the run has ended here.
    written = Retrying(
        retry=retry_if_result(lambda content: b"finetune/loss" not in content),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(60),
    )(record.read_bytes)
    assert b"dimension" in written
    assert wandb.run is None


def test_without_weights_and_biases_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecsysError, match="not installed, so there is no project 'shop'"):
        Tracker(tmp_path, {}, "shop")
