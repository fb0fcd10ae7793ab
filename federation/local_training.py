"""A site's training in a round: with its own layers and control variates, where a run has any."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from federation.privacy.rounds import Terms, train_round
from federation.protocol import Task
from federation.strategies.personal import personal_names, shared, with_personal
from federation.updates import Delta, Weights, difference
from recsys.artifact import model_of
from recsys.data.interactions import Interactions
from recsys.drift import ControlVariates
from recsys.finetune import train_local
from recsys.loop import Moments
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """What a site's training gives.

    Attributes
    ----------
    delta, extra : dict of str to ndarray
        For the server: the change without what stays, and that of the control variate.
    kept : dict of str to dict
        For the next round at the site: "personal", "control" and the optimizer's moments, where
        the run has any.
    figures : dict of str to float
        "examples", "loss" and "seconds".
    """

    delta: Delta
    extra: Delta
    kept: dict[str, Delta]
    figures: dict[str, float]


def own_model(
    received: Weights, task: Task, recipe: Recipe, items: int, kept: Mapping[str, Delta]
) -> SequentialRecommender:
    """The received model with the layers that the site has kept to itself."""
    personal = personal_names(received, task.personal_patterns)
    weights = with_personal(received, kept.get("personal", {}), personal)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    return model_of(tensors, items, recipe)


def train_at_site(
    model: SequentialRecommender,
    interactions: Interactions,
    recipe: Recipe,
    task: Task,
    seed: int,
    kept: Mapping[str, Delta],
    control: Weights | None = None,
) -> Trained:
    """Train :func:`own_model` in place and tell what came of it.

    Parameters
    ----------
    interactions
        The site's training events.
    kept
        What the site kept after the round before.
    control
        The server's control variate, in runs that have one (SCAFFOLD).
    """
    began = time.monotonic()
    received = _arrays(model)
    own = kept.get("control", {})
    variates = None if control is None else ControlVariates(_tensors(control), _tensors(own))
    moments = _moments(kept) if task.keep_moments else None
    loss = train_local(
        model,
        interactions,
        replace(recipe, learning_rate=recipe.learning_rate * task.rate),
        epochs=task.local_epochs,
        seed=seed,
        proximal_mu=task.proximal_mu,
        control=variates,
        moments=moments,
        steps=task.fewest_steps,
        own_rows=task.by_row,
    )
    personal = personal_names(received, task.personal_patterns)
    delta, keeps = _parted(model, received, personal)
    if moments is not None:
        keeps["first moments"] = _in_numpy(moments.first)
        keeps["second moments"] = _in_numpy(moments.second)
        keeps["moments"] = {"steps": np.array(moments.steps)}
    extra: Delta = {}
    if variates is not None:
        renewed = _in_numpy(variates.renewed())
        keeps["control"] = shared(renewed, personal)
        extra = {
            name: np.asarray(value - own.get(name, 0), value.dtype)
            for name, value in keeps["control"].items()
        }
    figures = {
        "examples": len(interactions.sequence),
        "loss": loss,
        "seconds": time.monotonic() - began,
    }
    return Trained(delta, extra, keeps, figures)


def train_privately(
    model: SequentialRecommender,
    interactions: Interactions,
    recipe: Recipe,
    task: Task,
    site: str,
    home: Path,
    request: str,
) -> Trained:
    """The same on the terms of the task's privacy; see :func:`federation.privacy.rounds.train_round`.

    Parameters
    ----------
    home, request
        Folder of the site's states, and digest of the message.
    """
    began = time.monotonic()
    received = _arrays(model)
    loss = train_round(
        model, interactions, recipe, Terms.from_text(task.privacy), home, run=task.run, site=site,
        number=task.number, request=request, epochs=task.local_epochs,
    )  # fmt: skip
    delta, keeps = _parted(model, received, personal_names(received, task.personal_patterns))
    figures = {
        # The number of users is taken as public, how much they did is not.
        "examples": int((np.diff(interactions.offsets) >= 2).sum()),
        "loss": loss,
        "seconds": time.monotonic() - began,
    }
    return Trained(delta, {}, keeps, figures)


def _parted(
    model: SequentialRecommender, received: Weights, personal: list[str]
) -> tuple[Delta, dict[str, Delta]]:
    """What the server gets of the training, and the layers that stay."""
    trained = _arrays(model)
    delta = shared(difference(trained, received), personal)
    return delta, {"personal": {name: trained[name] for name in personal}} if personal else {}


def _arrays(model: SequentialRecommender) -> Weights:
    return {name: tensor.cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def _moments(kept: Mapping[str, Delta]) -> Moments:
    """Those of the site's optimizer after the round before; none before the first."""
    if "moments" not in kept:
        return Moments()
    first, second = (_tensors(kept[f"{which} moments"]) for which in ("first", "second"))
    return Moments(first, second, int(kept["moments"]["steps"]))


def _in_numpy(tensors: Mapping[str, torch.Tensor]) -> Weights:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _tensors(weights: Mapping) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in weights.items()}
