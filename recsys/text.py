"""Item texts as bags of hashed features: what a model knows of an item that nobody has bought yet.

A feature is a word, a pair of neighbouring words or a character n-gram; its number is a hash
(Weinberger et al., 2009, "Feature hashing"). So there is no vocabulary to keep, a text that comes
later is read as those before it, and memory does not grow with the catalogue's language.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from recsys.bags import Bags
from recsys.data.interactions import Interactions
from recsys.recipe import Recipe

WORD = re.compile(r"\w+")
GRAM = 4


def has_texts(interactions: Interactions, recipe: Recipe) -> bool:
    """Whether a model with this recipe reads item texts: there are some, and it is to."""
    return bool(recipe.text_buckets and interactions.item_text)


def read_catalogue(texts: Sequence[str], most: int) -> Bags:
    """The bags of a catalogue's texts, with a number of buckets that fits its language.

    A power of two of at least twice as many as there are features, so that few share a number, but
    `most` at most: a small shop gets a small table.
    """
    distinct = len({feature for text in set(texts) for feature in _features(text)})
    return hash_texts(texts, min(most, 2 << max(1, distinct - 1).bit_length()))


def hash_texts(texts: Sequence[str], buckets: int) -> Bags:
    """The bags of any texts in a given number of buckets.

    The same text gives the same features on every machine.
    """
    numbers: dict[str, int] = {}
    bags = []
    for text in texts:
        bag = set()
        for feature in _features(text):
            if (number := numbers.get(feature)) is None:
                number = numbers[feature] = zlib.crc32(feature.encode()) % buckets
            bag.add(number)
        bags.append(np.fromiter(sorted(bag), np.int32, len(bag)))
    lengths = [len(bag) for bag in bags]
    return Bags(
        np.concatenate([np.empty(0, np.int32), *bags]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        buckets,
    )


def _features(text: str) -> set[str]:
    words = WORD.findall(text.lower())
    pairs = {f"{first} {second}" for first, second in zip(words, words[1:], strict=False)}
    # Word borders are marked, so that "<cam" of "camera" differs from the "cam" of "webcam".
    bounded = {f"<{word}>" for word in words}
    grams = {w[at : at + GRAM] for w in bounded for at in range(len(w) - GRAM + 1)}
    return set(words) | pairs | grams
