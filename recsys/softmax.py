"""Full-softmax cross-entropy whose logits never exist as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

# Logits alive at a time. 4M floats (16 MiB) stay in the last-level cache of a server core pair,
# and give matrix products that are large enough to run at full speed.
LOGITS_IN_FLIGHT = 4 * 1024 * 1024
# Below this many rows the update of the table's gradient is bound by memory, not arithmetic.
FEWEST_ROWS = 32

# Places (rows int64[n], items int64[n]) in a matrix of logits, sorted by row, each at most once.
Places = tuple[Tensor, Tensor]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``softmax(hidden @ table.T)`` against `targets`.

    The gradient of a softmax cross-entropy needs nothing that the forward pass does not have in
    hand: softmax minus one-hot. So each chunk of rows adds its gradients while its logits are in
    the cache and they are thrown away after; `backward` only scales.
    """

    @staticmethod
    def forward(
        ctx, hidden: Tensor, table: Tensor, targets: Tensor, bias: Tensor, biased: Places
    ) -> Tensor:
        rows, items = len(hidden), len(table)
        chunk = min(rows, max(FEWEST_ROWS, LOGITS_IN_FLIGHT // items))
        logits = hidden.new_empty(chunk, items)
        softmax = hidden.new_empty(chunk, items)
        hidden_gradient = table[targets].neg_()
        table_gradient = torch.zeros_like(table)
        table_gradient.index_add_(0, targets, hidden, alpha=-1.0)
        biased_rows, biased_items = biased
        bias_gradient = -(targets[biased_rows] == biased_items).sum().to(hidden.dtype)
        starts = torch.arange(0, rows + chunk, chunk, device=hidden.device)
        bounds = torch.searchsorted(biased_rows, starts).tolist()
        tiny = torch.finfo(hidden.dtype).tiny
        loss = hidden.new_zeros(())
        for number, start in enumerate(range(0, rows, chunk)):
            part = hidden[start : start + chunk]
            count = len(part)
            torch.mm(part, table.T, out=logits[:count])
            own = slice(bounds[number], bounds[number + 1])
            places = biased_rows[own] - start, biased_items[own]
            logits[places] += bias
            probability = torch.softmax(logits[:count], dim=1, out=softmax[:count])
            bias_gradient += probability[places].sum()
            at_target = probability.gather(1, targets[start : start + count, None])
            loss -= at_target.clamp_min_(tiny).log_().sum()
            hidden_gradient[start : start + count].addmm_(probability, table)
            table_gradient.addmm_(probability.T, part)
        ctx.save_for_backward(
            hidden_gradient.div_(rows), table_gradient.div_(rows), bias_gradient.div_(rows)
        )
        return loss / rows

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, table_gradient, bias_gradient = ctx.saved_tensors
        return (
            hidden_gradient * gradient,
            table_gradient * gradient,
            None,
            bias_gradient * gradient,
            None,
        )


def chunked_cross_entropy(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    biased: Places | None = None,
) -> Tensor:
    """Mean cross-entropy over the full item table.

    Parameters
    ----------
    hidden
        float[rows, d].
    table
        float[items, d]; the logits are ``hidden @ table.T``.
    targets
        int64[rows] in 0..items-1.
    bias, biased
        A scalar to add to the logits at some places.

    Returns
    -------
    Tensor
        Scalar, in nats; 0 where there are no rows. Extra memory is about two times
        `LOGITS_IN_FLIGHT` floats and one table.
    """
    device = hidden.device
    targets = targets.to(device)
    if bias is None or biased is None:
        bias, biased = hidden.new_zeros(()), (targets[:0], targets[:0])
    biased = biased[0].to(device), biased[1].to(device)
    if not isinstance(table, Tensor):  # a recsys.sharded.ShardedTable
        return table.cross_entropy(hidden, targets, bias, biased)
    if not len(targets):
        return hidden.sum() * 0.0
    return _ChunkedCrossEntropy.apply(hidden, table, targets, bias, biased)
