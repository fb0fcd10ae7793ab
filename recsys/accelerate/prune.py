"""Pruning: whole attention heads and feed-forward units, or single weights.

Structured pruning makes the layers smaller, and with them the work on any hardware. Magnitude
pruning (Han et al., 2015) sets the smallest weights to zero: the file compresses, but dense
kernels are no faster for it.
"""

from __future__ import annotations


import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recsys.data.split import Split
from recsys.model import Block, SequentialRecommender
from recsys.objectives import NextItem
from recsys.packing import batches, pack
from recsys.recipe import Recipe

# Batches that importance is measured on; their order of importance hardly changes after a few.
MEASURED_BATCHES = 50


def prune_structure(
    model: SequentialRecommender, split: Split, recipe: Recipe, share: float
) -> None:
    """Remove the least important heads and feed-forward units of each block, in place.

    Importance is the loss that a first-order Taylor expansion expects when an activation becomes
    zero, ``|activation * gradient|``, averaged over training events (Molchanov et al., Pruning
    Convolutional Neural Networks for Resource Efficient Inference, 2017, §2.2; for heads, Michel
    et al., Are Sixteen Heads Really Better than One?, 2019, §4.1).

    Parameters
    ----------
    share
        Of a block's heads and of its units, in (0, 1), rounded down: one head out of two is too
        much for a share of 0.3. At least one of each stays.
    """
    heads, units = _importance(model, split, recipe)
    for block, of_heads, of_units in zip(model.blocks, heads, units, strict=True):
        _keep(block, _most_important(of_heads, share), _most_important(of_units, share))


def prune_magnitude(model: SequentialRecommender, share: float) -> None:
    """Mask the `share` of the blocks' weights that are smallest, over all layers, in place.

    They stay zero in training; `make_permanent` then leaves a plain model.
    """
    layers = _linears(model)
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in layers])
    largest = sizes.kthvalue(max(1, int(share * len(sizes)))).values
    for layer in layers:
        mask = layer.weight.detach().abs() > largest
        parametrize.register_parametrization(layer, "weight", _Masked(mask))


def make_permanent(model: SequentialRecommender) -> None:
    """Turn masked weights into zeros and forget the masks, in place."""
    for layer in _linears(model):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")


class _Masked(nn.Module):
    """Weights, zero where the mask is."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def fit_shapes(model: SequentialRecommender, weights: dict[str, Tensor], recipe: Recipe) -> None:
    """Give the blocks of a new model the sizes that pruned weights have, in place.

    Weights that no pruning could have left are let be: loading them is what tells.
    """
    head = recipe.dimension // recipe.heads
    for number, block in enumerate(model.blocks):
        attention = weights.get(f"blocks.{number}.attention_output.weight")
        hidden = weights.get(f"blocks.{number}.feed_forward.0.weight")
        if attention is None or hidden is None or attention.dim() != 2 or attention.shape[1] % head:
            continue
        heads, units = attention.shape[1] // head, len(hidden)
        if 1 <= heads <= block.heads and 1 <= units <= block.feed_forward[0].out_features:
            _keep(block, torch.arange(heads), torch.arange(units))


def _linears(model: SequentialRecommender) -> list[nn.Linear]:
    return [part for part in model.blocks.modules() if isinstance(part, nn.Linear)]


def _most_important(importance: Tensor, share: float) -> Tensor:
    """Places that stay, ascending."""
    kept = max(1, len(importance) - int(share * len(importance)))
    return importance.topk(kept).indices.sort().values


def _keep(block: Block, heads: Tensor, units: Tensor) -> None:
    """Leave only these heads and units in a block, in place."""
    width = block.attention_output.in_features // block.heads
    columns = (heads[:, None] * width + torch.arange(width)).flatten()
    old = block.attention_output.in_features
    rows = torch.cat([columns + part * old for part in range(3)])
    block.query_key_value = _part_of(block.query_key_value, rows=rows)
    block.attention_output = _part_of(block.attention_output, columns=columns)
    block.feed_forward[0] = _part_of(block.feed_forward[0], rows=units)
    block.feed_forward[2] = _part_of(block.feed_forward[2], columns=units)
    block.heads = len(heads)


def _part_of(
    linear: nn.Linear, *, rows: Tensor | None = None, columns: Tensor | None = None
) -> nn.Linear:
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    part = nn.Linear(weight.shape[1], weight.shape[0])
    part.load_state_dict({"weight": weight, "bias": bias})
    return part


def _importance(
    model: SequentialRecommender, split: Split, recipe: Recipe
) -> tuple[list[Tensor], list[Tensor]]:
    """float[heads] and float[units] of each block, on at most `MEASURED_BATCHES` batches."""
    objective = NextItem(split.train, recipe)
    heads = [torch.zeros(block.heads) for block in model.blocks]
    units = [torch.zeros(block.feed_forward[0].out_features) for block in model.blocks]
    # What a head or unit gives on is the input of the layer after it.
    places = [block.attention_output for block in model.blocks]
    places += [block.feed_forward[2] for block in model.blocks]
    inputs: dict[nn.Module, Tensor] = {}

    def remember(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        given[0].retain_grad()
        inputs[layer] = given[0]

    hooks = [layer.register_forward_pre_hook(remember) for layer in places]
    generator = np.random.default_rng(recipe.seed)
    try:
        model.eval()
        every = batches(objective.windows, recipe.batch_tokens, generator)
        for chosen in every[:MEASURED_BATCHES]:
            objective(model, *pack(objective.windows, chosen), generator)[0].backward()
            for layer, total in zip(places, heads + units, strict=True):
                effect = inputs[layer].detach() * inputs[layer].grad
                # A head is several activations that go together: their effects add up.
                total += effect.view(len(effect), len(total), -1).sum(2).abs().sum(0)
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
    return heads, units
