"""What training minimises: each objective turns a packed batch into a loss.

An objective has the `windows` that batches are made of, and is called with the model, a packed
batch, where its events lie in ``windows.sequence`` and the step's generator. It returns the mean
loss (a scalar in nats) and over how many predictions that is a mean.

Called with the parts of a batch and generators in equal states, it gives losses whose mean over
all predictions is that of the whole batch. What it draws for an event therefore depends on where
the event lies (`recsys.randomness.uniform_at`), and what it draws for all events on nothing else.
A part without predictions has the loss 0, which still depends on the same weights.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.data.interactions import Interactions
from recsys.errors import RecsysError
from recsys.losses import PopularitySampler, generalised_bce, sampled_softmax
from recsys.model import SequentialRecommender
from recsys.packing import Packed, Windows, pack, training_windows
from recsys.randomness import uniform_at
from recsys.recipe import Recipe
from recsys.softmax import Places, chunked_cross_entropy
from recsys.text import has_texts

# Softness of the contrastive choice (Xie et al., 2022) and the share of a session in its views.
TEMPERATURE = 0.1
FEWEST_KEPT = 0.5


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
    """Next-item prediction at every event, with the recipe's loss.

    Where items have no texts, an event also predicts those that come after the next one, up to the
    recipe's horizon and the end of the history, and each prediction counts alike: an item that has
    few events learns from more of its surroundings.

    Raises
    ------
    RecsysError
        When no user has two events.
    """

    def __init__(self, interactions: Interactions, recipe: Recipe) -> None:
        self.windows = training_windows(interactions, recipe.length, targets=True)
        if not len(self.windows.lengths):
            raise RecsysError(
                "no user has two training events, so there is no next item to learn from; with the "
                "two that are held out for validation and test that takes four"
            )
        self.recipe = recipe
        self.horizon = 1 if has_texts(interactions, recipe) else recipe.horizon
        self.ends = np.repeat(interactions.offsets[1:], np.diff(interactions.offsets))
        # A sample as large as the catalogue costs more than the catalogue, and knows less.
        whole = recipe.negatives >= len(interactions.items)
        self.loss = "softmax" if whole else recipe.loss
        counts = np.bincount(interactions.sequence, minlength=len(interactions.items))
        power = recipe.negative_power if recipe.loss == "sampled" else 0.0
        self.sampler = PopularitySampler(counts, power)

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        events, targets = self._predictions(places)
        targets = torch.from_numpy(targets).long().to(model.device)
        negatives = wanted = None
        if self.loss != "softmax":
            negatives = self.sampler.draw(self.recipe.negatives, generator).to(model.device)
            wanted = torch.cat([packed.items.to(model.device), targets, negatives])
        inputs = model.input_table(wanted)
        states, table = model(packed, table=inputs), inputs[: model.items]
        rows, items = (part.to(states.device) for part in seen(packed, events))
        states = states[torch.from_numpy(events).to(states.device)]
        bias = {"bias": model.seen_bias, "biased": (rows, items)}
        if negatives is None:
            return chunked_cross_entropy(states, table, targets, **bias), len(targets)
        if self.loss == "sampled":
            chance = self.sampler.log_chance.to(states.device)
            loss = sampled_softmax(states, table, targets, negatives, chance, **bias)
        else:
            t = self.recipe.calibration
            loss = generalised_bce(states, table, targets, negatives, t, **bias)
        return loss, len(targets)

    def _predictions(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int[predictions] each: which packed event predicts, and the item that it should."""
        later = places + np.arange(1, self.horizon + 1)[:, None]
        steps, events = np.nonzero(later < self.ends[places])
        return events, self.windows.sequence[later[steps, events]]


def seen(packed: Packed, predicting: np.ndarray) -> Places:
    """What each prediction knows of its session: (predictions, items), sorted, none twice.

    Prediction p is made at the packed event ``predicting[p]``: the items are that event's and
    those of the events before it in the window.
    """
    events, before = [], []
    start = 0
    for count, length in packed.groups:
        later, earlier = np.tril_indices(length)
        first = start + length * np.arange(count)[:, None]
        events.append((first + later).ravel())
        before.append((first + earlier).ravel())
        start += count * length
    rows, items = np.concatenate(events), packed.items.numpy()[np.concatenate(before)]
    width = items.max() + 1
    rows, items = np.divmod(np.unique(rows * width + items), width)
    bounds = np.searchsorted(rows, np.arange(len(packed.items) + 1))
    first, counts = bounds[predicting], np.diff(bounds)[predicting]
    ends = np.cumsum(counts)
    known = np.arange(ends[-1]) + np.repeat(first - ends + counts, counts)
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts)), torch.from_numpy(items[known])


class Pretraining:
    """The self-supervised objectives that the recipe gives a weight, summed on each batch.

    Of several objectives, which each predict something else, the mean is over events. A batch in
    parts is then nearly the whole batch, not exactly: each objective's predictions are divided
    among the parts about as the events are.

    Raises
    ------
    RecsysError
        When the data hold no event.
    """

    def __init__(self, interactions: Interactions, recipe: Recipe) -> None:
        self.windows = training_windows(interactions, recipe.length, targets=False)
        if not len(self.windows.lengths):
            raise RecsysError("there is no training event to pretrain on")
        weighted = [
            (recipe.masked_item, MaskedItem(self.windows, recipe)),
            (recipe.skip_gram, SkipGram(self.windows, recipe)),
            (recipe.contrastive, Contrastive(self.windows, recipe)),
            (recipe.masked_text, MaskedText(self.windows, recipe)),
        ]
        self.weighted = [(weight, objective) for weight, objective in weighted if weight]

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        found = [
            (weight, *objective(model, packed, places, generator))
            for weight, objective in self.weighted
        ]
        count = found[0][2] if len(found) == 1 else len(packed.items)
        return sum(weight * loss for weight, loss, _ in found), count


class MaskedItem:
    """Fill in hidden events from both sides of a session (Sun et al., BERT4Rec, 2019, §3.6)."""

    def __init__(self, windows: Windows, recipe: Recipe) -> None:
        self.windows = windows
        self.share = recipe.mask_share

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        hidden = torch.from_numpy(uniform_at(places, generator) < self.share)
        targets = packed.items[hidden]
        table = model.input_table()
        shown = Packed(packed.items.where(~hidden, model.mask), packed.positions, packed.groups)
        states = model(shown, causal=False, table=table)[hidden]
        return chunked_cross_entropy(states, table[: model.items], targets), len(targets)


class SkipGram:
    """Predict from an item's vector alone another event nearby in the session.

    Skip-gram (Mikolov et al., 2013) over sessions (Barkan and Koenigstein, Item2Vec, 2016), with
    the model's one table for both sides and one neighbour drawn for each event.
    """

    def __init__(self, windows: Windows, recipe: Recipe) -> None:
        self.windows = windows
        self.reach = recipe.skip_gram_reach

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        lengths = np.concatenate([np.full(c * n, n) for c, n in packed.groups])
        positions = packed.positions.numpy()
        neighbour = (uniform_at(places, generator) * 2 * self.reach).astype(np.int64)
        steps = (neighbour // 2 + 1) * (neighbour % 2 * 2 - 1)
        there = (positions + steps >= 0) & (positions + steps < lengths)
        events = np.flatnonzero(there)
        table = model.input_table()
        centres = model.look_up(packed.items[events].to(model.device), table)
        targets = packed.items[events + steps[events]]
        return chunked_cross_entropy(centres, table[: model.items], targets), len(targets)


class Contrastive:
    """Tell two views of a session from the views of others (Xie et al., CL4SRec, 2022, §3.2).

    A view is a random stretch of the session in which a random share of the events is hidden;
    dropout differs between the views as well (Qiu et al., DuoRec, 2022, §4.2). The other sessions
    of the batch are the negatives, so it cannot be worked on in parts.
    """

    def __init__(self, windows: Windows, recipe: Recipe) -> None:
        self.windows = windows
        self.share = recipe.mask_share

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        ends = packed.last.numpy()
        lengths = packed.positions.numpy()[ends] + 1
        starts = places[ends] + 1 - lengths
        table = model.input_table()
        first, second = (
            F.normalize(self._view(model, starts, lengths, table, generator), dim=1)
            for _ in range(2)
        )
        same = torch.arange(len(lengths), device=first.device)
        return F.cross_entropy(first @ second.T / TEMPERATURE, same), len(lengths)

    def _view(
        self,
        model: SequentialRecommender,
        starts: np.ndarray,
        lengths: np.ndarray,
        table: Tensor,
        generator: np.random.Generator,
    ) -> Tensor:
        """float[sessions, d]: the state at the end of one view of each, in the order given."""
        kept = np.ceil(lengths * generator.uniform(FEWEST_KEPT, 1, len(lengths))).astype(np.int64)
        shift = generator.integers(0, lengths - kept + 1)
        order = np.argsort(kept, kind="stable")
        view, _ = pack(Windows(self.windows.sequence, starts + shift, kept), order)
        hidden = torch.from_numpy(generator.random(len(view.items)) < self.share)
        view.items[hidden] = model.mask
        states = model(view, table=table)[view.last]
        return states[torch.from_numpy(np.argsort(order))]


class MaskedText:
    """Name a hidden feature of an item's text from the others (BERT's objective on bags).

    The bag that is left and the item's own embedding predict one of the hidden features, against
    all buckets. Without texts there is nothing to learn, and the loss is zero. An item counts once
    in a batch; of a batch in parts, once in each part that it is in, so the parts are nearly the
    whole batch.
    """

    def __init__(self, windows: Windows, recipe: Recipe) -> None:
        self.windows = windows
        self.share = recipe.mask_share

    def __call__(
        self,
        model: SequentialRecommender,
        packed: Packed,
        places: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[Tensor, int]:
        if model.text_tower is None:
            nothing = packed.items[:0].to(model.device)
            return model.item_embedding(nothing).sum() * 0.0, 0
        tower = model.text_tower
        items = packed.items.unique().to(model.device)
        lengths = tower.offsets.diff()[items]
        items, lengths = items[lengths > 0], lengths[lengths > 0]
        starts = tower.offsets[items]
        owner = torch.arange(len(items), device=model.device).repeat_interleave(lengths)
        within = torch.arange(len(owner), device=model.device)
        members = starts[owner] + within - (lengths.cumsum(0) - lengths)[owner]
        features = tower.features[members].long()
        chance = torch.from_numpy(uniform_at(members.cpu().numpy(), generator)).to(model.device)
        hidden = chance < self.share
        lowest = chance.new_ones(len(items)).scatter_reduce_(0, owner, chance, "amin")
        named = hidden & (chance == lowest[owner])
        left = torch.bincount(owner[~hidden], minlength=len(items))
        offsets = F.pad(left.cumsum(0), (1, 0))
        context = tower.embed(features[~hidden], offsets) + model.item_embedding(items)
        states = context[owner[named]]
        targets = features[named]
        return chunked_cross_entropy(states, tower.embedding.weight, targets), len(targets)
