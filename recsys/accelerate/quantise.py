"""Post-training quantisation to int8, one scale a row: linear layers and the item table.

Symmetric, so that a product of codes needs no correction: ``weight ≈ codes * scale``. Integer
products are torch's own (`torch._int_mm`); its former quantised tensors are deprecated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.model import SequentialRecommender

LARGEST = 127
TABLE = "item_embedding.weight"


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8[rows, columns] codes and float32[rows, 1] scales of float[rows, columns].

    The error is at most half a scale: 1/254 of the row's largest absolute value.
    """
    # A row of zeros may have any scale but zero.
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min_(1e-30).div_(LARGEST)
    return (weight / scale).round_().to(torch.int8), scale


def int8_product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """``x @ (codes * scale).T`` with `x` quantised on the way: float[rows, len(codes)].

    Each row of `x` has a scale of its own, so an answer does not hang on who shares its batch.
    """
    x_codes, x_scale = quantise_rows(x)
    return torch._int_mm(x_codes, codes.T).float().mul_(x_scale).mul_(scale.T)


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, whose inputs are quantised as they come (dynamically)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scale = quantise_rows(linear.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """float[..., out] of float[..., in]."""
        flat = int8_product(x.reshape(-1, x.shape[-1]), self.codes, self.scale)
        return (flat + self.bias).view(*x.shape[:-1], -1)


def quantise_linears(module: nn.Module) -> None:
    """Put an `Int8Linear` in the place of every linear layer, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantise_linears(child)


@dataclass(frozen=True)
class QuantisedTable:
    """An item table as two int8 planes.

    The first is what a search scans. The second is the first one's error, quantised the same way:
    their sum, off by at most 1/64516 of a row's largest value, is the float table that re-ranks,
    in half the bytes.

    Attributes
    ----------
    codes, residual_codes
        int8[items, d].
    scale, residual_scale
        float32[items, 1].
    """

    codes: Tensor
    scale: Tensor
    residual_codes: Tensor
    residual_scale: Tensor

    @classmethod
    def of(cls, table: Tensor) -> QuantisedTable:
        """Quantise float[items, d]."""
        codes, scale = quantise_rows(table)
        return cls(codes, scale, *quantise_rows(table - codes * scale))

    def rows(self, items: Tensor) -> Tensor:
        """float[..., d] of int64[...] items."""
        fine = self.residual_codes[items] * self.residual_scale[items]
        return self.codes[items] * self.scale[items] + fine


def compressed(model: SequentialRecommender) -> dict[str, Tensor]:
    """The model's weights, its linear layers as int8 codes and its table as a `QuantisedTable`."""
    weights: dict[str, Tensor] = {}
    linears = {
        f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)
    }
    for name, weight in model.state_dict().items():
        if name == TABLE:
            table = QuantisedTable.of(weight)
            weights |= {f"{name}.int8": table.codes, f"{name}.scale": table.scale}
            weights |= {
                f"{name}.residual.int8": table.residual_codes,
                f"{name}.residual.scale": table.residual_scale,
            }
        elif name in linears:
            weights[f"{name}.int8"], weights[f"{name}.scale"] = quantise_rows(weight)
        else:
            weights[name] = weight
    return weights


def decompressed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float weights of what `compressed` gave; weights that are not compressed are kept."""
    floats: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith(".int8"):
            part = name.removesuffix(".int8")
            whole = part.removesuffix(".residual")
            floats[whole] = floats.get(whole, 0) + weight * weights[f"{part}.scale"]
        elif not name.endswith(".scale"):
            floats[name] = weight
    return floats
