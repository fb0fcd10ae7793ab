from __future__ import annotations

import numpy as np
import torch

from recsys.text import hash_texts, read_catalogue

TEXTS = ["Nail polish, red", "", "red nail POLISH", "Kettle", "nail"]


def bag(texts: list[str], item: int, buckets: int = 4096) -> set[int]:
    bags = hash_texts(texts, buckets)
    return set(bags.features[bags.offsets[item] : bags.offsets[item + 1]].tolist())


def test_a_text_has_the_same_features_wherever_it_stands() -> None:
    assert bag(TEXTS, 2) == bag(["red nail POLISH"], 0) == bag(["x", "Red nail polish!"], 1)
    assert bag(TEXTS, 1) == set()
    # Numbers that a later release must keep: stored models were trained with them.
    assert bag(["nail"], 0) == {934, 1749, 3381}


def test_texts_share_what_they_have_in_common() -> None:
    word, pair, other = bag(["nail"], 0), bag(["nail polish"], 0), bag(["kettle"], 0)
    assert word < pair
    assert not word & other
    assert bag(["nails"], 0) & word, "a plural has character n-grams of the singular"
    assert bag(["nail polish"], 0) != bag(["polish nail"], 0), "order shows in pairs"


def test_features_stay_in_their_buckets() -> None:
    bags = hash_texts(TEXTS, 7)
    assert set(bags.features.tolist()) <= set(range(7))
    for item in range(len(TEXTS)):
        own = bags.features[bags.offsets[item] : bags.offsets[item + 1]]
        assert own.tolist() == sorted(set(own.tolist()))


def test_a_catalogue_gets_as_many_buckets_as_its_language_needs() -> None:
    words = [f"word{number}" for number in range(3000)]
    large, small = read_catalogue(words, 1 << 20), read_catalogue(words[:10], 1 << 20)
    distinct = len(set(large.features.tolist()))
    assert 2 * distinct < large.buckets <= 5 * distinct
    assert small.buckets <= large.buckets / 100
    assert read_catalogue(words, 512).buckets == 512
    assert read_catalogue(["", ""], 512).buckets == 4
