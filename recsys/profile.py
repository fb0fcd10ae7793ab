"""What a model was trained on and what it recommends, to compare with what it is asked later.

``profile.json`` in an artefact: ``bands`` has a digit for each item, ``shares`` tells for each of
`ITEMS` how much of it falls into which band. Band 0 holds the most popular items, which together
have a tenth of the training events; band 1 the next, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsys.errors import RecsysError
from recsys.files import write_atomically

if TYPE_CHECKING:
    from recsys.data.interactions import Interactions
    from recsys.data.split import Split
    from recsys.model import SequentialRecommender

FILE = "profile.json"
BANDS = 10
# What users had, as far back as the model looks, and what stands first in their lists.
HISTORY, RECOMMENDED = ITEMS = ("history", "recommended")
# Users of whom it is asked what the model recommends to them: enough for shares within 1 %.
SAMPLE = 2000


@dataclass(frozen=True)
class Profile:
    """How the items of histories and recommendations are spread over bands of popularity.

    Attributes
    ----------
    bands
        int8[items] band of each item.
    shares
        For each of `ITEMS` float64[BANDS], which sums to 1.
    """

    bands: np.ndarray
    shares: Mapping[str, np.ndarray]


def profile_of(
    model: SequentialRecommender, interactions: Interactions, split: Split
) -> Profile:
    """Profile a trained model on users whom it is tested with.

    Parameters
    ----------
    interactions, split
        All events, and their `recsys.data.split.leave_one_out`.
    """
    # Who only reads a profile, as a handler does, needs neither data nor torch.
    from recsys.data.split import leave_one_out
    from recsys.evaluate import rank

    bands = popularity_bands(np.bincount(split.train.sequence, minlength=len(interactions.items)))
    users = np.flatnonzero(split.test_target >= 0)
    chosen = np.unique(np.linspace(0, len(users) - 1, SAMPLE).astype(np.int64))
    sample = interactions.select(users[chosen])
    lists = rank(model, sample, leave_one_out(sample), part="test").masked.recommended
    histories = [sample.of(user)[:-1][-model.length :] for user in range(len(sample.users))]
    items = {HISTORY: np.concatenate(histories), RECOMMENDED: lists[lists >= 0]}
    return Profile(bands, {what: _shares(bands[found]) for what, found in items.items()})


def popularity_bands(events: np.ndarray) -> np.ndarray:
    """int8[items] the band of each item, from int64[items] training events of each."""
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    bands = np.empty(len(events), dtype=np.int8)
    bands[order] = np.minimum(BANDS * before // max(events.sum(), 1), BANDS - 1)
    return bands


def _shares(bands: np.ndarray) -> np.ndarray:
    counts = np.bincount(bands, minlength=BANDS)
    return counts / max(counts.sum(), 1)


def write_profile(folder: Path, profile: Profile) -> None:
    """Write the profile into an artefact."""
    content = {
        "bands": "".join(map(str, profile.bands.tolist())),
        "shares": {what: shares.tolist() for what, shares in profile.shares.items()},
    }
    text = json.dumps(content) + "\n"
    write_atomically(folder / FILE, lambda path: path.write_text(text))


def read_profile(folder: Path, items: int) -> Profile | None:
    """The profile of an artefact with so many items; None where it has none.

    Raises
    ------
    RecsysError
        When the file is damaged, or tells of another number of items.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        bands = np.frombuffer(content["bands"].encode("ascii"), dtype=np.uint8) - ord("0")
        shares = {what: np.array(content["shares"][what], dtype=np.float64) for what in ITEMS}
        sound = bands.max(initial=0) < BANDS and all(
            s.shape == (BANDS,) and np.isfinite(s).all() for s in shares.values()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise RecsysError(f"{file} is damaged; get the model again")
    if len(bands) != items:
        raise RecsysError(
            f"{file} tells of {len(bands)} items, and items.json of {items}; get the model again"
        )
    return Profile(bands.astype(np.int8), shares)
