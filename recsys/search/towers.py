"""Semantic search: a query tower and an item tower whose dot product says how well they fit.

Both read words as bags of hashed character n-grams (fastText: Bojanowski et al., 2017, §3.2), so a
word that no item has still lies near its spelling. No language model and no log of queries is
needed: the towers learn from the catalogue alone. A few words in a row from an item's title or
description stand for a query that should find the item, among the other items of the batch
(in-batch softmax: Yi et al., 2019, §3). Every item is drawn once an epoch, so the logQ correction
for the chance of being a negative is the same for all and drops out; items that hold all words of
the query are no negatives of it.

Item vectors are rows in the catalogue's order, as the recommender's are: the same top-k search
serves both.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.errors import RecipeError
from recsys.randomness import Stage, seeded
from recsys.search.documents import Documents, Field

if TYPE_CHECKING:
    # With it would come all that training needs, and serving does not.
    from recsys.loop import Progress

# Lengths of n-grams, in letters.
SHORTEST, LONGEST = 3, 5
# Of long lists of attributes, the rest would drown the words that say what an item is.
ATTRIBUTE_WORDS = 30


@dataclass(frozen=True)
class TowerRecipe:
    """Shape and training of the towers.

    Attributes
    ----------
    dimension
        Width of query and item vectors.
    buckets
        Rows of the table that words and their n-grams are hashed into.
    epochs
        Each item is once in each.
    batch
        Items in a step; each is a negative for the queries of the others.
    learning_rate
        Of AdamW; it falls linearly to 0.
    temperature
        Of the softmax over cosines.
    query_words
        A query of training has 1 to this many words.
    keep
        Share of an item's words that a training step shows to the item tower.
    seed
        Decides weights, order and views.

    Raises
    ------
    RecipeError
        When a value is out of range.
    """

    dimension: int = 64
    buckets: int = 2**16
    epochs: int = 10
    batch: int = 512
    learning_rate: float = 5e-3
    temperature: float = 0.07
    query_words: int = 3
    keep: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dimension", "buckets", "epochs", "query_words"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("batch", self.batch >= 2, "at least 2")
        for name in ("learning_rate", "temperature"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("keep", 0 < self.keep <= 1, "in (0, 1]")
        self._require("seed", self.seed >= 0, "0 or more")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise RecipeError(f"search recipe: {name} is {value!r}; it must be {wanted}")


@dataclass(frozen=True)
class Bags:
    """Rows of numbers of different length: row r is ``flat[offsets[r]:offsets[r + 1]]``."""

    flat: np.ndarray
    offsets: np.ndarray

    def take(self, rows: np.ndarray) -> Bags:
        """The given rows, in the given order."""
        starts, lengths = self.offsets[rows], np.diff(self.offsets)[rows]
        return slices(self.flat, starts, lengths)


def slices(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Bags:
    """Rows ``flat[start:start + length]``."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Bags(flat[places], offsets)


def spellings(vocabulary: Sequence[str], buckets: int) -> Bags:
    """Buckets of each word: the word itself and, above three letters, its n-grams."""
    rows = []
    for word in vocabulary:
        marked = f"<{word}>"
        grams = [marked]
        if len(word) > SHORTEST:
            grams += [
                marked[start : start + size]
                for size in range(SHORTEST, LONGEST + 1)
                for start in range(len(marked) - size + 1)
            ]
        # Python's own hash differs from process to process.
        rows.append([zlib.crc32(gram.encode()) % buckets for gram in grams])
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    return Bags(np.array([bucket for row in rows for bucket in row], dtype=np.int64), offsets)


class Towers(nn.Module):
    """The two towers; they share how words are read and differ in the last layer."""

    def __init__(self, recipe: TowerRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        d = recipe.dimension
        self.table = nn.Embedding(recipe.buckets, d)
        nn.init.normal_(self.table.weight, std=d**-0.5)
        self.query_layer, self.item_layer = nn.Linear(d, d), nn.Linear(d, d)
        # Both towers start as the bag of words itself: equal words already mean equal vectors.
        for layer in (self.query_layer, self.item_layer):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    def queries(self, bags: Bags, spelled: Bags) -> Tensor:
        """Unit vectors float[len(bags), d] of bags of words; `spelled` has each word's buckets."""
        return F.normalize(self.query_layer(self._read(bags, spelled)), dim=1)

    def items(self, bags: Bags, spelled: Bags) -> Tensor:
        """The same for items."""
        return F.normalize(self.item_layer(self._read(bags, spelled)), dim=1)

    def _read(self, bags: Bags, spelled: Bags) -> Tensor:
        """Sums of word vectors: a word's norm, which is learned, is its weight."""
        distinct, places = np.unique(bags.flat, return_inverse=True)
        word_vectors = _pooled(self.table.weight, spelled.take(distinct), "mean")
        return _pooled(word_vectors, Bags(places.astype(np.int64), bags.offsets), "sum")


def _pooled(table: Tensor, bags: Bags, mode: str) -> Tensor:
    """float[bags, d]: mean or sum of the rows of `table` that each bag names."""
    flat, offsets = torch.from_numpy(bags.flat), torch.from_numpy(bags.offsets)
    return F.embedding_bag(flat, table, offsets, mode=mode, include_last_offset=True)


def item_bags(docs: Documents) -> Bags:
    """The words of each item over all fields, of the attributes the first `ATTRIBUTE_WORDS`."""
    rows = [
        np.concatenate(
            [
                field.of(item)[:ATTRIBUTE_WORDS] if name == "attributes" else field.of(item)
                for name, field in docs.fields.items()
            ]
        )
        for item in range(len(docs.items))
    ]
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    return Bags(np.concatenate(rows).astype(np.int64), offsets)


def train_towers(
    docs: Documents, recipe: TowerRecipe, *, progress: Progress | None = None
) -> Towers:
    """Train the towers on a catalogue; the same catalogue and recipe give the same weights."""
    spelled = spellings(docs.vocabulary, recipe.buckets)
    items = item_bags(docs)
    with seeded(recipe.seed, Stage.WEIGHTS):
        towers = Towers(recipe)
    optimizer = torch.optim.AdamW(
        towers.parameters(), lr=recipe.learning_rate, weight_decay=0.0, fused=True
    )
    steps = recipe.epochs * -(-len(docs.items) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    sources = [docs.fields[name] for name in ("title", "description") if name in docs.fields]
    lengths = np.stack([np.diff(source.offsets) for source in sources])
    readable = np.flatnonzero(lengths.any(axis=0))
    for epoch in range(recipe.epochs):
        total = 0.0
        with seeded(recipe.seed, Stage.PRETRAIN, epoch) as generator:
            order = generator.permutation(readable)
            batches = np.array_split(order, max(1, len(order) // recipe.batch))
            for batch in batches:
                queries = _query_views(sources, lengths, batch, recipe.query_words, generator)
                whole = items.take(batch)
                loss = in_batch_loss(
                    towers.queries(queries, spelled),
                    towers.items(_thinned(whole, recipe.keep, generator), spelled),
                    _holds_all(queries, whole, len(docs.vocabulary)),
                    recipe.temperature,
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
        if progress:
            text = f"semantic towers: loss {total / len(batches):.3f}"
            progress(epoch + 1, recipe.epochs, text)
    return towers.eval()


def in_batch_loss(queries: Tensor, items: Tensor, fits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each query's own item against the batch's items that do not fit it too.

    Parameters
    ----------
    queries, items
        float[B, d] unit vectors; row r belongs together.
    fits
        bool[B, B]: item c holds all words of query r. The diagonal is not looked at.
    """
    own = torch.eye(len(queries), dtype=torch.bool)
    logits = (queries @ items.T / temperature).masked_fill(fits & ~own, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(queries)))


def _query_views(
    sources: list[Field],
    lengths: np.ndarray,
    batch: np.ndarray,
    most: int,
    generator: np.random.Generator,
) -> Bags:
    """A run of 1 to `most` words from one of each item's sources that has any.

    `lengths` is int64[sources, items], the words of each.
    """
    filled = lengths[:, batch] > 0
    chosen = np.where(filled, generator.random(filled.shape), -1.0).argmax(axis=0)
    available = lengths[chosen, batch]
    sizes = np.minimum(generator.integers(1, most + 1, len(batch)), available)
    shifts = (generator.random(len(batch)) * (available - sizes + 1)).astype(np.int64)
    # The sources lie one behind the other in one array.
    begins = np.cumsum([0] + [len(source.tokens) for source in sources])
    starts = np.stack([source.offsets[:-1] for source in sources])[chosen, batch]
    flat = np.concatenate([source.tokens for source in sources]).astype(np.int64)
    return slices(flat, begins[chosen] + starts + shifts, sizes)


def _thinned(bags: Bags, keep: float, generator: np.random.Generator) -> Bags:
    """Each row without a random share of its words, but with one at least."""
    kept = generator.random(len(bags.flat)) < keep
    lengths = np.diff(bags.offsets)
    kept[bags.offsets[:-1] + (generator.random(len(lengths)) * lengths).astype(np.int64)] = True
    counts = np.concatenate([[0], np.cumsum(kept)])[bags.offsets]
    return Bags(bags.flat[kept], counts)


def _holds_all(queries: Bags, items: Bags, vocabulary: int) -> Tensor:
    """bool[queries, items]: the item has every word of the query."""

    def incidence(bags: Bags) -> scipy.sparse.csr_array:
        shape = (len(bags.offsets) - 1, vocabulary)
        ones = np.ones(len(bags.flat), np.float32)
        # A copy: adding up duplicates works in place.
        matrix = scipy.sparse.csr_array((ones, bags.flat, bags.offsets), shape=shape, copy=True)
        matrix.sum_duplicates()
        matrix.data[:] = 1
        return matrix

    wanted = incidence(queries)
    shared = (wanted @ incidence(items).T).toarray()
    return torch.from_numpy(shared >= wanted.sum(axis=1)[:, None])
