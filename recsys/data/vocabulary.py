"""Reading one shop's data with another data set's item vocabulary, such as a model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from recsys.data.interactions import Interactions
from recsys.errors import RecsysError


def with_vocabulary(interactions: Interactions, items: Sequence[str]) -> Interactions:
    """The same events, with item indices that point into `items`.

    Raises
    ------
    RecsysError
        When an event's item is not among `items`.
    """
    if interactions.items == list(items):
        return interactions
    index_of = {item: index for index, item in enumerate(items)}
    new = np.array([index_of.get(item, -1) for item in interactions.items], dtype=np.int32)
    sequence = new[interactions.sequence]
    unknown = np.unique(interactions.sequence[sequence < 0])
    if len(unknown):
        raise RecsysError(
            f"the data has {len(unknown)} items that the model was not made for, such as "
            f"{interactions.items[unknown[0]]!r}; take the data that the model was trained on"
        )
    texts = None
    if interactions.item_text is not None:
        known = dict(zip(interactions.items, interactions.item_text, strict=True))
        texts = [known.get(item, "") for item in items]
    return dataclasses.replace(interactions, items=list(items), sequence=sequence, item_text=texts)
