"""What is counted of requests for ratings, clicks and search, to compare with the training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from handlers.drift import observer_of
from handlers.kinds import kind_in
from handlers.parsing import parse
from handlers.stopwatch import Stopwatch
from recsys.spread import spread_of, write_spread
from tests.handlers.small_models import small_models


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models by name, with all ids in band 1 and three bins of numbers."""
    folders = small_models(tmp_path_factory.mktemp("models"))
    numbers = {
        "rating": {"predicted": [2.0, 3.0]},
        "click": {"predicted": [0.0, 1.0]},
        "search": {"query_words": [2.0, 3.0], "scores": [0.0, 0.5]},
    }
    for name, folder in folders.items():
        known = kind_in(folder).open(folder).known
        bands = {what: np.ones(count, dtype=np.int8) for what, count in known.items()}
        edges = {what: np.array(bounds) for what, bounds in numbers[name].items()}
        seen = dict.fromkeys(bands, np.array([0])) | dict.fromkeys(edges, np.array([0.0]))
        write_spread(folder, spread_of(bands, edges, seen))
    return folders


def counted(folder: Path, *bodies: dict) -> dict[str, dict[str, int]]:
    kind = kind_in(folder)
    model = kind.open(folder)
    requests = [parse(kind.request, json.dumps(body).encode()) for body in bodies]
    answers = model.answer(requests, Stopwatch())
    counts: dict[str, dict[str, int]] = {}
    for (what, name), count in observer_of(model, folder).counts(requests, answers).items():
        counts.setdefault(what, {})[name] = count
    return counts


def test_ratings_count_who_asks_for_what_and_what_is_predicted(artifacts) -> None:
    counts = counted(
        artifacts["rating"],
        {"user": "u1", "items": ["i0", "i1", "new"]},
        {"user": "nobody", "items": ["i2"]},
    )
    assert counts["users"] == {"1": 1, "unknown": 1}
    assert counts["items"] == {"1": 3, "unknown": 1}
    assert sum(counts["predicted"].values()) == 4


def test_clicks_count_the_context_and_chances_at_the_usual_place_only(artifacts) -> None:
    counts = counted(
        artifacts["click"],
        {"items": ["i0", "i1"], "context": {"mobile": True}},
        {"items": ["i0"], "context": {"mobile": "sometimes"}, "position": 3},
        {"items": ["i0"], "context": {"colour": "red"}},  # refused: the model has no such feature
    )
    assert counts["items"] == {"1": 3}
    assert counts["context_1_mobile"] == {"1": 1, "unknown": 1}
    assert counts["predicted"] == {"1": 2}


def test_searches_count_words_their_number_and_scores_of_the_first_ten(artifacts) -> None:
    counts = counted(
        artifacts["search"],
        {"query": "red kettle", "k": 3},
        {"query": "zzz"},
        {"query": "?"},  # refused: no word
    )
    assert counts["words"] == {"1": 2, "unknown": 1}
    assert counts["query_words"] == {"0": 1, "1": 1}
    assert sum(counts["scores"].values()) == 3 + 5


def test_what_is_expected_is_what_was_noted_in_training(artifacts) -> None:
    folder = artifacts["rating"]
    expected = observer_of(kind_in(folder).open(folder), folder).expected
    assert expected["users", "1"] == 1 and expected["users", "unknown"] == 0
    assert expected["predicted", "0"] == 1


def test_a_model_of_which_nothing_is_known_is_not_compared(artifacts, tmp_path: Path) -> None:
    assert observer_of(kind_in(artifacts["click"]).open(artifacts["click"]), tmp_path) is None
