from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from handlers.recommender import Recommender
from handlers.requests import RecommendRequest
from recsys import index
from recsys.accelerate.export import export_encoder
from recsys.accelerate.session import OnnxEncoder
from recsys.artifact import load_model, save_model
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.text import hash_texts


@pytest.fixture(scope="module")
def recommender(artifact: Path) -> Recommender:
    return Recommender(artifact)


def ask(recommender: Recommender, *history: str, **fields) -> list[tuple[str, float]]:
    return recommender.recommend([RecommendRequest(history, **fields)])[0]


def test_the_best_by_the_model_come_first(recommender: Recommender, artifact: Path) -> None:
    loaded = load_model(artifact)
    with torch.inference_mode():
        scores = loaded.model.scores(loaded.model.encode([[3, 5]]))[0]
    best = scores.argsort(descending=True)[:5].tolist()
    answer = ask(recommender, "item-3", "item-5", k=5, exclude_seen=False)
    assert [item for item, _ in answer] == [loaded.items[place] for place in best]
    assert [score for _, score in answer] == pytest.approx(scores[best].tolist())


def test_a_batch_answers_each_as_if_alone(recommender: Recommender) -> None:
    requests = [
        RecommendRequest(("item-1",), 3),
        RecommendRequest((), 40),
        RecommendRequest(tuple(f"item-{n}" for n in range(20)), 7),
        RecommendRequest(("item-1", "no-such", "item-2"), 1, exclude_seen=False),
        RecommendRequest(("no-such",), 5),
    ]
    for request, together in zip(requests, recommender.recommend(requests), strict=True):
        (alone,) = recommender.recommend([request])
        assert [item for item, _ in together] == [item for item, _ in alone]
        assert [score for _, score in together] == pytest.approx([s for _, s in alone], abs=1e-5)


def test_seen_items_are_left_out_only_on_request(recommender: Recommender) -> None:
    history = [f"item-{n}" for n in range(0, 40, 2)]
    without = {item for item, _ in ask(recommender, *history, k=40)}
    assert without == {f"item-{n}" for n in range(1, 40, 2)}
    assert len(ask(recommender, *history, k=40, exclude_seen=False)) == 40


def test_seen_items_older_than_the_models_window_are_left_out_too(
    recommender: Recommender,
) -> None:
    history = [f"item-{n}" for n in range(20)]  # the model looks at the last 8
    assert {item for item, _ in ask(recommender, *history, k=20)}.isdisjoint(history)


def test_unknown_items_change_nothing(recommender: Recommender) -> None:
    assert ask(recommender, "item-4", k=5) == ask(recommender, "gone", "item-4", "x", k=5)


def test_a_user_without_known_items_gets_an_answer(recommender: Recommender) -> None:
    answer = ask(recommender, k=10)
    assert len(answer) == 10
    assert answer == ask(recommender, "never-heard-of", k=10)


def test_who_has_seen_everything_gets_nothing(recommender: Recommender) -> None:
    assert ask(recommender, *[f"item-{n}" for n in range(40)], k=3) == []


def test_scores_that_are_no_numbers_are_an_error(artifact: Path, tmp_path: Path) -> None:
    loaded = load_model(artifact)
    with torch.no_grad():
        loaded.model.item_embedding.weight[7] = float("nan")
    save_model(tmp_path, loaded.model, loaded.recipe, loaded.items, {})
    with pytest.raises(FloatingPointError, match="not finite"):
        ask(Recommender(tmp_path), "item-1")


def test_a_cold_user_gets_what_the_model_expects_of_anybody(
    artifact: Path, tmp_path: Path
) -> None:
    loaded = load_model(artifact)
    with torch.no_grad():
        # Whatever a user did, the state leans towards item 7.
        loaded.model.norm.bias.copy_(loaded.model.item_embedding.weight[7] * 3)
    save_model(tmp_path, loaded.model, loaded.recipe, loaded.items, {})
    assert ask(Recommender(tmp_path), k=1)[0][0] == "item-7"


def test_a_model_of_item_texts_is_served_as_it_was_trained(tmp_path: Path) -> None:
    recipe = Recipe(dimension=16, heads=2, blocks=1, length=8)
    texts = hash_texts(["red kettle", "blue kettle", "red hat", ""], recipe.text_buckets)
    model = SequentialRecommender(4, recipe, texts).eval()
    folder = save_model(tmp_path, model, recipe, ["a", "b", "c", "d"], {})
    answer = ask(Recommender(folder), "a", "c", k=4, exclude_seen=False)
    with torch.inference_mode():
        scores = model.scores(model.encode([[0, 2]]))[0].tolist()
    assert dict(answer) == pytest.approx(dict(zip("abcd", scores, strict=True)), abs=1e-5)


def test_an_exported_model_is_served_by_onnx_runtime(
    recommender: Recommender, artifact: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "fast")
    export_encoder(load_model(folder).model.folded(), folder, int8=False)
    (folder / "acceleration.json").write_text('{"onnx": true}')
    fast = Recommender(folder)
    assert isinstance(fast.runtime.encode, OnnxEncoder)
    answer = ask(fast, "item-1", "item-9", k=40)
    wanted = ask(recommender, "item-1", "item-9", k=40)
    assert [item for item, _ in answer] == [item for item, _ in wanted]
    assert [score for _, score in answer] == pytest.approx([s for _, s in wanted], abs=1e-4)


def test_a_large_catalogue_is_searched_by_the_approximate_index(
    recommender: Recommender, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "EXACT_BELOW", 40)
    large = Recommender(artifact)
    assert isinstance(large.runtime.index, index.ApproximateIndex)
    history = [f"item-{n}" for n in range(0, 20)]
    answer = {item for item, _ in ask(large, *history, k=10)}
    assert answer.isdisjoint(history)
    assert len(answer & {item for item, _ in ask(recommender, *history, k=10)}) >= 9
    assert ask(large, k=5)[0][0] == ask(recommender, k=5)[0][0]
