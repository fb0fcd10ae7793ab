"""Indices that scan codes of items, and the choice among all kinds of `recsys.exact.Index`."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import sha256
from pathlib import Path

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.accelerate.quantise import LARGEST, QuantisedTable, int8_product
from recsys.errors import RecsysError
from recsys.exact import ExactIndex, Found, Index, barred, best_of, item_parts
from recsys.files import write_atomically

# Up to here the exact product takes about a millisecond, which no approximation is worth.
EXACT_BELOW = 100_000
# What a scan of codes brings to the exact ranking beyond the items wanted: always of every item's
# codes; of an approximate index at first, and how far calibration may raise it where many items are
# nearly the same.
MARGIN = 100
FIRST_MARGIN, MOST_MARGIN = 30, 1600
# Of cosines, whose codes have one scale for all: where items are nearly the same, many codes are equal.
COSINE_MARGIN = 400
# An approximate index, kept: the first file comes last, and tells what table both are of.
KEPT_SPACE, KEPT_INDEX = "index.safetensors", "index.faiss"
# Of the variance of scores, kept in an approximate index's codes.
KEPT = 0.999
# States that an approximate index is made for and measured with, and items that a cluster is
# learnt from.
SAMPLE, POINTS = 2000, 40
# Standard deviations above its centre at which a cluster is taken to hold its best items.
SPREAD = 5.0
# Clusters that are visited in any case: so many, and one in so many of the most that may be.
FIRST, OF_MOST = 16, 16
# How many of the best items `scores` tells apart where an index does not see all.
REACH = 1000


def _fingerprint(table: np.ndarray) -> Tensor:
    """uint8[32] that tell a table from any other, its shape and order of items included."""
    hashed = sha256(str((table.shape, table.dtype)).encode())
    hashed.update(np.ascontiguousarray(table))
    return torch.frombuffer(bytearray(hashed.digest()), dtype=torch.uint8)


def build_index(
    table: np.ndarray, *, quantised: bool = False, states: np.ndarray | None = None
) -> Index:
    """Exact search below `EXACT_BELOW` items, approximate search from there on.

    Parameters
    ----------
    table
        float32[items, d]; a score is the inner product with a row.
    quantised
        Below the threshold, scan int8 codes and re-rank; above it, codes are scanned anyway.
    states
        For an approximate index, see there.
    """
    if len(table) >= EXACT_BELOW:
        return ApproximateIndex(table, states)
    return QuantisedIndex(table) if quantised else ExactIndex(table)


class QuantisedIndex:
    """Scans int8 codes of every item and re-ranks the best by their float rows."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = QuantisedTable.of(torch.from_numpy(table))

    def search(self, states: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        codes, scale = self.table.codes, self.table.scale
        coarse = barred(int8_product(torch.from_numpy(states), codes, scale).numpy(), allowed)
        roughly, found = best_of(coarse, k + MARGIN)
        exact = np.matmul(self.rows(found), states[:, :, None])[:, :, 0]
        exact[np.isneginf(roughly)] = -np.inf
        values, best = best_of(exact, k)
        return values, np.take_along_axis(found, best, 1)

    def scores(self, states: np.ndarray) -> np.ndarray:
        return _spread(self, states, len(self.table.codes))

    def rows(self, items: np.ndarray) -> np.ndarray:
        return self.table.rows(torch.from_numpy(items)).numpy()


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
    coordinate, which meets the state's norm. After the first clusters it stops where that score
    falls below the last item's of those found: most states need few clusters, some need many.

    How many clusters are visited at most and how many items are re-ranked is measured: as many as
    the states given need for `recall`.

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
        self, table: np.ndarray, states: np.ndarray | None = None, *, recall: float = 0.997
    ) -> None:
        self.table = np.ascontiguousarray(table)
        if states is None:
            states = table[:: max(1, len(table) // SAMPLE)]
        states = states[np.linspace(0, len(states) - 1, min(SAMPLE, len(states))).astype(int)]
        self.to_space, items = _score_space(torch.from_numpy(table), torch.from_numpy(states[::2]))
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
        content = {
            "space": torch.from_numpy(self.to_space),
            "margin": torch.tensor(self._margin),
            "spread": torch.tensor(SPREAD),
            "table": _fingerprint(self.table),
        }
        whole = self._index
        write_atomically(folder / KEPT_INDEX, lambda file: faiss.write_index(whole, str(file)))
        write_atomically(folder / KEPT_SPACE, lambda file: save_file(content, file))

    @classmethod
    def load(cls, folder: Path, table: np.ndarray) -> ApproximateIndex:
        """What `save` wrote, of the same table.

        Raises
        ------
        FileNotFoundError, RuntimeError
            It wrote nothing, or half of it.
        RecsysError
            It was of another table: it would name items that are not those it found. Or it was made
            for a search that stops elsewhere.
        """
        made = cls.__new__(cls)
        made.table = np.ascontiguousarray(table)
        content = load_file(folder / KEPT_SPACE)
        if not torch.equal(content["table"], _fingerprint(made.table)):
            raise RecsysError(f"The index in {folder} is of other items or weights: make it anew.")
        if "spread" not in content or content["spread"] != SPREAD:
            raise RecsysError(f"The index in {folder} is of another version: make it anew.")
        made.to_space, made._margin = content["space"].numpy(), int(content["margin"])
        made._index = faiss.read_index(str(folder / KEPT_INDEX))
        made._highest = faiss.downcast_index(made._index.quantizer)
        return made

    @property
    def visited(self) -> float:
        """Share of the clusters that a search visits at most."""
        return self._index.nprobe / self._index.nlist

    def search(self, states: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        if allowed is None:
            return self._search(states, k, self._index.nprobe)
        chosen = np.flatnonzero(allowed)
        if len(chosen) > EXACT_BELOW:
            # The best of some items lie in more clusters than the best of all.
            wide = min(self._index.nlist, round(self._index.nprobe * len(allowed) / len(chosen)))
            bits = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            found = self._search(states, k, wide, bits)
            if np.isfinite(found[0]).all():
                return found
        values, best = best_of(states @ self.table[chosen].T, k)
        return values, chosen[best]

    def _search(
        self, states: np.ndarray, k: int, most: int, chosen: faiss.IDSelector | None = None
    ) -> Found:
        """Visit up to `most` clusters, whose items are all or those chosen."""
        items, k = len(self.table), min(k, len(self.table))
        # Threads share out the clusters of a single state, but the states of a batch.
        self._index.parallel_mode = int(len(states) == 1)
        mapped = np.empty((len(states), self._index.d), np.float32)
        np.matmul(states, self.to_space, out=mapped[:, :-1])
        np.sqrt(np.einsum("ij,ij->i", mapped[:, :-1], mapped[:, :-1]), out=mapped[:, -1])
        count, first = min(items, k + self._margin), min(most, max(FIRST, most // OF_MOST))
        # One more than is visited, by which most states are seen to need no more.
        highest, clusters = self._highest.search(mapped, min(most, first + 1))
        values, found = self._scan(mapped, clusters[:, :first], count, chosen)
        last = values[:, k - 1 : k]
        if (highest[:, first:] >= last).any():
            highest, clusters = self._highest.search(mapped, most)
            promising = highest >= last
            wanted = slice(first, int(promising.sum(1).max()))
            # Places without a cluster are passed over.
            rest = np.where(promising[:, wanted], clusters[:, wanted], -1)
            found = np.concatenate([found, self._scan(mapped, rest, count, chosen)[1]], axis=1)
        rows = self.table.take(found, axis=0, mode="clip")
        exact = np.matmul(rows, states[:, :, None])[:, :, 0]
        exact[found < 0] = -np.inf
        best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        row = np.arange(len(states))[:, None]
        return exact[row, best], np.maximum(found[row, best], 0)

    def _scan(
        self, mapped: np.ndarray, clusters: np.ndarray, count: int, chosen: faiss.IDSelector | None
    ) -> Found:
        """The best items by their codes in clusters int64[B, some]; -1 where there are no more."""
        clusters = np.ascontiguousarray(clusters)
        ignored = np.zeros(clusters.shape, np.float32)
        values = np.empty((len(mapped), count), np.float32)
        found = np.empty((len(mapped), count), np.int64)
        # faiss's own wrapper knows neither another number of clusters nor a choice of items. The
        # clusters' scores would count only if codes were of residuals.
        self._index.search_preassigned_c(
            len(mapped),
            faiss.swig_ptr(mapped),
            count,
            faiss.swig_ptr(clusters),
            faiss.swig_ptr(ignored),
            faiss.swig_ptr(values),
            faiss.swig_ptr(found),
            False,
            faiss.SearchParametersIVF(sel=chosen, nprobe=clusters.shape[1]),
        )
        return values, found

    def scores(self, states: np.ndarray) -> np.ndarray:
        return _spread(self, states, len(self.table))

    def rows(self, items: np.ndarray) -> np.ndarray:
        return self.table[items]

    def _calibrate(self, states: np.ndarray, recall: float) -> None:
        """Visit more clusters or re-rank more items, whichever finds more, until it is enough."""
        parts = [states[start : start + 64] for start in range(0, len(states), 64)]
        wanted = [best_of(part @ self.table.T, 10)[1] for part in parts]

        def found(settings: tuple[int, int]) -> float:
            self._index.nprobe, self._margin = settings
            hits = [
                (self.search(part, 10)[1][:, :, None] == best[:, None, :]).any(2)
                for part, best in zip(parts, wanted, strict=True)
            ]
            return float(np.concatenate(hits).mean())

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


class CosineIndex:
    """Finds items by the cosine: scans int8 codes of unit vectors (faiss), re-ranks by float rows.

    It is made in a second for a million items, and holds a byte a number beside the table.

    Parameters
    ----------
    index
        Gives the items' rows.
    norms
        float[items] lengths of the rows, none of them 0.
    """

    def __init__(self, index: Index, norms: np.ndarray) -> None:
        self._rows, self._norms = index.rows, norms
        largest = max(np.abs(self._unit(part)).max() for part in item_parts(len(norms)))
        self._scale = np.float32(LARGEST / largest)
        width = self._rows(np.zeros(1, dtype=np.int64)).shape[1]
        self._codes = faiss.IndexScalarQuantizer(
            width, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        for part in item_parts(len(norms)):
            self._codes.add(np.rint(self._unit(part) * self._scale))

    def search(self, items: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """Cosines float[B, k] and items int64[B, k] nearest to int64[B] items, the best first.

        An item is not near itself. `allowed` is as :meth:`Index.search` has it.
        """
        states = self._unit(items)
        chosen = None
        if allowed is not None:
            chosen = faiss.SearchParameters(
                sel=faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            )
        count = min(len(self._norms), k + 1 + COSINE_MARGIN)
        found = self._codes.search(states * self._scale, count, params=chosen)[1]
        # Where fewer are allowed, the rest is -1.
        cosines = np.matmul(self._unit(np.maximum(found, 0)), states[:, :, None])[:, :, 0]
        cosines[(found < 0) | (found == items[:, None])] = -np.inf
        values, best = best_of(cosines, k)
        return values, np.maximum(np.take_along_axis(found, best, 1), 0)

    def _unit(self, items: np.ndarray) -> np.ndarray:
        """float[..., d] unit vectors of int64[...] items."""
        return self._rows(items) / self._norms[items][..., None]


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


def _spread(index: Index, states: np.ndarray, items: int) -> np.ndarray:
    """What a search finds, each score in its item's column."""
    values, found = index.search(states, min(REACH, items))
    every = np.full((len(states), items), -np.inf, dtype=np.float32)
    np.maximum.at(every, (np.arange(len(states))[:, None], found), values)
    return every
