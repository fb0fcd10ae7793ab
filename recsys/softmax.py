"""Full-softmax cross-entropy whose logits never exist as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

# Logits alive at a time. 4M floats (16 MiB) stay in the last-level cache of a server core pair,
# and give matrix products that are large enough to run at full speed.
LOGITS_IN_FLIGHT = 4 * 1024 * 1024
# Below this many rows the update of the table's gradient is bound by memory, not arithmetic.
FEWEST_ROWS = 32


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``softmax(hidden @ table.T)`` against `targets`.

    The gradient of a softmax cross-entropy needs nothing that the forward pass does not have in
    hand: softmax minus one-hot. So each chunk of rows adds its gradients while its logits are in
    the cache and they are thrown away after; `backward` only scales.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        rows, items = len(hidden), len(table)
        chunk = min(rows, max(FEWEST_ROWS, LOGITS_IN_FLIGHT // items))
        logits = hidden.new_empty(chunk, items)
        softmax = hidden.new_empty(chunk, items)
        hidden_gradient = table[targets].neg_()
        table_gradient = torch.zeros_like(table)
        table_gradient.index_add_(0, targets, hidden, alpha=-1.0)
        tiny = torch.finfo(hidden.dtype).tiny
        loss = hidden.new_zeros(())
        for start in range(0, rows, chunk):
            part = hidden[start : start + chunk]
            count = len(part)
            torch.mm(part, table.T, out=logits[:count])
            probability = torch.softmax(logits[:count], dim=1, out=softmax[:count])
            at_target = probability.gather(1, targets[start : start + count, None])
            loss -= at_target.clamp_min_(tiny).log_().sum()
            hidden_gradient[start : start + count].addmm_(probability, table)
            table_gradient.addmm_(probability.T, part)
        ctx.save_for_backward(hidden_gradient.div_(rows), table_gradient.div_(rows))
        return loss / rows

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, table_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, table_gradient * gradient, None


def chunked_cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the full item table.

    Parameters
    ----------
    hidden
        float[rows, d].
    table
        float[items, d]; the logits are ``hidden @ table.T``.
    targets
        int64[rows] in 0..items-1.

    Returns
    -------
    Tensor
        Scalar, in nats. Extra memory is about two times `LOGITS_IN_FLIGHT` floats and one table.
    """
    if not isinstance(table, Tensor):  # a recsys.sharded.ShardedTable
        return table.cross_entropy(hidden, targets)
    return _ChunkedCrossEntropy.apply(hidden, table, targets.to(hidden.device))
