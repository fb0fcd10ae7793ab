from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys import index
from recsys.accelerate.job import Acceleration, accelerate
from recsys.accelerate.runtime import open_runtime
from recsys.accelerate.session import OnnxEncoder
from recsys.artifact import load_model
from recsys.data.interactions import Interactions
from recsys.errors import RecsysError
from recsys.recipe import Recipe
from recsys.training import train


def test_all_of_it_at_once_gives_a_smaller_model_that_still_recommends(
    artifact: Path, shop: Interactions, tmp_path: Path
) -> None:
    how = Acceleration(prune=0.5, epochs=1, quantise="int8", onnx=True)
    steps: list[tuple[int, int, str]] = []
    done = accelerate(
        artifact, shop, how, tmp_path / "fast", progress=lambda *step: steps.append(step)
    )
    assert abs(done.loss) < 0.05 and done.after.metrics["users"] == 300
    assert done.before.p50_ms > 0 and done.after.p99_ms >= done.after.p50_ms > 0
    assert [step[0] for step in steps] == list(range(5)) and steps[-1][1] == 5
    names = {file.name for file in (tmp_path / "fast").iterdir()}
    assert names == {
        "weights.safetensors", "recipe.json", "items.json", "metrics.json", "profile.json",
        "acceleration.json", "encoder.onnx", "encoder.int8.onnx",
    }  # fmt: skip
    assert json.loads((tmp_path / "fast" / "metrics.json").read_text()) == done.after.metrics
    runtime, _ = open_runtime(tmp_path / "fast")
    assert isinstance(runtime.encode, OnnxEncoder)
    scores, items = runtime.recommend([[1, 2, 3], [4]], 10)
    assert scores.shape == items.shape == (2, 10)
    # The same files serve where there is no runtime: plain torch, floats, smaller layers.
    model = load_model(tmp_path / "fast").model
    assert [block.heads for block in model.blocks] == [2, 2]
    ours, theirs = model.encode([[1, 2, 3]]).detach().numpy(), runtime.encode([[1, 2, 3]])
    assert 0 < np.abs(ours - theirs).max() < 0.3


@pytest.mark.parametrize("how", [Acceleration(quantise="int8"), Acceleration(prune=0.25, epochs=0)])
def test_each_way_alone_answers_much_like_the_model_before(
    how: Acceleration, artifact: Path, shop: Interactions, tmp_path: Path
) -> None:
    done = accelerate(artifact, shop, how, tmp_path / "fast")
    assert done.after.size < done.before.size
    assert abs(done.loss) < 0.05


def test_where_people_come_back_for_what_they_had_the_loss_is_of_that(tmp_path: Path) -> None:
    rounds = np.concatenate([(user + np.arange(20) % 5) % 40 for user in range(60)])
    shop = Interactions(
        users=[str(user) for user in range(60)],
        items=[str(item) for item in range(40)],
        offsets=np.arange(61) * 20,
        sequence=rounds.astype(np.int32),
    )
    recipe = Recipe(dimension=16, heads=2, epochs=3, learning_rate=0.01)
    run = train(shop, recipe, tmp_path / "run")
    done = accelerate(
        run.artifact, shop, Acceleration(prune=0.95, pruning="magnitude", epochs=0), tmp_path / "fast"
    )
    before, after = done.before.metrics, done.after.metrics
    assert before["NDCG@10"] == after["NDCG@10"] == 0.0, "nobody's next item was new to them"
    assert done.metric == "NDCG@10 unmasked"
    assert done.loss == before[done.metric] - after[done.metric] != 0.0


def test_a_large_catalogue_is_searched_approximately_and_evaluated_so(
    artifact: Path, shop: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "EXACT_BELOW", 50)
    monkeypatch.setattr("recsys.accelerate.runtime.EXACT_BELOW", 50)
    done = accelerate(artifact, shop, Acceleration(quantise="int8"), tmp_path / "fast")
    assert isinstance(open_runtime(tmp_path / "fast")[0].index, index.ApproximateIndex)
    assert abs(done.loss) < 0.05


def test_data_with_other_items_is_refused(
    artifact: Path, shop: Interactions, tmp_path: Path
) -> None:
    other = replace(shop, items=[*shop.items[1:], "new"])
    with pytest.raises(RecsysError, match="the data has 60 items, the model 60, and they are not"):
        accelerate(artifact, other, Acceleration(onnx=True), tmp_path / "fast")
    assert not (tmp_path / "fast").exists()


def test_damaged_parts_are_named(artifact: Path, shop: Interactions, tmp_path: Path) -> None:
    folder = tmp_path / "fast"
    accelerate(artifact, shop, Acceleration(quantise="int8"), folder)
    settings = folder / "acceleration.json"
    settings.write_text(json.dumps({"onnx": True}))
    (folder / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(RecsysError, match="encoder.onnx is damaged"):
        open_runtime(folder)
    settings.write_text("{")
    with pytest.raises(RecsysError, match="acceleration.json is damaged"):
        open_runtime(folder)
