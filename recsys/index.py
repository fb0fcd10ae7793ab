"""The best items of a user state by inner product: exact or approximate, behind one interface."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.accelerate.quantise import QuantisedTable, int8_product
from recsys.files import write_atomically

# Up to here the exact product takes about a millisecond, which no approximation is worth.
EXACT_BELOW = 100_000
# What a scan of codes brings to the exact ranking beyond the items wanted: always of every item's
# codes; of an approximate index at first, and how far calibration may raise it where many items are
# nearly the same.
MARGIN = 100
FIRST_MARGIN, MOST_MARGIN = 30, 1600
# An approximate index, kept: the second file comes last.
KEPT_SPACE, KEPT_INDEX = "index.safetensors", "index.faiss"
# Of the variance of scores, kept in an approximate index's codes.
KEPT = 0.999
# States that an approximate index is made for and measured with, and items that a cluster is
# learnt from.
SAMPLE, POINTS = 2000, 40
# Standard deviations above its centre at which a cluster is taken to hold its best items.
SPREAD = 3.0
# How many of the best items `scores` tells apart where an index does not see all.
REACH = 1000


Found = tuple[Tensor, Tensor]


class Index(Protocol):
    """Finds the best items of a user state."""

    def search(self, states: Tensor, k: int, allowed: np.ndarray | None = None) -> Found:
        """Scores float[B, k] and items int64[B, k] of states float[B, d], the best first.

        Only items where bool[items] `allowed` holds are found, as many as there are up to k. Fewer
        than k columns come back only where there are fewer items; a place that could not be filled
        has the score -inf.
        """

    def scores(self, states: Tensor) -> Tensor:
        """float[B, items]; -inf for an item that is not among the best `REACH` found."""

    def rows(self, items: Tensor) -> Tensor:
        """float[..., d] of int64[...] items."""


def build_index(table: Tensor, *, quantised: bool = False, states: Tensor | None = None) -> Index:
    """Exact search below `EXACT_BELOW` items, approximate search from there on.

    Parameters
    ----------
    table
        float[items, d]; a score is the inner product with a row.
    quantised
        Below the threshold, scan int8 codes and re-rank; above it, codes are scanned anyway.
    states
        For an approximate index, see there.
    """
    if len(table) >= EXACT_BELOW:
        return ApproximateIndex(table, states)
    return QuantisedIndex(table) if quantised else ExactIndex(table)


class ExactIndex:
    """The whole product: no item is missed."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def search(self, states: Tensor, k: int, allowed: np.ndarray | None = None) -> Found:
        scores = _barred(self.scores(states), allowed)
        return tuple(scores.topk(min(k, len(self.table))))

    def scores(self, states: Tensor) -> Tensor:
        return states @ self.table.T

    def rows(self, items: Tensor) -> Tensor:
        return self.table[items]


class QuantisedIndex:
    """Scans int8 codes of every item and re-ranks the best by their float rows."""

    def __init__(self, table: Tensor) -> None:
        self.table = QuantisedTable.of(table)

    def search(self, states: Tensor, k: int, allowed: np.ndarray | None = None) -> Found:
        items = len(self.table.codes)
        coarse = _barred(int8_product(states, self.table.codes, self.table.scale), allowed)
        roughly, found = coarse.topk(min(items, k + MARGIN), sorted=False)
        exact = torch.bmm(self.table.rows(found), states[:, :, None])[:, :, 0]
        exact.masked_fill_(roughly == -torch.inf, -torch.inf)
        best = exact.topk(min(k, items))
        return best.values, found.gather(1, best.indices)

    def scores(self, states: Tensor) -> Tensor:
        return _spread(self, states, len(self.table.codes))

    def rows(self, items: Tensor) -> Tensor:
        return self.table.rows(items)


class ApproximateIndex:
    """Scans the int8 codes of the most promising clusters (faiss) and re-ranks by float rows.

    Clusters and codes are made where errors count as they count for scores. With S the second
    moment of the states, the expected squared error of a score is ``e' S e`` for an error e of an
    item, so items are mapped by the square root of S and states by its inverse, which leaves every
    score as it is (the loss of Guo et al., Quantization based Fast Inner Product Search, 2016).
    States vary in far fewer directions than tables do: of the axes, in the order of their
    variance, only those are kept that hold `KEPT` of it.

    A search visits the clusters in the order of the score of their centre and `SPREAD` standard
    deviations of their items: the best items lie at the rims. For that, centres have one more
    coordinate, which meets the state's norm.

    How many clusters are visited and how many items are re-ranked is measured: as many as the
    states given need for `recall`.

    Parameters
    ----------
    table
        float[items, d].
    states
        float[some, d] like those that will be searched for, some hundreds or more; without them,
        rows of the table.
    recall
        Share of the exact top 10 that half of `states`, not used to build, must find; a little
        above what is wanted, since other states find a little less.
    """

    def __init__(
        self, table: Tensor, states: Tensor | None = None, *, recall: float = 0.997
    ) -> None:
        self.table = table.contiguous()
        if states is None:
            states = table[:: max(1, len(table) // SAMPLE)]
        states = states[torch.linspace(0, len(states) - 1, min(SAMPLE, len(states))).long()]
        self.to_space, items = _score_space(table, states[::2])
        clusters = max(1, min(round(6 * len(table) ** 0.5), len(table) // POINTS))
        kmeans = faiss.Kmeans(
            items.shape[1], clusters, niter=5, max_points_per_centroid=POINTS, seed=0
        )
        kmeans.train(items)
        # An item belongs to the nearest cluster, a state looks where its score is the highest.
        centres = kmeans.centroids.copy()
        nearest = faiss.IndexFlatL2(items.shape[1])
        nearest.add(centres)
        centres[:, -1] = SPREAD * _deviations(nearest, items, clusters)
        self._highest = faiss.IndexFlatIP(items.shape[1])
        self._highest.add(centres)
        self._index = faiss.IndexIVFScalarQuantizer(
            nearest,
            items.shape[1],
            clusters,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
            False,
        )
        self._index.own_fields = False
        self._index.train(items)
        self._index.add(items)
        self._index.quantizer = self._highest
        self._calibrate(states[1::2], recall)

    def save(self, folder: Path) -> None:
        """Write all but the table into a folder."""
        content = {"space": torch.from_numpy(self.to_space), "margin": torch.tensor(self._margin)}
        whole = self._index
        write_atomically(folder / KEPT_SPACE, lambda file: save_file(content, file))
        write_atomically(folder / KEPT_INDEX, lambda file: faiss.write_index(whole, str(file)))

    @classmethod
    def load(cls, folder: Path, table: Tensor) -> ApproximateIndex:
        """What `save` wrote, of the same table; FileNotFoundError where it wrote nothing."""
        made = cls.__new__(cls)
        made.table = table.contiguous()
        content = load_file(folder / KEPT_SPACE)
        made.to_space, made._margin = content["space"].numpy(), int(content["margin"])
        made._index = faiss.read_index(str(folder / KEPT_INDEX))
        return made

    @property
    def visited(self) -> float:
        """Share of the clusters that a search visits."""
        return self._index.nprobe / self._index.nlist

    def search(self, states: Tensor, k: int, allowed: np.ndarray | None = None) -> Found:
        if allowed is None:
            return self._search(states, k, None)
        chosen = np.flatnonzero(allowed)
        if len(chosen) > EXACT_BELOW:
            # The best of some items lie in more clusters than the best of all.
            wide = min(self._index.nlist, round(self._index.nprobe * len(allowed) / len(chosen)))
            bits = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            found = self._search(states, k, faiss.SearchParametersIVF(sel=bits, nprobe=wide))
            if found[0].isfinite().all():
                return found
        rows = torch.from_numpy(chosen)
        best = (states @ self.table[rows].T).topk(min(k, len(rows)))
        return best.values, rows[best.indices]

    def _search(self, states: Tensor, k: int, how: faiss.SearchParametersIVF | None) -> Found:
        items = len(self.table)
        # Threads share out the clusters of a single state, but the states of a batch.
        self._index.parallel_mode = int(len(states) == 1)
        # NumPy, since on so few rows torch takes half as long again as the whole search.
        queries = states.numpy()
        mapped = np.empty((len(queries), self._index.d), np.float32)
        np.matmul(queries, self.to_space, out=mapped[:, :-1])
        np.sqrt(np.einsum("ij,ij->i", mapped[:, :-1], mapped[:, :-1]), out=mapped[:, -1])
        found = self._index.search(mapped, min(items, k + self._margin), params=how)[1]
        rows = self.table.numpy().take(found, axis=0, mode="clip")
        exact = np.matmul(rows, queries[:, :, None])[:, :, 0]
        exact[found < 0] = -np.inf
        best = np.argsort(-exact, axis=1, kind="stable")[:, : min(k, items)]
        row = np.arange(len(queries))[:, None]
        values, chosen = exact[row, best], np.maximum(found[row, best], 0)
        return torch.from_numpy(values), torch.from_numpy(chosen)

    def scores(self, states: Tensor) -> Tensor:
        return _spread(self, states, len(self.table))

    def rows(self, items: Tensor) -> Tensor:
        return self.table[items]

    def _calibrate(self, states: Tensor, recall: float) -> None:
        """Visit more clusters or re-rank more items, whichever finds more, until it is enough."""
        wanted = torch.cat([(part @ self.table.T).topk(10).indices for part in states.split(64)])

        def found(settings: tuple[int, int]) -> float:
            self._index.nprobe, self._margin = settings
            items = torch.cat([self.search(part, 10)[1] for part in states.split(64)])
            return (items[:, :, None] == wanted[:, None, :]).any(2).double().mean().item()

        most = self._index.nlist
        settings = min(4, most), FIRST_MARGIN
        share = found(settings)
        while share < recall:
            clusters, margin = settings
            further = [(min(most, round(1.4 * clusters)), margin), (clusters, round(1.4 * margin))]
            further = [s for s in further if s != settings and s[1] <= MOST_MARGIN]
            if not further:
                break
            share, settings = max((found(s), s) for s in further)
        clusters, margin = settings
        fewest = bisect_left(
            range(clusters), recall, int(clusters / 1.4), key=lambda n: found((max(1, n), margin))
        )
        self._index.nprobe, self._margin = max(1, fewest), margin


def _score_space(table: Tensor, states: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """float32[d, kept] that maps states, and float32[items, kept + 1] mapped items and a 0 each."""
    moment = states.double().T @ states.double() / len(states)
    # Directions in which no state was seen yet are not impossible.
    moment += 1e-3 * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.double)
    values, axes = torch.linalg.eigh(moment)
    root = axes * values.sqrt() @ axes.T
    inverse = axes / values.sqrt() @ axes.T
    some = table[:: max(1, len(table) // 50_000)].double() @ root
    variances, directions = (part.flip(-1) for part in torch.linalg.eigh(some.T.cov()))
    share = variances.cumsum(0) / variances.sum()
    # With the coordinate of the spread, the scan's registers are full.
    kept = min(len(share), -(-(int((share < KEPT).sum()) + 2) // 16) * 16 - 1)
    mapped = table @ (root @ directions[:, :kept]).float()
    return (inverse @ directions[:, :kept]).float().numpy(), F.pad(mapped, (0, 1)).numpy()


def _deviations(nearest: faiss.IndexFlatL2, items: np.ndarray, clusters: int) -> np.ndarray:
    """float[clusters]: standard deviation of a cluster's items along an axis, from some of them."""
    distances, cluster = nearest.search(items[:: max(1, len(items) // (POINTS * clusters))], 1)
    counts = np.bincount(cluster[:, 0], minlength=clusters)
    squares = np.bincount(cluster[:, 0], distances[:, 0], minlength=clusters)
    return np.sqrt(squares / np.maximum(counts, 1) / (items.shape[1] - 1))


def _barred(scores: Tensor, allowed: np.ndarray | None) -> Tensor:
    """float[B, items], -inf where an item is not allowed."""
    return scores if allowed is None else scores.masked_fill(torch.from_numpy(~allowed), -torch.inf)


def _spread(index: Index, states: Tensor, items: int) -> Tensor:
    """What a search finds, each score in its item's column."""
    values, found = index.search(states, min(REACH, items))
    every = torch.full((len(states), items), -torch.inf)
    return every.scatter_reduce_(1, found, values, "amax")
