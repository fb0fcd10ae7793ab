"""Several processes that train one model: who is who, and what they tell each other.

A process group made by `torchrun` is all there is to share; without one every function here does
what is right for a single process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recsys.errors import RecsysError


def is_sharded(tensor: Tensor) -> bool:
    """Whether the rows of a tensor are spread over processes.

    The module of such tensors takes a second to import; unless something has made one, and so
    imported it, there are none.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


@dataclass(frozen=True)
class Workers:
    """The processes of this run.

    Attributes
    ----------
    rank, count
        This process's number from 0, and how many there are. Number 0 writes the files.
    device
        Where this process's model lives.
    """

    rank: int
    count: int
    device: torch.device

    @classmethod
    def current(cls) -> Workers:
        """Those of the process group, or this process alone on the CPU."""
        if not dist.is_initialized():
            return cls(0, 1, torch.device("cpu"))
        # `joined` made the GPU ready, where there is one.
        cuda = torch.cuda.is_initialized()
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def agree(self, yes: bool) -> bool:
        """What process 0 thinks; nobody goes on before everybody has asked."""
        if self.count == 1:
            return yes
        answer = torch.tensor([int(yes)])
        dist.broadcast(answer, 0)
        return bool(answer.item())

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's of the rows: as many as each other one's, so a few are dealt out twice."""
        each = -(-len(rows) // self.count)
        return rows[(np.arange(each) * self.count + self.rank) % len(rows)]

    def gather(self, own: Tensor, total: int) -> Tensor:
        """What all processes found for their `share` of `total` rows, in the order of the rows."""
        if self.count == 1:
            return own
        # Figures and ranks are small and wanted on the CPU.
        found = own.new_empty((self.count * len(own), *own.shape[1:]), device="cpu")
        dist.all_gather_into_tensor(found, own.cpu().contiguous())
        return found.unflatten(0, (self.count, len(own))).transpose(0, 1).flatten(0, 1)[:total]


@contextmanager
def joined() -> Iterator[Workers]:
    """Join the processes that `torchrun` started: gloo between CPUs, nccl between GPUs.

    Raises
    ------
    RecsysError
        When `torchrun` did not start this process, or there are fewer GPUs than processes here.
    """
    if "LOCAL_RANK" not in os.environ:
        raise RecsysError(
            "this is a job of several processes: start it with torchrun --nproc-per-node N -m …"
        )
    if torch.cuda.is_available():
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise RecsysError(
                f"process {local} has no GPU of its own: this machine has "
                f"{torch.cuda.device_count()}; start at most as many processes"
            )
        torch.cuda.set_device(local)
        torch.cuda.init()
    # Gloo is there beside nccl for what lives on the CPU: decisions, figures, checkpoints.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers.current()
    finally:
        dist.destroy_process_group()


def average_gradients(
    model: torch.nn.Module, workers: Workers, loss: Tensor, predictions: int
) -> tuple[Tensor, int]:
    """Turn gradients of loss sums into those of the mean over all processes' predictions.

    One all-reduce carries all gradients, the loss and the count. Rows of a sharded table belong
    to one process, which has their whole gradient already.

    Parameters
    ----------
    loss, predictions
        Sum over this process's predictions, in nats, and their number.

    Returns
    -------
    tuple
        Mean loss and number of predictions of all processes.
    """
    owners = [parameter for parameter in model.parameters() if parameter.grad is not None]
    replicated = [owner for owner in owners if not is_sharded(owner)]
    if workers.count > 1:
        figures = torch.tensor([predictions], dtype=loss.dtype, device=loss.device)
        flat = torch.cat(
            [owner.grad.flatten() for owner in replicated] + [loss.reshape(1), figures]
        )
        dist.all_reduce(flat)
        *gradients, loss, figures = flat.split([owner.numel() for owner in replicated] + [1, 1])
        for owner, gradient in zip(replicated, gradients, strict=True):
            owner.grad = gradient.view_as(owner)
        loss, predictions = loss[0], int(figures.item())
    for owner in owners:
        gradient = owner.grad.to_local() if is_sharded(owner) else owner.grad
        gradient.div_(predictions)
    return loss / predictions, predictions
