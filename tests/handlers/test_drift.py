"""What is counted of requests and answers, to compare with the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.drift import Observer, observer_of
from handlers.fresh import FreshRecommender
from handlers.parsing import parse
from handlers.requests import ItemsRequest
from handlers.stopwatch import Stopwatch
from tests.handlers.small_models import PROFILE

@pytest.fixture(scope="module")
def model(artifact: Path) -> FreshRecommender:
    return FreshRecommender(artifact)


def counted(model: FreshRecommender, *bodies: str) -> dict[tuple[str, str], int]:
    requests = [parse(ItemsRequest, body.encode()) for body in bodies]
    answers = model.answer(requests, Stopwatch())
    return dict(Observer(model, PROFILE).counts(requests, answers))


def of(counts: dict[tuple[str, str], int], what: str) -> dict[str, int]:
    return {name: count for (kind, name), count in counts.items() if kind == what}


def test_items_of_histories_are_counted_by_band_as_far_back_as_the_model_looks(model) -> None:
    counts = counted(
        model,
        '{"history": ["item-1", "item-12", "new", "item-13"]}',
        # The model looks at eight.
        '{"history": ["item-39", ' + ", ".join(['"item-25"'] * 8) + "]}",
    )
    assert of(counts, "history") == {"0": 1, "1": 2, "2": 8, "unknown": 1}
    assert of(counts, "length") == {"2": 1, "5": 1}


def test_a_cold_user_counts_as_such_and_not_by_what_anybody_would_like(model) -> None:
    counts = counted(model, "{}", '{"history": ["new"]}')
    assert of(counts, "length") == {"0": 2}
    assert not of(counts, "recommended")


def test_what_is_recommended_counts_by_band_up_to_the_tenth(model) -> None:
    body = '{"history": ["item-1", "item-2"], "k": 20}'
    (answer,) = model.answer([parse(ItemsRequest, body.encode())], Stopwatch())
    bands = [int(row["item"].removeprefix("item-")) // 10 for row in answer["items"][:10]]
    wanted = {str(band): bands.count(band) for band in set(bands)}
    assert of(counted(model, body), "recommended") == wanted
    # Other shares would be the filter's doing, or the wish for diversity's.
    for wish in ('"where": {"max_price": 30}', '"diversity": 0.5'):
        counts = counted(model, f'{{"history": ["item-1"], {wish}}}')
        assert of(counts, "history") and not of(counts, "recommended")


def test_events_that_were_stored_count_by_the_band_of_their_items(model) -> None:
    body = b'{"user": "u", "events": [{"item": "item-1"}, {"item": "item-31"}]}'
    counts = Observer(model, PROFILE).counts([parse(ItemsRequest, body)], [{"stored": 2}])
    assert dict(counts) == {("events", "0"): 1, ("events", "3"): 1}


def test_a_request_that_failed_counts_nothing(model) -> None:
    assert not counted(model, '{"item": "new"}', '{"user": "u", "events": [{"item": "item-1"}]}')


def test_what_is_expected_is_what_the_profile_tells(model) -> None:
    expected = Observer(model, PROFILE).expected
    assert expected["history", "0"] == expected["events", "0"] == expected["recommended", "1"] == 1
    assert expected["history", "unknown"] == 0
    assert sum(expected.values()) == 3


def test_a_model_without_a_profile_is_served_and_not_compared(
    model, artifact: Path, tmp_path: Path
) -> None:
    assert observer_of(model, artifact).expected["recommended", "1"] == 1
    assert observer_of(model, tmp_path) is None
