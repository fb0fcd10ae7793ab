"""A site's training with user-level differential privacy.

DP-SGD (Abadi et al., 2016, algorithm 1) with users in the place of examples: each step draws
users by chance, sums their clipped gradients, adds noise and hands the result to the optimizer.
Whatever is done with the noisy sums afterwards, by the site, the server or whoever has the model,
gives away no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from federation.errors import FederationError
from federation.keystream import Keystream
from federation.privacy.clipping import clipped_sum, loss_scale, user_windows
from federation.privacy.noise import add_noise
from recsys.data.interactions import Interactions
from recsys.loop import adamw
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe

# Share of the users in a step. Large steps: the noise on a mean falls with the number of users in
# it, and the ε of a pass over all of them hardly rises.
SAMPLING = 0.1


@dataclass(frozen=True)
class Privacy:
    """What training must keep to.

    Attributes
    ----------
    clip : float
        Largest L2 norm of a user's gradient.
    noise : float
        Deviation of the noise on a sum, over `clip`.
    sampling : float
        Chance of a user to be in a step.
    """

    clip: float
    noise: float
    sampling: float = SAMPLING

    def steps(self, epochs: int) -> int:
        """Steps in which a user is drawn `epochs` times on average."""
        return max(1, round(epochs / self.sampling))


def train_private(
    model: SequentialRecommender,
    interactions: Interactions,
    recipe: Recipe,
    privacy: Privacy,
    source: Keystream,
    *,
    epochs: int,
) -> float:
    """Train in place on one site's events.

    Parameters
    ----------
    interactions
        Training events only; the vocabulary is the model's.
    source
        Decides who is drawn and the noise; secret, and for this model and these data alone.

    Returns
    -------
    float
        Mean loss in nats over the last `1 / sampling` steps, about an epoch. Noise is on it as well, and it is part of what
        the ε counts.

    Raises
    ------
    FederationError
        When no user has two events.
    """
    windows = user_windows(interactions, recipe.length)
    users = len(windows.lengths)
    if not users:
        raise FederationError("No user here has two training events, so there is nothing to learn.")
    expected = users * privacy.sampling
    deviation = privacy.clip * privacy.noise
    optimizer = adamw(model, recipe)
    model.eval()

    def noisy_mean(total: torch.Tensor) -> torch.Tensor:
        noisy = add_noise(total.numpy(), deviation, source) / expected
        return torch.from_numpy(np.asarray(noisy, np.float32)).reshape(total.shape)

    losses = []
    for _ in range(privacy.steps(epochs)):
        drawn = np.flatnonzero(source.uniform(users) <= privacy.sampling)
        total = clipped_sum(model, windows, drawn, privacy.clip)
        optimizer.zero_grad()
        # What makes the items' vectors gets its gradient from the noisy one of the vectors.
        model.input_table().backward(noisy_mean(total.table))
        model.seen_bias.backward(noisy_mean(total.bias))
        parameters = dict(model.named_parameters())
        for name, part in total.others.items():
            parameters[name].grad = noisy_mean(part)
        optimizer.step()
        losses.append(noisy_mean(total.loss).item())
    latest = losses[-privacy.steps(1) :]
    return max(0.0, sum(latest) / len(latest)) / loss_scale(privacy.clip, model.items)
