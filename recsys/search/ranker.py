"""The hybrid ranker: lexical and semantic signals in one score, and the artefact that holds it.

A convex combination (Bruch, Gai and Ingber, 2023, find it above reciprocal-rank fusion) of what
BM25 says on all fields and on the title alone, and of the towers' cosine.

The artefact: ``weights.safetensors`` (towers, item vectors, the fields' words) · ``search.json``
(recipe, weights of the signals, item ids, vocabulary).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.errors import RecsysError
from recsys.search.documents import FIELDS, Documents, Field, documents
from recsys.search.lexical import Lexical
from recsys.search.quality import ndcg
from recsys.search.towers import Bags, TowerRecipe, Towers, item_bags, spellings, train_towers
from recsys.search.words import words
from recsys.stored import read_stored, write_stored

if TYPE_CHECKING:
    # With it would come all that training needs, and serving does not.
    from recsys.loop import Progress

# Share of each signal in the score where no judged queries are there to fit it.
DEFAULT_WEIGHTS = {"lexical": 0.6, "title": 0.2, "semantic": 0.2}
# Steps of the grid that weights are fitted on: finer ones follow single queries.
GRID = 10
# A fitted ranking looks at this many items of each signal; the rest cannot reach the first ten.
CANDIDATES = 200

Judged = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Found:
    """An item, its score, and what each signal gave to it."""

    item: str
    score: float
    signals: dict[str, float]


class SearchModel:
    """Ranks a catalogue for a query.

    Parameters
    ----------
    docs, towers
        The catalogue's words, and the towers trained on them.
    vectors
        float[items, d] of the item tower, or None to compute them.
    weights
        Share of each signal, by the names of `DEFAULT_WEIGHTS`.
    """

    def __init__(
        self,
        docs: Documents,
        towers: Towers,
        vectors: Tensor | None = None,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    ) -> None:
        self.docs, self.towers, self.weights = docs, towers, dict(weights)
        self.index = {item: place for place, item in enumerate(docs.items)}
        self.lexical = Lexical(docs, FIELDS)
        self.title = Lexical(docs, {"title": 1})
        if vectors is None:
            with torch.inference_mode():
                spelled = spellings(docs.vocabulary, towers.recipe.buckets)
                vectors = towers.items(item_bags(docs), spelled)
        self.vectors = vectors

    @torch.inference_mode()
    def query_vector(self, query: str) -> Tensor:
        """float[d], of unit length: its dot product with `vectors` ranks the items by meaning.

        Raises
        ------
        RecsysError
            When the query has no letter and no digit.
        """
        typed = _words_of(query)
        bag = Bags(np.arange(len(typed)), np.array([0, len(typed)]))
        return self.towers.queries(bag, spellings(typed, self.towers.recipe.buckets))[0]

    def signals(self, query: str) -> np.ndarray:
        """float32[items, signals], in the order of `DEFAULT_WEIGHTS`.

        BM25 has no upper bound, and it differs from query to query: it is divided by its largest
        value for this query. The semantic signal is the cosine.
        """
        typed = _words_of(query)
        lexical = [part.scores(typed) for part in (self.lexical, self.title)]
        scaled = [scores / max(float(scores.max()), 1e-9) for scores in lexical]
        return np.column_stack([*scaled, (self.vectors @ self.query_vector(query)).numpy()])

    def search(self, query: str, k: int = 10) -> list[Found]:
        """The `k` best items, the best first; of equal ones, the first in the catalogue.

        Fewer, or none, where no signal speaks for more: without that the rest of the catalogue would
        follow in its own order.
        """
        signals = self.signals(query)
        scores = signals @ np.array(list(self.weights.values()), np.float32)
        best = np.argsort(-scores, kind="stable")[:k]
        return [
            Found(
                self.docs.items[item],
                float(scores[item]),
                dict(zip(self.weights, signals[item].tolist(), strict=True)),
            )
            for item in best[scores[best] != 0]
        ]

    def candidates(self, query: str, judged: Mapping[str, float]) -> Candidates:
        """What a combination of signals can bring to the top for a judged query."""
        signals = self.signals(query)
        top = [np.argsort(-column, kind="stable")[:CANDIDATES] for column in signals.T]
        known = [self.index[item] for item in judged if item in self.index]
        items = np.unique(np.concatenate([*top, np.array(known, dtype=np.int64)]))
        grades = {self.index[item]: grade for item, grade in judged.items() if item in self.index}
        return Candidates(items, signals[items], grades)


@dataclass(frozen=True)
class Candidates:
    """Items of one query with their signals (float32[items, signals]) and the judged grades."""

    items: np.ndarray
    signals: np.ndarray
    grades: dict[int, float]

    def ranked(self, weights: np.ndarray) -> list[int]:
        """Items by weighted score, the best first."""
        return self.items[np.argsort(-(self.signals @ weights), kind="stable")].tolist()

    def ndcg(self, weights: np.ndarray, *, condensed: bool = False) -> float:
        """NDCG@10 of that ranking."""
        return ndcg(self.ranked(weights), self.grades, condensed=condensed)


def train_search(
    catalogue: pl.DataFrame,
    recipe: TowerRecipe,
    *,
    judged: Judged | None = None,
    progress: Progress | None = None,
) -> SearchModel:
    """Index a catalogue and train the towers; `judged` queries, where given, fit the weights."""
    docs = documents(catalogue)
    model = SearchModel(docs, train_towers(docs, recipe, progress=progress))
    if judged is not None:
        fitted = fit_weights(candidates_of(model, judged).values())
        model.weights = dict(zip(DEFAULT_WEIGHTS, fitted.tolist(), strict=True))
    return model


def candidates_of(model: SearchModel, judged: Judged) -> dict[str, Candidates]:
    """The queries that can tell rankings apart: those with a relevant item in the catalogue.

    Raises
    ------
    RecsysError
        When there is none.
    """
    found = {query: model.candidates(query, grades) for query, grades in judged.items()}
    useful = {query: c for query, c in found.items() if any(g > 0 for g in c.grades.values())}
    if not useful:
        raise RecsysError(
            f"none of the {len(judged)} judged queries has a relevant item of this catalogue: "
            "give judgments with the catalogue's item ids"
        )
    return useful


def fit_weights(queries: Iterable[Candidates]) -> np.ndarray:
    """The convex combination with the highest mean NDCG@10 on a grid, float32[signals].

    The best of a grid is partly luck. So the mean is taken over all weights that are within half a
    standard error (of the paired difference) of the best.
    """
    cells = itertools.product(range(GRID + 1), repeat=len(DEFAULT_WEIGHTS))
    grid = np.array([cell for cell in cells if sum(cell) == GRID], dtype=np.float32) / GRID
    gains = np.array([[query.ndcg(weights) for weights in grid] for query in queries])
    mean = gains.mean(axis=0)
    best = int(mean.argmax())
    error = np.std(gains - gains[:, [best]], axis=0) / np.sqrt(len(gains))
    return grid[mean >= mean[best] - error / 2].mean(axis=0)


def cross_validated(
    queries: Mapping[str, Candidates], *, folds: int = 5, seed: int = 0
) -> dict[str, np.ndarray]:
    """For each query, weights that were fitted on the other folds' queries only.

    Raises
    ------
    RecsysError
        When there are fewer queries than folds.
    """
    names = list(queries)
    if len(names) < folds:
        raise RecsysError(f"{len(names)} judged queries are too few for {folds} folds")
    shuffled = np.random.default_rng(seed).permutation(len(names))
    weights: dict[str, np.ndarray] = {}
    for held_out in np.array_split(shuffled, folds):
        held = {names[place] for place in held_out}
        fitted = fit_weights(c for name, c in queries.items() if name not in held)
        weights |= {name: fitted for name in names if name in held}
    return weights


def save_search(folder: Path, model: SearchModel) -> Path:
    """Write the artefact; see `recsys.stored`."""
    tensors = {f"towers.{name}": weight for name, weight in model.towers.state_dict().items()}
    tensors["vectors"] = model.vectors
    tensors["words"] = _mark(model.docs)
    for name, field in model.docs.fields.items():
        tensors[f"fields.{name}.offsets"] = torch.from_numpy(field.offsets)
        tensors[f"fields.{name}.tokens"] = torch.from_numpy(field.tokens)
    content = {
        "recipe": dataclasses.asdict(model.towers.recipe),
        "weights": model.weights,
        "fields": list(model.docs.fields),
        "items": model.docs.items,
        "vocabulary": model.docs.vocabulary,
    }
    return write_stored(folder, "search", content, tensors)


def load_search(folder: Path | str) -> SearchModel:
    """Read what `save_search` wrote.

    Raises
    ------
    RecsysError
        When a file is missing or damaged, or the two do not belong together.
    """
    with read_stored(Path(folder), "search") as (content, tensors):
        towers = Towers(TowerRecipe(**content["recipe"]))
        prefix = "towers."
        own = [name for name in tensors if name.startswith(prefix)]
        towers.load_state_dict({name.removeprefix(prefix): tensors[name] for name in own})
        fields = {
            name: Field(
                tensors[f"fields.{name}.offsets"].numpy(), tensors[f"fields.{name}.tokens"].numpy()
            )
            for name in content["fields"]
        }
        docs = Documents(content["items"], fields, content["vocabulary"])
        if problem := _misfit(docs, tensors):
            raise RecsysError(
                f"the vocabulary of the search model in {folder} is not the one that its index was "
                f"made with ({problem}): take search.json and weights.safetensors of one model"
            )
        return SearchModel(docs, towers.eval(), tensors["vectors"], content["weights"])


def _misfit(docs: Documents, tensors: Mapping[str, Tensor]) -> str | None:
    """How a catalogue's words and the tensors of a model differ; None if they belong together."""
    items, known = len(docs.items), len(docs.vocabulary)
    if len(tensors["vectors"]) != items:
        return f"{items} items and {len(tensors['vectors'])} vectors"
    for name, field in docs.fields.items():
        if len(field.offsets) != items + 1 or field.offsets[-1] != len(field.tokens):
            return f"the field {name} has the words of {len(field.offsets) - 1} items, not {items}"
        if len(field.tokens) and not 0 <= field.tokens.min() <= field.tokens.max() < known:
            return f"the field {name} names word {field.tokens.max()} of {known}"
    # Models that were stored before there was a mark have none.
    if "words" in tensors and not torch.equal(tensors["words"], _mark(docs)):
        return "as many items and words, but others"
    return None


def _mark(docs: Documents) -> Tensor:
    """uint8[32]: tells the items and the words of two catalogues apart."""
    told = json.dumps([docs.items, docs.vocabulary]).encode()
    return torch.tensor(list(sha256(told).digest()), dtype=torch.uint8)


def _words_of(query: str) -> list[str]:
    typed = words(query)
    if not typed:
        raise RecsysError(f"the query {query!r} has no word to search for; type letters or digits")
    return typed
