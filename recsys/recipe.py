"""The settings of one training run, checked once, at the door."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recsys.errors import RecipeError

LOSSES = ("softmax", "sampled", "gbce")
PRETRAINING = ("masked_item", "skip_gram", "contrastive", "masked_text")
# What JSON may hold for a field of a type, and how to say so.
KINDS = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
    tuple: ((list, tuple), "a list"),
}


def checked_fields(recipe: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Parsed JSON or YAML as arguments of a recipe class, each of its field's type.

    Raises
    ------
    RecipeError
        On a key that is no field, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(recipe)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise RecipeError(f"recipe: unknown key {name!r}; the keys are {', '.join(fields)}")
        kind = type(fields[name].default)
        accepted, wanted = KINDS[kind]
        if kind is float and isinstance(value, str):
            value = _number_of(value)
        if isinstance(value, bool) is not (kind is bool) or not isinstance(value, accepted):
            raise RecipeError(f"recipe: {name} is {value!r}; it must be {wanted}")
        if kind is float and math.isinf(value):
            raise RecipeError(f"recipe: {name} is {value!r}; it must be finite")
        checked[name] = kind(value)
    return checked


def _number_of(text: str) -> float | str:
    """The number that a text spells, else the text: YAML takes 1e-3, without a point, for text."""
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Recipe:
    """Model shape and training schedule. The defaults are general, not tuned to one data set.

    Attributes
    ----------
    dimension
        Width of item embeddings and hidden states.
    blocks, heads
        Transformer blocks, and attention heads in each; `heads` divides `dimension`.
    length
        The model sees at most this many of a user's latest events.
    dropout
        Share of activations dropped while training (embeddings, attention and feed-forward output).
    text_buckets
        Where items have texts, their hashed features share at most so many embeddings; 0 ignores
        the texts.
    neighbours, neighbour_dropout
        Where items have no texts: whether each gets a vector made of its neighbours in people's
        histories (`recsys.neighbours`), and the share of the neighbours left out at each step.
    horizon
        Where items have no texts, each event predicts so many of those that follow it in training.
    loss
        Of next-item prediction: ``softmax`` (against every item), ``sampled`` (softmax against
        drawn items with the logQ correction) or ``gbce``. See `recsys.losses`.
    negatives
        Items drawn for each optimizer step, where the loss draws any. A catalogue of no more items
        than that is never sampled: the loss is then ``softmax``.
    negative_power
        ``sampled`` draws items in proportion to this power of their number of events.
    calibration
        t of ``gbce``.
    batch_tokens
        Events in one optimizer step, about, since batches hold whole sequences; fewer where the
        data are few (see `recsys.packing.events_a_step`).
    learning_rate, weight_decay
        Of AdamW; the rate rises linearly over the first `warmup_steps` steps.
    final_rate
        In fine-tuning the rate then falls linearly, to this share of it after `epochs`.
    average_epochs
        Fine-tuning evaluates and keeps a running average of the weights over about so many epochs
        (Polyak and Juditsky, 1992); 0 keeps the weights themselves.
    pretrain_epochs
        Epochs of pretraining before fine-tuning; 0 turns it off.
    masked_item, skip_gram, contrastive, masked_text
        Weights of the pretraining objectives of `recsys.objectives`; 0 turns one off.
    mask_share
        Share of the events, or of a text's features, hidden in pretraining.
    skip_gram_reach
        Events on each side that count as nearby.
    epochs, patience
        Fine-tuning stops after `epochs`, or when validation NDCG@10 has not risen for `patience`
        epochs; the best epoch's weights are kept.
    seed
        Decides initial weights, data order, dropout and masks.
    accumulation
        Parts in which a process works through its share of a batch, one after another, so that the
        activations of one part are in memory at a time.
    activation_checkpointing
        Compute each block's activations again in the backward pass instead of keeping them: their
        memory no longer grows with `blocks`, an epoch takes about a third longer in the blocks.
    bfloat16
        Matrix products of the blocks in bfloat16, for GPUs; weights, softmax and loss stay float32.

    Raises
    ------
    RecipeError
        When a value is out of range.
    """

    dimension: int = 128
    blocks: int = 1
    heads: int = 2
    length: int = 50
    dropout: float = 0.5
    text_buckets: int = 16384
    neighbours: bool = True
    neighbour_dropout: float = 0.5
    horizon: int = 3
    loss: str = "sampled"
    negatives: int = 2048
    negative_power: float = 0.75
    calibration: float = 0.75
    batch_tokens: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    final_rate: float = 0.05
    average_epochs: float = 1.0
    pretrain_epochs: int = 0
    masked_item: float = 1.0
    skip_gram: float = 0.0
    contrastive: float = 0.0
    masked_text: float = 0.0
    mask_share: float = 0.3
    skip_gram_reach: int = 2
    epochs: int = 20
    patience: int = 5
    seed: int = 0
    accumulation: int = 1
    activation_checkpointing: bool = False
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in (
            "dimension", "blocks", "heads", "batch_tokens", "epochs", "patience", "negatives",
            "skip_gram_reach", "accumulation", "horizon",
        ):  # fmt: skip
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("length", self.length >= 2, "at least 2")
        for name in (
            "warmup_steps", "pretrain_epochs", "weight_decay", "seed", "text_buckets",
            "negative_power", "average_epochs", *PRETRAINING,
        ):  # fmt: skip
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("dropout", "neighbour_dropout"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("final_rate", "calibration"):
            self._require(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        self._require("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}")
        self._require(
            "pretrain_epochs",
            not self.pretrain_epochs or any(getattr(self, name) for name in PRETRAINING),
            f"0 where none of {', '.join(PRETRAINING)} has a weight",
        )
        self._require("mask_share", 0 < self.mask_share < 1, "in (0, 1)")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require(
            "heads", self.dimension % self.heads == 0, f"a divisor of dimension {self.dimension}"
        )

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise RecipeError(f"recipe: {name} is {getattr(self, name)!r}; it must be {wanted}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe from parsed JSON or YAML; keys that are left out keep their default.

        Raises
        ------
        RecipeError
            On an unknown key, a value of the wrong type or out of range.
        """
        return cls(**checked_fields(cls, values))

    def to_dict(self) -> dict[str, bool | int | float | str]:
        """The recipe as JSON-ready values; `from_dict` is the inverse."""
        return dataclasses.asdict(self)
