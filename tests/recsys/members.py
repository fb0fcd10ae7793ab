"""What the processes that tests start do; run by path, with `work` and its `arguments` given."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from recsys import loop
from recsys.data.interactions import load_interactions
from recsys.distributed import Workers
from recsys.recipe import Recipe
from recsys.training import train


def train_and_die(
    shop: Path, recipe: dict, folder: Path, *, after: int, save_every_step: bool, **options
) -> None:
    """Train, and end without a chance to tidy up before the optimizer step number `after`."""
    if save_every_step:
        loop.CHECKPOINT_SECONDS, loop.MOST_TIME_SAVING = 0.0, float("inf")
    step = torch.optim.AdamW.step
    left = after

    def counted(*arguments, **keywords):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments, **keywords)

    torch.optim.AdamW.step = counted
    train(load_interactions(shop), Recipe.from_dict(recipe), folder, **options)


def one_dies(shop: Path, recipe: dict, folder: Path, *, after: int, **options) -> None:
    """Train in all processes; the last one dies as above."""
    last = dist.get_rank() == dist.get_world_size() - 1
    train_and_die(
        shop, recipe, folder, after=after if last else 10**9, save_every_step=True, **options
    )


def train_run(shop: Path, recipe: dict, folder: Path, **options) -> None:
    """Train to the end."""
    train(load_interactions(shop), Recipe.from_dict(recipe), folder, **options)


def deal_and_gather(rows: int, file: Path) -> None:
    """Save what all processes have of their shares, each with its own value negated."""
    workers = Workers.current()
    own = torch.from_numpy(workers.share(np.arange(rows)))
    torch.save(workers.gather(-own, rows), file.with_name(f"{file.name}{workers.rank}"))


def shard_one_table(rows: int, file: Path) -> None:
    """Save what a sharded table of `rows` gives and gets, for events that differ by process."""
    from recsys.sharded import ShardedEmbedding, gather_table

    table, bias, events = problem(rows)
    hidden, targets, biased, lookups, scale = events[dist.get_rank()]
    embedding = ShardedEmbedding(table)
    hidden.requires_grad_()
    bias.requires_grad_()
    layer = embedding.table()[:rows]
    loss = layer.cross_entropy(hidden, targets, bias, biased)
    found = embedding(lookups)
    (scale * (loss + found.square().sum())).backward()
    own = {
        "loss": loss.detach(),
        "found": found.detach(),
        "hidden": hidden.grad,
        "bias": bias.grad,
        "scores": layer.scores(states(dist.get_rank())),
        "table": gather_table(embedding.weight.grad),
        "held": torch.tensor(len(embedding.weight.to_local())),
    }
    torch.save(own, file.with_name(f"{file.name}{dist.get_rank()}"))


def states(rank: int) -> torch.Tensor:
    """What to score the whole table for: as many rows in each process."""
    return torch.arange(12.0).reshape(3, 4) - 3 * rank


def problem(rows: int) -> tuple[torch.Tensor, torch.Tensor, list[tuple]]:
    """A table with one row more than the output layer, a bias, and the events of two processes.

    Events are hidden states, targets, where the bias is added, look-ups and the loss's scale.
    Of 7 rows the second process has nothing to predict.
    """
    generator = torch.Generator().manual_seed(rows)

    def events(count: int, scale: float) -> tuple:
        hidden = torch.randn(count, 4, generator=generator)
        targets = torch.randint(rows, (count,), generator=generator)
        biased = torch.rand(count, rows, generator=generator) < 0.4
        lookups = torch.randint(rows + 1, (8 + count,), generator=generator)
        return hidden, targets, biased.nonzero(as_tuple=True), lookups, scale

    table = torch.randn(rows + 1, 4, generator=generator)
    return table, torch.tensor(0.7), [events(9, 1.0), events(0 if rows == 7 else 4, 2.5)]


def member(meeting: Path, rank: int, count: int) -> None:
    """Join the other processes of a gang, if any, and work."""
    torch.set_num_threads(1)
    if count == 1:
        globals()[work](*arguments, **options)  # noqa: F821
        return
    store = dist.FileStore(str(meeting), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    globals()[work](*arguments, **options)  # noqa: F821
    dist.destroy_process_group()


if __name__ == "member":
    member(meeting, rank, count)  # noqa: F821
