"""An item table whose rows are spread over the processes, for catalogues beyond one device.

Each process holds an equal stretch of rows, with their optimizer state, as a DTensor. Rows are
looked up by all-to-all. In the softmax each process scores its own rows for the events of all, and
the log-sum-exps of the stretches are combined: the full softmax, not an estimate of it.

Of the items' texts or neighbours each process reads those of its own rows; the features'
embeddings are whole in each, and their gradients are summed as those of all weights are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.artifact import model_of
from recsys.bags import Bags
from recsys.distributed import Workers, is_sharded
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.softmax import LOGITS_IN_FLIGHT, Places

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

# Key under which a checkpoint holds all rows of a table that the running processes share.
WHOLE = "whole table"


class ShardedRecommender(SequentialRecommender):
    """A `SequentialRecommender` of equal weights whose item table is spread over the processes.

    All processes must do the same with it at the same time. The whole table is made on the host
    once, before each device gets its rows.
    """

    def __init__(
        self,
        items: int,
        recipe: Recipe,
        texts: Bags | None = None,
        neighbours: Bags | None = None,
    ) -> None:
        super().__init__(items, recipe, texts, neighbours)
        self.item_embedding = ShardedEmbedding(self.item_embedding.weight.detach())
        table = self.item_embedding.table()
        # The last row is the mask, which has neither text nor neighbours.
        first, end = (min(row, items) for row in (table.first, table.first + len(table.rows)))
        for tower in self.towers:
            tower.index(first, end)

    def input_table(self, wanted: Tensor | None = None) -> ShardedTable:
        """This process's rows of what the transformer reads for each item and for the mask.

        All are made, whichever are wanted here: other processes may want them.
        """
        table = self.item_embedding.table()
        for tower in self.towers:
            vectors = tower()
            without = len(table.rows) - len(vectors)
            table = replace(table, rows=table.rows + F.pad(vectors, (0, 0, 0, without)))
        return table

    def look_up(self, items: Tensor, table: ShardedTable) -> Tensor:
        """float[events, d] of int64[events]; each process may ask for other rows."""
        return table[items]

    def similarities(self, state: Tensor, table: ShardedTable) -> Tensor:
        """float[B, items] of states float[B, d]; B must be the same in all processes."""
        return table[: self.items].scores(state)


class ShardedEmbedding(nn.Module):
    """Rows of an embedding table, looked up wherever they are."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embedding_dim = table.shape[1]
        self.weight = nn.Parameter(_shard(table))

    def forward(self, indices: Tensor) -> Tensor:
        """float[n, d] of int64[n]; each process may ask for other rows."""
        return self.table()[indices]

    def table(self) -> ShardedTable:
        """This process's rows."""
        each = _rows_each(self.weight)
        return ShardedTable(
            self.weight.to_local(), each * dist.get_rank(), len(self.weight), each
        )


@dataclass(frozen=True)
class ShardedTable:
    """One process's stretch of a table that is used as one whole tensor would be.

    ``table[indices]`` looks rows up, wherever they are, and ``table[:n]`` is a table of the first
    rows.

    Attributes
    ----------
    rows
        float[own, d]: the rows from `first` on.
    count
        Rows of the whole table.
    each
        Rows of every process but the last ones, which may have fewer.
    """

    rows: Tensor
    first: int
    count: int
    each: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: slice | Tensor) -> ShardedTable | Tensor:
        if isinstance(which, Tensor):
            return _Lookup.apply(self.rows, which, self.each)
        return replace(self, rows=self.rows[: max(which.stop - self.first, 0)], count=which.stop)

    def cross_entropy(
        self, hidden: Tensor, targets: Tensor, bias: Tensor, biased: Places
    ) -> Tensor:
        """As `recsys.softmax.chunked_cross_entropy`: the mean over this process's events."""
        return _ShardedCrossEntropy.apply(hidden, self.rows, targets, bias, biased, self.first)

    def scores(self, state: Tensor) -> Tensor:
        """float[B, count] of states float[B, d]; B must be the same in all processes."""
        own = torch.zeros(len(state) * dist.get_world_size(), self.each, device=state.device)
        own[:, : len(self.rows)] = _gather_rows(state) @ self.rows.T
        found = torch.empty_like(own)
        dist.all_to_all_single(found, own)
        return found.unflatten(0, (-1, len(state))).transpose(0, 1).flatten(1)[:, : self.count]


class _Lookup(torch.autograd.Function):
    """Ask each process for the rows that it holds; gradients go back to where the rows are."""

    @staticmethod
    def forward(ctx, rows: Tensor, indices: Tensor, each: int) -> Tensor:
        indices = indices.to(rows.device)
        wanted, place = torch.unique(indices, return_inverse=True)
        world = dist.get_world_size()
        asked = torch.bincount(wanted // each, minlength=world)
        answered = torch.empty_like(asked)
        dist.all_to_all_single(answered, asked)
        asked, answered = asked.tolist(), answered.tolist()
        local = wanted.new_empty(sum(answered))
        dist.all_to_all_single(local, wanted % each, answered, asked)
        found = rows.new_empty(len(wanted), rows.shape[1])
        dist.all_to_all_single(found, rows[local], asked, answered)
        ctx.save_for_backward(place, local)
        ctx.sizes = asked, answered, rows.shape
        return found[place]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        place, local = ctx.saved_tensors
        asked, answered, shape = ctx.sizes
        wanted = gradient.new_zeros(sum(asked), shape[1]).index_add_(0, place, gradient)
        given = gradient.new_empty(sum(answered), shape[1])
        dist.all_to_all_single(given, wanted, answered, asked)
        return gradient.new_zeros(shape).index_add_(0, local, given), None, None


class _ShardedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of each process's events against the rows of all.

    The forward pass needs one number an event from each stretch of the table, its log-sum-exp;
    the backward pass computes the logits again, since a softmax is known only when all stretches
    are. `hidden`, `targets` and `biased` may differ in length between processes. The gradient of
    `bias` is that of its places in this process's rows.
    """

    @staticmethod
    def forward(
        ctx, hidden: Tensor, rows: Tensor, targets: Tensor, bias: Tensor, biased: Places, first: int
    ) -> Tensor:
        own = len(hidden)
        lengths = _gather_rows(torch.tensor([own], device=hidden.device))
        longest = int(lengths.max())
        start = dist.get_rank() * longest
        # Padding is zeros, which add nothing to the gradient of the rows, and has no target.
        everyone = _gather_rows(F.pad(hidden, (0, 0, 0, longest - own)))
        wanted = _gather_rows(F.pad(targets, (0, longest - own), value=-1)) - first
        held = ((wanted >= 0) & (wanted < len(rows))).nonzero()[:, 0]
        places = _gather_places(biased[0] + start, biased[1], first, len(rows))
        hit = places[0][wanted[places[0]] == places[1]]

        normaliser = everyone.new_empty(len(everyone))
        for events, logits, _ in _scored(everyone, rows, bias, places):
            torch.logsumexp(logits, 1, out=normaliser[events])
        largest = normaliser.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        sums = (normaliser - largest).exp_()
        dist.all_reduce(sums)
        normaliser = largest + sums.log_()
        at_target = torch.zeros_like(normaliser)
        at_target[held] = (everyone[held] * rows[wanted[held]]).sum(1)
        at_target[hit] += bias
        dist.all_reduce(at_target)
        ctx.save_for_backward(
            everyone, rows, wanted, held, normaliser, lengths, bias, *places, hit
        )
        return (normaliser - at_target)[start : start + own].sum() / max(own, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        everyone, rows, wanted, held, normaliser, lengths, bias, *places, hit = ctx.saved_tensors
        longest = len(everyone) // len(lengths)
        weights = _gather_rows(gradient.reshape(1)) / lengths.clamp_min(1)
        weights = weights.repeat_interleave(longest)

        hidden_gradient = torch.zeros_like(everyone)
        rows_gradient = torch.zeros_like(rows)
        bias_gradient = -weights[hit].sum()
        for events, softmax, biased in _scored(everyone, rows, bias, tuple(places)):
            softmax.sub_(normaliser[events, None]).exp_()
            softmax *= weights[events, None]
            torch.mm(softmax, rows, out=hidden_gradient[events])
            rows_gradient.addmm_(softmax.T, everyone[events])
            bias_gradient += softmax[biased].sum()
        at_target = weights[held, None]
        hidden_gradient.index_add_(0, held, at_target * rows[wanted[held]], alpha=-1)
        rows_gradient.index_add_(0, wanted[held], at_target * everyone[held], alpha=-1)
        own = hidden_gradient.new_empty(longest, hidden_gradient.shape[1])
        dist.reduce_scatter_tensor(own, hidden_gradient)
        own = own[: int(lengths[dist.get_rank()])]
        return own, rows_gradient, None, bias_gradient, None, None


def _scored(
    hidden: Tensor, rows: Tensor, bias: Tensor, biased: Places
) -> Iterator[tuple[slice, Tensor, Places]]:
    """Logits of a few events at a time: which events, float[events, rows], where biased."""
    size = max(1, LOGITS_IN_FLIGHT // max(1, len(rows)))
    starts = torch.arange(0, len(hidden) + size, size, device=hidden.device)
    bounds = torch.searchsorted(biased[0], starts).tolist()
    for number, start in enumerate(range(0, len(hidden), size)):
        own = slice(bounds[number], bounds[number + 1])
        there = biased[0][own] - start, biased[1][own]
        logits = hidden[start : start + size] @ rows.T
        logits[there] += bias
        yield slice(start, start + size), logits, there


def _gather_places(events: Tensor, items: Tensor, first: int, count: int) -> Places:
    """Of the places of all processes, sorted by event, those in `count` items from `first` on."""
    lengths = _gather_rows(torch.tensor([len(events)], device=events.device))
    filling = (0, int(lengths.max()) - len(events))
    events, items = _gather_rows(F.pad(torch.stack([events, items]), filling, value=-1).T).T
    own = (items >= first) & (items < first + count)
    return events[own], items[own] - first


def _gather_rows(own: Tensor) -> Tensor:
    """The rows of all processes, end to end; each has as many."""
    everyone = own.new_empty(dist.get_world_size() * len(own), *own.shape[1:])
    dist.all_gather_into_tensor(everyone, own.contiguous())
    return everyone


def _shard(table: Tensor) -> DTensor:
    """This process's rows of a table that is whole on the host."""
    from torch.distributed.device_mesh import init_device_mesh

    workers = Workers.current()
    mesh = init_device_mesh(workers.device.type, (workers.count,))
    each = -(-len(table) // workers.count)
    own = table[workers.rank * each : (workers.rank + 1) * each]
    # A copy, so that the whole table can be given back to the host.
    own = own.clone().to(workers.device)
    return _on_mesh(own, mesh, table.shape)


def _on_mesh(own: Tensor, mesh: DeviceMesh, shape: torch.Size) -> DTensor:
    from torch.distributed.tensor import DTensor, Shard

    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _rows_each(table: DTensor) -> int:
    return -(-len(table) // dist.get_world_size())


def whole_tables(state: Any) -> Any:
    """Plain data with each sharded table whole under the key `WHOLE`, in process 0; else empty."""
    if is_sharded(state):
        return {WHOLE: gather_table(state)}
    if isinstance(state, dict):
        return {key: whole_tables(value) for key, value in state.items()}
    return state


def own_rows(state: Any) -> Any:
    """The inverse of `whole_tables`: of each whole table, the rows that are this process's."""
    if isinstance(state, dict):
        if WHOLE in state:
            return _shard(state[WHOLE])
        return {key: own_rows(value) for key, value in state.items()}
    return state


def own_part(tensor: Tensor) -> Tensor:
    """The rows of a sharded table that are here, which share its memory; else the tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def gather_table(table: DTensor) -> Tensor:
    """All rows, on the host of process 0; the other processes get none."""
    each, own = _rows_each(table), table.detach().to_local().cpu()
    own = F.pad(own, (0, 0, 0, each - len(own)))
    if dist.get_rank() != 0:
        dist.gather(own, dst=0)
        return own[:0]
    whole = own.new_empty(each * dist.get_world_size(), own.shape[1])
    dist.gather(own, list(whole.split(each)), dst=0)
    return whole[: len(table)]


def unsharded(model: ShardedRecommender, recipe: Recipe) -> SequentialRecommender | None:
    """The same model with its table whole, on the host of process 0; None in the others."""
    weights = {
        name: gather_table(weight) if is_sharded(weight) else weight.cpu()
        for name, weight in model.state_dict().items()
    }
    if dist.get_rank() != 0:
        return None
    return model_of(weights, model.items, recipe)
