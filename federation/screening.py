"""Updates that are much larger than the others' of their round: by mistake, or to poison the model.

A large update is not proof: it is told of, and the robust strategies decide what counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from federation.updates import Rows, Update

FEWEST = 3
# Sites' data differ in size by as much as this, and their changes by less.
TIMES = 10.0


def suspects(updates: Sequence[Update]) -> dict[str, str]:
    """Sites whose change is more than ten times as long as the median of the others': how long."""
    if len(updates) < FEWEST:
        return {}
    lengths = [_length(update) for update in updates]
    found = {}
    for place, update in enumerate(updates):
        usual = median(lengths[:place] + lengths[place + 1 :])
        if lengths[place] > TIMES * usual:
            found[update.site] = (
                f"Site {update.site!r} sent a change of length {lengths[place]:.3g}, where the "
                f"others' are about {usual:.3g}: it may be poisoned."
            )
    return found


def _length(update: Update) -> float:
    parts = (c.values if isinstance(c, Rows) else c for c in update.delta.values())
    return math.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in parts))
