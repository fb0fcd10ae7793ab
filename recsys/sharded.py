"""An item table whose rows are spread over the processes, for catalogues beyond one device.

Each process holds an equal stretch of rows, with their optimizer state, as a DTensor. Rows are
looked up by all-to-all. In the softmax each process scores its own rows for the events of all, and
the log-sum-exps of the stretches are combined: the full softmax, not an estimate of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from recsys.distributed import Workers
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.softmax import LOGITS_IN_FLIGHT

# Key under which a checkpoint holds all rows of a table that the running processes share.
WHOLE = "whole table"


class ShardedRecommender(SequentialRecommender):
    """A `SequentialRecommender` of equal weights whose item table is spread over the processes.

    All processes must do the same with it at the same time. The whole table is made on the host
    once, before each device gets its rows.
    """

    def __init__(self, items: int, recipe: Recipe) -> None:
        super().__init__(items, recipe)
        self.item_embedding = ShardedEmbedding(self.item_embedding.weight.detach())

    @property
    def output_table(self) -> ShardedTable:
        """This process's rows of the output layer."""
        return self.item_embedding.first_rows(self.items)

    def scores(self, state: Tensor) -> Tensor:
        """float[B, items] of states float[B, d]; B must be the same in all processes."""
        return self.output_table.scores(state)


class ShardedEmbedding(nn.Module):
    """Rows of an embedding table, looked up wherever they are."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embedding_dim = table.shape[1]
        self.weight = nn.Parameter(_shard(table))

    def forward(self, indices: Tensor) -> Tensor:
        """float[events, d] of int64[events]; each process may ask for other rows."""
        return _Lookup.apply(self.weight.to_local(), indices, _rows_each(self.weight))

    def first_rows(self, count: int) -> ShardedTable:
        """The table's first rows, as an output layer."""
        first = _rows_each(self.weight) * dist.get_rank()
        local = self.weight.to_local()
        return ShardedTable(local[: max(count - first, 0)], first, count, _rows_each(self.weight))


@dataclass(frozen=True)
class ShardedTable:
    """One process's stretch of an output layer.

    Attributes
    ----------
    rows
        float[own, d]: the rows from `first` on.
    count
        Rows of the whole layer.
    each
        Rows of every process but the last ones, which may have fewer.
    """

    rows: Tensor
    first: int
    count: int
    each: int

    def cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """As `recsys.softmax.chunked_cross_entropy`: the mean over this process's events."""
        return _ShardedCrossEntropy.apply(hidden, self.rows, targets, self.first)

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
    are. `hidden` and `targets` may differ in length between processes.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, rows: Tensor, targets: Tensor, first: int) -> Tensor:
        own = len(hidden)
        lengths = _gather_rows(torch.tensor([own], device=hidden.device))
        longest = int(lengths.max())
        targets = targets.to(hidden.device)
        everyone = _gather_rows(nn.functional.pad(hidden, (0, 0, 0, longest - own)))
        # Padding is zeros, which add nothing to the gradient of the rows, and has no target.
        wanted = _gather_rows(nn.functional.pad(targets, (0, longest - own), value=-1)) - first
        held = ((wanted >= 0) & (wanted < len(rows))).nonzero()[:, 0]

        parts = [torch.logsumexp(part @ rows.T, 1) for part in _chunks(everyone, rows)]
        normaliser = torch.cat(parts)
        largest = normaliser.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        sums = (normaliser - largest).exp_()
        dist.all_reduce(sums)
        normaliser = largest + sums.log_()
        at_target = torch.zeros_like(normaliser)
        at_target[held] = (everyone[held] * rows[wanted[held]]).sum(1)
        dist.all_reduce(at_target)
        ctx.save_for_backward(everyone, rows, wanted, held, normaliser, lengths)
        start = dist.get_rank() * longest
        return (normaliser - at_target)[start : start + own].mean()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        everyone, rows, wanted, held, normaliser, lengths = ctx.saved_tensors
        longest = len(everyone) // len(lengths)
        weights = (_gather_rows(gradient.reshape(1)) / lengths).repeat_interleave(longest)

        hidden_gradient = torch.zeros_like(everyone)
        rows_gradient = torch.zeros_like(rows)
        start = 0
        for part in _chunks(everyone, rows):
            end = start + len(part)
            softmax = (part @ rows.T).sub_(normaliser[start:end, None]).exp_()
            softmax *= weights[start:end, None]
            torch.mm(softmax, rows, out=hidden_gradient[start:end])
            rows_gradient.addmm_(softmax.T, part)
            start = end
        at_target = weights[held, None]
        hidden_gradient.index_add_(0, held, at_target * rows[wanted[held]], alpha=-1)
        rows_gradient.index_add_(0, wanted[held], at_target * everyone[held], alpha=-1)
        own = hidden_gradient.new_empty(longest, hidden_gradient.shape[1])
        dist.reduce_scatter_tensor(own, hidden_gradient)
        return own[: int(lengths[dist.get_rank()])], rows_gradient, None, None


def _chunks(hidden: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    return hidden.split(max(1, LOGITS_IN_FLIGHT // max(1, len(rows))))


def _gather_rows(own: Tensor) -> Tensor:
    """The rows of all processes, end to end; each has as many."""
    everyone = own.new_empty(dist.get_world_size() * len(own), *own.shape[1:])
    dist.all_gather_into_tensor(everyone, own.contiguous())
    return everyone


def _shard(table: Tensor) -> DTensor:
    """This process's rows of a table that is whole on the host."""
    workers = Workers.current()
    mesh = init_device_mesh(workers.device.type, (workers.count,))
    each = -(-len(table) // workers.count)
    own = table[workers.rank * each : (workers.rank + 1) * each]
    # A copy, so that the whole table can be given back to the host.
    own = own.clone().to(workers.device)
    return _on_mesh(own, mesh, table.shape)


def _on_mesh(own: Tensor, mesh: DeviceMesh, shape: torch.Size) -> DTensor:
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _rows_each(table: DTensor) -> int:
    return -(-len(table) // dist.get_world_size())


def whole_tables(state: Any) -> Any:
    """Plain data with each sharded table whole under the key `WHOLE`, in process 0; else empty."""
    if isinstance(state, DTensor):
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


def gather_table(table: DTensor) -> Tensor:
    """All rows, on the host of process 0; the other processes get none."""
    each, own = _rows_each(table), table.detach().to_local().cpu()
    own = nn.functional.pad(own, (0, 0, 0, each - len(own)))
    if dist.get_rank() != 0:
        dist.gather(own, dst=0)
        return own[:0]
    whole = own.new_empty(each * dist.get_world_size(), own.shape[1])
    dist.gather(own, list(whole.split(each)), dst=0)
    return whole[: len(table)]


def unsharded(model: ShardedRecommender, recipe: Recipe) -> SequentialRecommender | None:
    """The same model with its table whole, on the host of process 0; None in the others."""
    weights = {
        name: gather_table(weight) if isinstance(weight, DTensor) else weight.cpu()
        for name, weight in model.state_dict().items()
    }
    if dist.get_rank() != 0:
        return None
    whole = SequentialRecommender(model.items, recipe)
    whole.load_state_dict(weights)
    return whole
