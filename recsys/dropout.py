"""Dropout that does not depend on how a batch is divided among processes."""

from __future__ import annotations

from torch import Tensor, nn


class PartDropout(nn.Dropout):
    """Dropout of a batch's part with the mask that its events have in the whole batch.

    Each part draws the whole batch's mask from generators in the same state and keeps its own
    rows, so that training in parts is training, not something like it. `part` is the events'
    int64[rows] places in the packed batch and the batch's number of events; None: no parts.
    """

    part: tuple[Tensor, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.part is None or not self.training:
            return super().forward(x)
        rows, events = self.part
        keep = x.new_empty(events, *x.shape[1:]).bernoulli_(1 - self.p)
        return x * keep[rows].div_(1 - self.p)


def use_part_dropout(model: nn.Module) -> list[PartDropout]:
    """Make all dropout of a model `PartDropout`; returns the layers."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, PartDropout(child.p))
    return [module for module in model.modules() if isinstance(module, PartDropout)]


def set_part(dropouts: list[PartDropout], part: tuple[Tensor, int] | None) -> None:
    """Tell the layers which part of a batch comes next."""
    for dropout in dropouts:
        dropout.part = part
