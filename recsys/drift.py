"""What keeps a federated site's training from drifting to its own users' optimum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.model import SequentialRecommender


class ControlVariates:
    """A site's part of SCAFFOLD (Karimireddy et al., 2020, algorithm 1, lines 10 to 12).

    Every gradient g becomes ``g + c - c_i``. The site's new control variate is the mean of the
    gradients g: with steps of plain gradient descent that is option II, ``c_i - c + (x - y)/(K
    eta)``, and with AdamW, whose steps are no gradients, what option II stands for.

    Parameters
    ----------
    server, own
        c and c_i by names of parameters; 0 where one is missing.
    """

    def __init__(self, server: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        self._server, self._own = server, own
        self._sum: dict[str, Tensor] = {}
        self._steps = 0

    def correct(self, model: SequentialRecommender) -> None:
        """Take the drift out of the gradients in `model`; call before each optimizer step."""
        self._steps += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            if name not in self._sum:
                self._sum[name] = torch.zeros_like(parameter)
            self._sum[name] += parameter.grad
            if name in self._server:
                parameter.grad += self._server[name]
            if name in self._own:
                parameter.grad -= self._own[name]

    def renewed(self) -> dict[str, Tensor]:
        """The site's new control variate, by names of parameters."""
        return {name: total / self._steps for name, total in self._sum.items()}
