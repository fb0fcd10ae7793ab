from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.recommender import Recommender
from handlers.errors import BadRequest, UnknownItem
from handlers.requests import RecommendRequest, SimilarRequest, Where
from handlers.stopwatch import Stopwatch
from recsys import index
from recsys.accelerate.export import export_encoder
from recsys.accelerate.session import OnnxEncoder
from recsys.artifact import load_model, save_model
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.text import hash_texts


@pytest.fixture(scope="module")
def recommender(artifact: Path) -> Recommender:
    return Recommender.open(artifact)


def answers(recommender: Recommender, *requests) -> list[list[tuple[str, float]]]:
    found = recommender.answer(list(requests), Stopwatch())
    return [[(row["item"], row["score"]) for row in answer["items"]] for answer in found]


def ask(recommender: Recommender, *history: str, **fields) -> list[tuple[str, float]]:
    return answers(recommender, RecommendRequest(history=history, **fields))[0]


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
        RecommendRequest(history=("item-1",), k=3),
        RecommendRequest(history=(), k=40),
        SimilarRequest(item="item-3", k=4),
        RecommendRequest(history=tuple(f"item-{n}" for n in range(20)), k=7),
        RecommendRequest(history=("item-1", "no-such", "item-2"), k=1, exclude_seen=False),
        RecommendRequest(history=("no-such",), k=5, where=Where(min_price=10.0)),
        RecommendRequest(history=("item-4",), k=9, where=Where(in_stock=True), diversity=0.5),
        SimilarRequest(item="item-9", k=40),
        RecommendRequest(history=("item-4", "item-9"), k=5, where=Where(in_stock=True)),
    ]
    for request, together in zip(requests, answers(recommender, *requests), strict=True):
        (alone,) = answers(recommender, request)
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
        ask(Recommender.open(tmp_path), "item-1")


def test_a_cold_user_gets_what_the_model_expects_of_anybody(
    artifact: Path, tmp_path: Path
) -> None:
    loaded = load_model(artifact)
    with torch.no_grad():
        # Whatever a user did, the state leans towards item 7.
        loaded.model.norm.bias.copy_(loaded.model.item_embedding.weight[7] * 3)
    save_model(tmp_path, loaded.model, loaded.recipe, loaded.items, {})
    assert ask(Recommender.open(tmp_path), k=1)[0][0] == "item-7"


def test_a_model_of_item_texts_is_served_as_it_was_trained(tmp_path: Path) -> None:
    recipe = Recipe(dimension=16, heads=2, blocks=1, length=8)
    texts = hash_texts(["red kettle", "blue kettle", "red hat", ""], recipe.text_buckets)
    model = SequentialRecommender(4, recipe, texts).eval()
    folder = save_model(tmp_path, model, recipe, ["a", "b", "c", "d"], {})
    answer = ask(Recommender.open(folder), "a", "c", k=4, exclude_seen=False)
    with torch.inference_mode():
        scores = model.scores(model.encode([[0, 2]]))[0].tolist()
    assert dict(answer) == pytest.approx(dict(zip("abcd", scores, strict=True)), abs=1e-5)


def test_an_exported_model_is_served_by_onnx_runtime(
    recommender: Recommender, artifact: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "fast")
    export_encoder(load_model(folder).model.folded(), folder, int8=False)
    (folder / "acceleration.json").write_text('{"onnx": true}')
    fast = Recommender.open(folder)
    assert isinstance(fast.runtime.encode, OnnxEncoder)
    answer = ask(fast, "item-1", "item-9", k=40)
    wanted = ask(recommender, "item-1", "item-9", k=40)
    assert [item for item, _ in answer] == [item for item, _ in wanted]
    assert [score for _, score in answer] == pytest.approx([s for _, s in wanted], abs=1e-4)


def test_a_large_catalogue_is_searched_by_the_approximate_index(
    recommender: Recommender, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.accelerate.runtime.EXACT_BELOW", 40)
    monkeypatch.setattr(index, "EXACT_BELOW", 40)
    folder = shutil.copytree(artifact, tmp_path / "large")
    large = Recommender.open(folder)
    assert isinstance(large.runtime.index, index.ApproximateIndex)
    history = [f"item-{n}" for n in range(0, 20)]
    answer = {item for item, _ in ask(large, *history, k=10)}
    assert answer.isdisjoint(history)
    assert len(answer & {item for item, _ in ask(recommender, *history, k=10)}) >= 9
    assert ask(large, k=5)[0][0] == ask(recommender, k=5)[0][0]
    like = SimilarRequest(item="item-7", k=5)
    assert isinstance(large.cosines, index.CosineIndex)
    assert dict(answers(large, like)[0]) == pytest.approx(dict(answers(recommender, like)[0]))
    # The next worker finds the index made.
    monkeypatch.delattr(index.ApproximateIndex, "__init__")
    assert {item for item, _ in ask(Recommender.open(folder), *history, k=10)} == answer
    monkeypatch.undo()
    (folder / "index.faiss").write_bytes(b"half")
    monkeypatch.setattr("recsys.accelerate.runtime.EXACT_BELOW", 40)
    monkeypatch.setattr(index, "EXACT_BELOW", 40)
    assert {item for item, _ in ask(Recommender.open(folder), *history, k=10)} == answer


def passing(where: Where) -> set[str]:
    """The items of conftest's catalogue that a filter lets through, told one by one."""
    return {
        f"item-{n}"
        for n in range(40)
        if (not where.in_stock or n < 30 and n % 3 == 0)
        and (not where.categories or n < 30 and f"c{n % 4}" in where.categories)
        and (where.min_price is None or n >= where.min_price)
        and (where.max_price is None or n <= where.max_price)
    }


FILTERS = [
    Where(in_stock=True),
    Where(categories=("c1", "no such")),
    Where(min_price=5.0, max_price=31.0),
    Where(min_price=25.0),
    Where(in_stock=True, categories=("c0", "c1"), min_price=9.0),
]


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("history", [(), ("item-3", "item-5"), ("no-such",)])
def test_filters_are_exact_and_cost_no_places(
    recommender: Recommender, where: Where, history: tuple[str, ...]
) -> None:
    whole = dict(ask(recommender, *history, k=40))
    wanted = [item for item in whole if item in passing(where)]
    answer = ask(recommender, *history, k=40, where=where)
    assert [item for item, _ in answer] == wanted
    assert dict(answer) == pytest.approx({item: whole[item] for item in wanted}, abs=1e-5)
    assert [item for item, _ in ask(recommender, *history, k=2, where=where)] == wanted[:2]
    (like,) = answers(recommender, SimilarRequest(item="item-3", k=40, where=where))
    assert {item for item, _ in like} == passing(where) - {"item-3"}


@pytest.mark.parametrize("large", [1, 12], ids=["scanned", "whole product"])
def test_an_approximate_index_fills_the_answer_from_what_passes(
    recommender: Recommender,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    large: int,
) -> None:
    monkeypatch.setattr("recsys.accelerate.runtime.EXACT_BELOW", 40)
    monkeypatch.setattr(index, "EXACT_BELOW", 40)
    approximate = Recommender.open(shutil.copytree(artifact, tmp_path / "large"))
    assert isinstance(approximate.runtime.index, index.ApproximateIndex)
    monkeypatch.setattr(index, "EXACT_BELOW", large)
    for where in FILTERS:
        for history in ((), ("item-3", "item-5")):
            answer = ask(approximate, *history, k=40, where=where)
            assert {item for item, _ in answer} == passing(where) - set(history)
            wanted = ask(recommender, *history, k=40, where=where)
            assert dict(answer) == pytest.approx(dict(wanted), abs=1e-4)
        (like,) = answers(approximate, SimilarRequest(item="item-3", k=40, where=where))
        assert {item for item, _ in like} == passing(where) - {"item-3"}


def test_a_filter_on_what_is_not_known_is_refused(artifact: Path, tmp_path: Path) -> None:
    loaded = load_model(artifact)
    prices = loaded.attributes[["price"]]
    save_model(tmp_path, loaded.model, loaded.recipe, loaded.items, {}, prices)
    some = Recommender.open(tmp_path)
    requests = [
        RecommendRequest(history=(), where=Where(in_stock=True)),
        RecommendRequest(history=(), where=Where(max_price=3.0)),
    ]
    refused, answer = some.answer(requests, Stopwatch())
    assert isinstance(refused, BadRequest) and "knows no stock of its items" in str(refused)
    assert len(answer["items"]) == 4


def test_diversity_trades_likeness_for_score(recommender: Recommender) -> None:
    table = torch.from_numpy(recommender.runtime.index.rows(np.arange(40)))
    unit = torch.nn.functional.normalize(table, dim=1)

    def likeness(answer: list[tuple[str, float]]) -> float:
        rows = unit[[recommender.places[item] for item, _ in answer]]
        return (rows @ rows.T).triu(1).sum().item()

    plain = ask(recommender, "item-1", k=5)
    assert ask(recommender, "item-1", k=5, diversity=1e-9) == plain
    diverse = ask(recommender, "item-1", k=5, diversity=0.7)
    assert diverse[0] == plain[0] and len({item for item, _ in diverse}) == 5
    assert likeness(diverse) < likeness(plain) - 0.5
    assert dict(ask(recommender, "item-1", k=40)).items() >= dict(diverse).items()


def test_items_like_one_are_those_with_the_largest_cosine(recommender: Recommender) -> None:
    table = torch.from_numpy(recommender.runtime.index.rows(np.arange(40)))
    cosines = torch.cosine_similarity(table[7:8], table)
    best = cosines.argsort(descending=True)[1:6].tolist()
    (answer,) = answers(recommender, SimilarRequest(item="item-7", k=5))
    assert [item for item, _ in answer] == [f"item-{n}" for n in best]
    assert [score for _, score in answer] == pytest.approx(cosines[best].tolist(), abs=1e-5)
    unknown, _ = recommender.answer(
        [SimilarRequest(item="x"), SimilarRequest(item="item-1")], Stopwatch()
    )
    assert isinstance(unknown, UnknownItem)


def test_an_explanation_is_what_the_model_does_without_the_event(
    recommender: Recommender, artifact: Path
) -> None:
    model = load_model(artifact).model
    history = ("item-3", "item-5", "item-3", "item-9")
    request = RecommendRequest(history=history, k=4, explain=True)
    (answer,) = recommender.answer([request], Stopwatch())
    told = 0
    for row in answer["items"]:
        drops = [cause["score_drop"] for cause in row["because"]]
        assert drops == sorted(drops, reverse=True) and all(drop > 0 for drop in drops)
        for cause in row["because"]:
            rest = [int(item[5:]) for item in history if item != cause["item"]]
            with torch.inference_mode():
                score = model.scores(model.encode([rest]))[0, recommender.places[row["item"]]]
            assert row["score"] - score.item() == pytest.approx(cause["score_drop"], abs=1e-4)
            told += 1
    assert told >= 4
    (alone,) = recommender.answer(
        [RecommendRequest(history=("item-3",), explain=True)], Stopwatch()
    )
    assert all(row["because"] == [] for row in alone["items"])
