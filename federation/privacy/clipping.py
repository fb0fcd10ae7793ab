"""The sum of the users' gradients, each no longer than a bound: what one user can add is limited.

A user's gradient is that of one loss over all of the user's latest events. With softmax over the
whole catalogue it touches every row of the item table, megabytes for each user. It is a product
of two thin matrices, though, and neither the norm nor the clipped sum needs it written out (Lee
and Kifer, 2021, "Scaling up differentially private deep learning with fast per-example gradient
clipping"). The transformer's own weights are few, and their gradients are computed user by user.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from recsys.data.interactions import Interactions
from recsys.model import SequentialRecommender
from recsys.packing import Packed, Windows, training_windows

# Logits of the users worked on at a time.
LOGITS_IN_FLIGHT = 1 << 23
# The loss is sent as one more number of the gradient: this share of the bound is set apart for it.
LOSS_SHARE = 0.1
# A loss counts as no more than so many times that of guessing among all items.
HIGHEST_LOSS = 1.5
# Norms are computed in single precision: a little off the bound keeps every one below it.
ROUNDING = 1e-4


@dataclass(frozen=True)
class ClippedSum:
    """A sum over users of vectors whose norm is at most the bound.

    Attributes
    ----------
    table : Tensor
        float[items + 1, d]: gradient of the items' vectors, on the way in and on the way out.
    bias : Tensor
        Gradient of the model's `seen_bias`.
    others : dict of str to Tensor
        Gradients of the remaining parameters, by name.
    loss : Tensor
        The losses, at the scale of :func:`loss_scale`.
    """

    table: Tensor
    bias: Tensor
    others: dict[str, Tensor]
    loss: Tensor


def user_windows(interactions: Interactions, length: int) -> Windows:
    """The latest `length` events of each user that has two or more: all that a user can add."""
    windows = training_windows(interactions, length, targets=True)
    users = int((np.diff(interactions.offsets) >= 2).sum())
    # The windows of all users that end with their latest events come first.
    return Windows(windows.sequence, windows.starts[:users], windows.lengths[:users])


def loss_scale(clip: float, items: int) -> float:
    """What a loss in nats is multiplied with to be a part of a vector bounded by `clip`."""
    return LOSS_SHARE * clip / (HIGHEST_LOSS * math.log(max(items, 2)))


def clipped_sum(
    model: SequentialRecommender, windows: Windows, chosen: np.ndarray, clip: float
) -> ClippedSum:
    """Sum the chosen users' gradients, each scaled down to the norm `clip` if it is longer.

    Parameters
    ----------
    model
        In evaluation mode: dropout would make a user's gradient a matter of the others.
    windows
        Of :func:`user_windows`.
    chosen
        int64[users]: whose gradients.
    clip
        Bound of the L2 norm of a user's whole gradient, the loss with it.
    """
    total = _zero(model)
    chosen = chosen[np.argsort(windows.lengths[chosen], kind="stable")]
    while len(chosen):
        # The longest first: the first of a part decides to how many events the others are padded.
        length = int(windows.lengths[chosen[-1]])
        count = max(1, LOGITS_IN_FLIGHT // (length * model.items))
        chosen, part = chosen[:-count], chosen[-count:]
        _add(total, model, *_padded(windows, part, length), clip)
    return total


def _zero(model: SequentialRecommender) -> ClippedSum:
    weight = model.item_embedding.weight
    others = {name: torch.zeros_like(tensor) for name, tensor in _others(model).items()}
    nothing = weight.new_zeros(())
    return ClippedSum(torch.zeros_like(weight), nothing, others, nothing.clone())


def _others(model: SequentialRecommender) -> dict[str, Tensor]:
    """Parameters that make no item's vector and are not the bias."""
    tables = ("item_embedding.", "text_tower.", "neighbour_tower.", "_seen_bias")
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if not name.startswith(tables)
    }


def _padded(
    windows: Windows, chosen: np.ndarray, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and targets int64[users, length], and float[users, length] weights that sum to one.

    Padding comes last, where no earlier event sees it, and has the weight 0.
    """
    steps = np.arange(length)
    lengths = windows.lengths[chosen][:, None]
    places = windows.starts[chosen][:, None] + np.minimum(steps, lengths - 1)
    weights = (steps < lengths) / lengths
    inputs, targets = (
        torch.from_numpy(windows.sequence[where].astype(np.int64)) for where in (places, places + 1)
    )
    return inputs, targets, torch.from_numpy(weights).float()


def _add(
    total: ClippedSum,
    model: SequentialRecommender,
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor,
    clip: float,
) -> None:
    length = inputs.shape[1]
    with torch.no_grad():
        table = model.input_table()
    items = table[: model.items]
    packed = Packed(torch.arange(length), torch.arange(length), [(1, length)])
    same = inputs[:, :, None] == inputs[:, None, :]
    # At step t the score of each item among inputs 0..t gets the bias once.
    first = ~same.tril(-1).any(2)
    known = (first[:, None, :] & torch.ones(length, length).tril().bool()).float()

    def user_loss(others, bias, rows, inputs, targets, weights, known):
        # The user's own rows of the table are an argument, to have their gradient by event.
        states = functional_call(model, others, (packed,), {"table": rows})
        logits = (states @ items.T).scatter_add(1, inputs.expand(length, -1), bias * known)
        lost = logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]
        loss = (lost * weights).sum()
        return loss, (loss, states, logits)

    per_user = vmap(
        grad(user_loss, argnums=(0, 1, 2), has_aux=True), in_dims=(None, None, 0, 0, 0, 0, 0)
    )
    bias = model.seen_bias.detach()
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        (others, biases, rows), (loss, states, logits) = per_user(
            _others(model), bias, table[inputs], inputs, targets, weights, known
        )
        # Gradient of the logits: the table's is errors.T @ states, and `rows` at the inputs.
        errors = logits.softmax(2)
        errors.scatter_add_(2, targets[:, :, None], errors.new_full(targets.shape, -1.0)[..., None])
        errors *= weights[:, :, None]
        at_inputs = errors.gather(2, inputs[:, None, :].expand(-1, length, -1))
        squares = (errors @ errors.mT * (states @ states.mT)).sum((1, 2))
        squares += 2 * (at_inputs * (states @ rows.mT)).sum((1, 2))
        squares += (same * (rows @ rows.mT)).sum((1, 2))
        squares += biases.square()
        squares += sum(part.flatten(1).square().sum(1) for part in others.values())
        highest = HIGHEST_LOSS * math.log(max(model.items, 2))
        losses = loss.clamp(0, highest) * loss_scale(clip, model.items)
        norms = squares.clamp_min(0).sqrt()
        bound = clip * math.sqrt(1 - LOSS_SHARE**2) * (1 - ROUNDING)
        factors = (bound / norms.clamp_min(1e-12)).clamp_max(1.0)
        if not (sound := norms.isfinite()).all():
            # A user whose gradient overflowed would take everybody's sum along.
            factors, biases, losses, inputs = (
                part[sound] for part in (factors, biases, losses, inputs)
            )
            errors, states, rows = errors[sound], states[sound], rows[sound]
            others = {name: part[sound] for name, part in others.items()}
        errors *= factors[:, None, None]
        total.table[: model.items].addmm_(errors.flatten(0, 1).T, states.flatten(0, 1))
        scaled = (rows * factors[:, None, None]).flatten(0, 1)
        total.table.index_add_(0, inputs.flatten(), scaled)
        total.bias.add_(biases @ factors)
        total.loss.add_(losses.sum())
        for name, part in others.items():
            total.others[name].add_(torch.tensordot(factors, part, 1))
