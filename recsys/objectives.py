"""What training minimises: each objective turns a packed batch into a loss.

An objective has the `windows` that batches are made of, and is called with the model, a packed
batch, where its events lie in ``windows.sequence`` and the epoch's generator. It returns the mean
loss (a scalar in nats) and over how many predictions that is a mean.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.data.interactions import Interactions
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.packing import Packed, Windows, training_windows
from recsys.randomness import uniform_at
from recsys.recipe import Recipe
from recsys.softmax import chunked_cross_entropy


class Objective(Protocol):
    """See the module's docstring."""

    windows: Windows

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]: ...


class NextItem:
    """Next-item prediction at every event, against the whole catalogue.

    Raises
    ------
    RecsysError
        When no user has two events.
    """

    def __init__(self, interactions: Interactions, recipe: Recipe) -> None:
        self.windows = training_windows(interactions, recipe.length, targets=True)
        if not len(self.windows.lengths):
            raise RecsysError(
                "no user has two training events, so there is no next item to learn from"
            )

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        targets = torch.from_numpy(self.windows.sequence[places + 1]).long()
        return chunked_cross_entropy(model(packed), model.output_table, targets), len(targets)


class MaskedItem:
    """Fill in hidden events from both sides of a session (Sun et al., BERT4Rec, 2019, §3.6)."""

    def __init__(self, interactions: Interactions, recipe: Recipe) -> None:
        self.windows = training_windows(interactions, recipe.length, targets=False)
        self.share = recipe.mask_share

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        chance = uniform_at(places, generator)
        hidden = torch.from_numpy(chance < self.share)
        hidden[chance.argmin()] = True
        targets = packed.items[hidden]
        packed.items[hidden] = model.mask
        states = model(packed, causal=False)[hidden]
        return chunked_cross_entropy(states, model.output_table, targets), len(targets)
