"""Item texts as bags of hashed features: what a model knows of an item that nobody has bought yet.

A feature is a word, a pair of neighbouring words or a character n-gram; its number is a hash
(Weinberger et al., 2009, "Feature hashing"). So there is no vocabulary to keep, a text that comes
later is read as those before it, and memory does not grow with the catalogue's language.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORD = re.compile(r"\w+")
GRAM = 4


@dataclass(frozen=True)
class TextBags:
    """The features of every item's text.

    Attributes
    ----------
    features
        int32[...]: each item's feature numbers one after the other, sorted, without repeats.
    offsets
        int64[items + 1]; item i has ``features[offsets[i]:offsets[i + 1]]``, perhaps none.
    buckets
        The features are numbered 0 to ``buckets - 1``.
    """

    features: np.ndarray
    offsets: np.ndarray
    buckets: int


def read_catalogue(texts: Sequence[str], most: int) -> TextBags:
    """The bags of a catalogue's texts, with a number of buckets that fits its language.

    A power of two of at least twice as many as there are features, so that few share a number, but
    `most` at most: a small shop gets a small table.
    """
    distinct = len({feature for text in set(texts) for feature in _features(text)})
    return hash_texts(texts, min(most, 2 << max(1, distinct - 1).bit_length()))


def hash_texts(texts: Sequence[str], buckets: int) -> TextBags:
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
    return TextBags(
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


class _SumOfBags(torch.autograd.Function):
    """Weighted sums of rows of a table; both directions gather, neither scatters.

    The gradient of feature f is a weighted sum as well, over the items that have it: with that
    transposed layout at hand the backward pass takes a tenth of torch's own.
    """

    @staticmethod
    def forward(ctx, table: Tensor, bags: tuple[Tensor, ...], transposed: tuple[Tensor, ...]):
        ctx.transposed = transposed
        return _sum_of_bags(table, *bags)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _sum_of_bags(gradient.contiguous(), *ctx.transposed), None, None


def _sum_of_bags(table: Tensor, members: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(
        members, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class TextTower(nn.Module):
    """A vector for each item's text: the sum of its features' embeddings, at unit scale.

    Parameters
    ----------
    bags
        The features of all items.
    dimension
        Width of their embeddings.
    """

    features: Tensor
    offsets: Tensor

    def __init__(self, bags: TextBags, dimension: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(bags.buckets, dimension)
        nn.init.normal_(self.embedding.weight, std=dimension**-0.5)
        # Buffers are saved with the weights: who receives a model needs no texts to use it.
        self.register_buffer("features", torch.from_numpy(bags.features))
        self.register_buffer("offsets", torch.from_numpy(bags.offsets))
        self.index()

    def index(self, first: int = 0, end: int | None = None) -> None:
        """Lay the bags out by item and by feature; again after `features` or `offsets` changed.

        Given `first` and `end`, only those of the items between, and they alone get vectors.
        """
        offsets = self.offsets[first : None if end is None else end + 1]
        lengths = offsets.diff()
        members = self.features[offsets[0] : offsets[-1]].long()
        weights = weights_of_members(lengths)
        by_feature = members.argsort(stable=True)
        owners = torch.arange(len(lengths)).repeat_interleave(lengths)
        counts = torch.bincount(members, minlength=self.embedding.num_embeddings)
        laid_out = {
            "members": members,
            "bounds": offsets - offsets[0],
            "weights": weights,
            "owners": owners[by_feature],
            "owner_offsets": F.pad(counts.cumsum(0), (1, 0)),
            "owner_weights": weights[by_feature],
        }
        for name, tensor in laid_out.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self) -> Tensor:
        """float[items, d] of the items laid out; zero for an item without a text."""
        bags = (self.members, self.bounds, self.weights)
        transposed = (self.owners, self.owner_offsets, self.owner_weights)
        return _SumOfBags.apply(self.embedding.weight, bags, transposed)

    def embed(self, features: Tensor, offsets: Tensor) -> Tensor:
        """float[bags, d] of other bags, laid out as in `TextBags`."""
        weights = weights_of_members(offsets.diff())
        return _sum_of_bags(self.embedding.weight, features.long(), offsets, weights)


def weights_of_members(lengths: Tensor) -> Tensor:
    """The weight of each feature in bags of these lengths.

    A sum of n independent vectors is sqrt(n) long: divided by that, a long text counts as much as
    a short one.
    """
    return lengths.clamp_min(1).float().rsqrt().repeat_interleave(lengths)
