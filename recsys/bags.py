"""Sums of embeddings over bags of features: what a model knows of an item besides its number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Bags:
    """The features of every item.

    Attributes
    ----------
    features
        int32[...]: each item's feature numbers one after the other, sorted, without repeats.
    offsets
        int64[items + 1]; item i has ``features[offsets[i]:offsets[i + 1]]``, perhaps none.
    buckets
        The features are numbered 0 to ``buckets - 1``.
    """

    features: np.ndarray
    offsets: np.ndarray
    buckets: int


class _SumOfBags(torch.autograd.Function):
    """Weighted sums of rows of a table; both directions gather, neither scatters.

    The gradient of feature f is a weighted sum as well, over the items that have it: with that
    transposed layout at hand the backward pass takes a tenth of torch's own.
    """

    @staticmethod
    def forward(ctx, table: Tensor, bags: tuple[Tensor, ...], transposed: tuple[Tensor, ...]):
        ctx.transposed = transposed
        return _sum_of_bags(table, *bags)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _sum_of_bags(gradient.contiguous(), *ctx.transposed), None, None


def _sum_of_bags(table: Tensor, members: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(
        members, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _of_items(
    items: Tensor, bags: tuple[Tensor, ...], transposed: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Both layouts of some of the items, in the same order."""
    members, bounds, weights = bags
    lengths = bounds.diff()[items]
    own_bounds = F.pad(lengths.cumsum(0), (1, 0))
    shift = (bounds[items] - own_bounds[:-1]).repeat_interleave(lengths)
    places = torch.arange(len(shift), device=shift.device) + shift
    owners, owner_offsets, owner_weights = transposed
    row_of = owners.new_full((len(bounds) - 1,), -1)
    row_of[items] = torch.arange(len(items), device=items.device)
    rows = row_of[owners]
    kept = (rows >= 0).nonzero()[:, 0]
    return (
        (members[places], own_bounds, weights[places]),
        (rows[kept], torch.searchsorted(kept, owner_offsets), owner_weights[kept]),
    )


class BagTower(nn.Module):
    """A vector for each item's bag: the sum of its features' embeddings, at unit scale.

    Parameters
    ----------
    bags
        The features of all items.
    dimension
        Width of their embeddings.
    dropout
        Share of the bags' members that are left out at a training step, drawn anew for each.
    """

    features: Tensor
    offsets: Tensor

    def __init__(self, bags: Bags, dimension: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.embedding = nn.Embedding(bags.buckets, dimension)
        nn.init.normal_(self.embedding.weight, std=dimension**-0.5)
        # Buffers are saved with the weights: who receives a model needs no bags to use it.
        self.register_buffer("features", torch.from_numpy(bags.features))
        self.register_buffer("offsets", torch.from_numpy(bags.offsets))
        self.index()

    def index(self, first: int = 0, end: int | None = None) -> None:
        """Lay the bags out by item and by feature; again after `features` or `offsets` changed.

        Given `first` and `end`, only those of the items between, and they alone get vectors.
        """
        offsets = self.offsets[first : None if end is None else end + 1]
        lengths = offsets.diff()
        self.own = slice(int(offsets[0]), int(offsets[-1]))
        members = self.features[self.own].long()
        weights = weights_of_members(lengths)
        by_feature = members.argsort(stable=True)
        owners = torch.arange(len(lengths)).repeat_interleave(lengths)
        counts = torch.bincount(members, minlength=self.embedding.num_embeddings)
        laid_out = {
            "members": members,
            "bounds": offsets - offsets[0],
            "weights": weights,
            "by_feature": by_feature,
            "owners": owners[by_feature],
            "owner_offsets": F.pad(counts.cumsum(0), (1, 0)),
            "owner_weights": weights[by_feature],
        }
        for name, tensor in laid_out.items():
            self.register_buffer(name, tensor, persistent=False)

    def append(self, bags: Bags) -> None:
        """Add the bags of more items after those that are there."""
        later = torch.from_numpy(bags.offsets[1:]) + self.offsets[-1]
        self.features = torch.cat([self.features, torch.from_numpy(bags.features)])
        self.offsets = torch.cat([self.offsets, later])
        self.index()

    def forward(self, items: Tensor | None = None) -> Tensor:
        """float[items, d] of the items laid out; zero for an item without features.

        Parameters
        ----------
        items
            int64[n]: only these of them, sorted, none twice. Their vectors and gradients are those
            that they have among all, and so is what is left out.
        """
        weights, owner_weights = self.weights, self.owner_weights
        if self.training and self.dropout:
            # Drawn for all items, so that the processes of a sharded table agree on each member.
            chance = torch.rand(len(self.features), device=weights.device)[self.own]
            weights = weights * (chance >= self.dropout) / (1 - self.dropout)
            owner_weights = weights[self.by_feature]
        bags = (self.members, self.bounds, weights)
        transposed = (self.owners, self.owner_offsets, owner_weights)
        if items is not None:
            bags, transposed = _of_items(items, bags, transposed)
        return _SumOfBags.apply(self.embedding.weight, bags, transposed)

    def embed(self, features: Tensor, offsets: Tensor) -> Tensor:
        """float[bags, d] of other bags, laid out as in `Bags`."""
        weights = weights_of_members(offsets.diff())
        return _sum_of_bags(self.embedding.weight, features.long(), offsets, weights)


def weights_of_members(lengths: Tensor) -> Tensor:
    """The weight of each feature in bags of these lengths.

    A sum of n independent vectors is sqrt(n) long: divided by that, a large bag counts as much as
    a small one.
    """
    return lengths.clamp_min(1).float().rsqrt().repeat_interleave(lengths)
