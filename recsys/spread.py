"""How what a model is asked and what it answers was spread in training, to compare with later.

For models of ratings, clicks and search; a recommender has a `recsys.profile`. ``profile.json`` in
an artefact: ``bands`` has, for each thing that is asked for by id, a digit an id (band 0 has the
most common ones, see `recsys.profile.popularity_bands`); ``edges`` has, for each thing that is a
number, the bounds between its bins; ``shares`` tells of each how much fell into which bin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.errors import RecsysError
from recsys.files import write_atomically
from recsys.profile import BANDS, FILE

# What is noted of training (`recsys.spreads`) and counted by handlers, under the same names.
USERS, ITEMS, PREDICTED = "users", "items", "predicted"
WORDS, LENGTH, SCORES = "words", "query_words", "scores"
# As many of a list of results as are looked at.
TOP = 10


@dataclass(frozen=True)
class Spread:
    """Bins, and the share of each.

    Attributes
    ----------
    bands
        By what is asked for, int8[ids] the band of each id.
    edges
        By what is a number, float64[bins - 1] ascending bounds: a number on one is above it.
    shares
        By either, float64[bins], which sums to 1. The last bin of ids is for unknown ones.
    """

    bands: Mapping[str, np.ndarray]
    edges: Mapping[str, np.ndarray]
    shares: Mapping[str, np.ndarray]

    def names(self, what: str) -> list[str]:
        """Names of the bins."""
        if what in self.bands:
            return [*map(str, range(BANDS)), "unknown"]
        return [str(place) for place in range(len(self.edges[what]) + 1)]

    def counts(self, what: str, seen: np.ndarray) -> np.ndarray:
        """int64[bins]: how many there are in each.

        Parameters
        ----------
        seen
            Places of ids, -1 for one that is unknown, or numbers.
        """
        if what in self.bands:
            bins = np.append(self.bands[what], BANDS)[seen]
        else:
            bins = np.searchsorted(self.edges[what], seen, side="right")
        return np.bincount(bins, minlength=len(self.names(what)))


def contexts(features: Sequence[str]) -> dict[str, str]:
    """Under what the values of each feature of a click model are noted: letters fit for a metric."""
    return {
        name: f"context_{place}_{re.sub(r'[^A-Za-z0-9]', '_', name)}"
        for place, name in enumerate(features, start=1)
    }


def spread_of(
    bands: Mapping[str, np.ndarray], edges: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray]
) -> Spread:
    """The spread of what was seen, which is as in `Spread.counts`; of each there is something."""
    bins = Spread(bands, edges, {})
    counts = {what: bins.counts(what, values) for what, values in seen.items()}
    return Spread(bands, edges, {what: count / count.sum() for what, count in counts.items()})


def tenths(values: np.ndarray) -> np.ndarray:
    """Bounds between bins that each have a tenth of the numbers, or more where many are equal."""
    return np.unique(np.quantile(values, np.arange(1, BANDS) / BANDS).astype(np.float64))


def write_spread(folder: Path, spread: Spread) -> None:
    """Write the spread into an artefact."""
    content = {
        "bands": {what: "".join(map(str, b.tolist())) for what, b in spread.bands.items()},
        "edges": {what: edges.tolist() for what, edges in spread.edges.items()},
        "shares": {what: shares.tolist() for what, shares in spread.shares.items()},
    }
    text = json.dumps(content) + "\n"
    write_atomically(folder / FILE, lambda path: path.write_text(text))


def read_spread(folder: Path, ids: Mapping[str, int]) -> Spread | None:
    """The spread of an artefact; None where it has none.

    Parameters
    ----------
    ids
        How many ids of each thing the model knows.

    Raises
    ------
    RecsysError
        When the file is damaged, or tells of other things or of another number of ids.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        spread = Spread(
            {what: np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int8) - ord("0")
             for what, text in content["bands"].items()},
            {what: np.array(edges, dtype=np.float64) for what, edges in content["edges"].items()},
            {what: np.array(part, dtype=np.float64) for what, part in content["shares"].items()},
        )  # fmt: skip
        sound = (
            spread.shares.keys() == spread.bands.keys() | spread.edges.keys()
            and all(0 <= b.min(initial=0) <= b.max(initial=0) < BANDS for b in spread.bands.values())
            and all((np.diff(edges) > 0).all() for edges in spread.edges.values())
            and all(
                shares.shape == (len(spread.names(what)),) and np.isfinite(shares).all()
                for what, shares in spread.shares.items()
            )
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise RecsysError(f"{file} is damaged; get the model again")
    told = {what: len(bands) for what, bands in spread.bands.items()}
    if told != dict(ids):
        raise RecsysError(f"{file} tells of {told}, and the model knows {dict(ids)}; get it again")
    return spread
