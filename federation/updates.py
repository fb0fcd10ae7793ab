"""What a site changed in a model, as the server has it after decoding.

Plain NumPy: no Flower, no files, no clock. A change holds floating-point arrays only, since
counters and masks are not trained; an array or a row that is not in it did not change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from federation.errors import FederationError
from federation.metrics import is_figure

Weights = dict[str, np.ndarray]
"""All arrays of a model, by name."""


@dataclass(frozen=True)
class Rows:
    """Change of some rows of a table.

    Attributes
    ----------
    index : ndarray of int64, shape [n]
        The rows, ascending, no repeats.
    values : ndarray of float32, shape [n, width]
        What is added to each.
    """

    index: np.ndarray
    values: np.ndarray

    def dense(self, rows: int) -> np.ndarray:
        """Write the change as a whole table of `rows` rows."""
        table = np.zeros((rows, *self.values.shape[1:]), self.values.dtype)
        table[self.index] = self.values
        return table


Delta = dict[str, np.ndarray | Rows]
"""Trained minus received, by name."""


@dataclass(frozen=True)
class Update:
    """What the server has of one site after decoding.

    Attributes
    ----------
    site : str
        The site's name.
    delta : dict of str to ndarray or Rows
        How training changed the received model.
    examples : int
        Number of interactions that it trained on.
    loss : float
        Mean training loss.
    seconds : float
        Training time at the site.
    extra : dict of str to ndarray or Rows
        What a strategy asks sites for besides, by names of the model's arrays.
    staleness : int
        Versions that the model has gone on by since the one that the site received.
    """

    site: str
    delta: Delta
    examples: int
    loss: float
    seconds: float = 0.0
    extra: Delta = field(default_factory=dict)
    staleness: int = 0


def difference(trained: Weights, received: Weights) -> Delta:
    """Trained minus received: every floating-point array in which anything changed."""
    # NumPy gives a number, not an array, for arithmetic on an array without axes.
    return {
        name: np.asarray(trained[name] - before)
        for name, before in received.items()
        if np.issubdtype(before.dtype, np.floating) and (trained[name] != before).any()
    }


def add(weights: Weights, delta: Delta) -> Weights:
    """Weights with a change added, in double precision; arrays that do not change are shared."""
    changed = dict(weights)
    for name, change in delta.items():
        before = weights[name]
        if isinstance(change, Rows):
            after = before.copy()
            after[change.index] = before[change.index].astype(np.float64) + change.values
        else:
            after = np.asarray(before.astype(np.float64) + change, before.dtype)
        changed[name] = after
    return changed


def check_update(weights: Weights, update: Update) -> None:
    """Refuse an update that would damage the global model.

    Raises
    ------
    FederationError
        If an array is none of the model's trained ones or differs from it in shape or type, a
        number is not finite, or a figure is none or out of range.
    """
    site = f"Site {update.site!r}"
    if not is_figure(update.examples) or update.examples < 1:
        raise FederationError(f"{site} trained on {update.examples} interactions: expected some.")
    if not is_figure(update.loss):
        raise FederationError(f"{site} sent a training loss of {update.loss}: its training failed.")
    if not is_figure(update.seconds) or update.seconds < 0:
        raise FederationError(f"{site} says that it trained for {update.seconds} s.")
    for name, change in [*update.delta.items(), *update.extra.items()]:
        present = weights.get(name)
        if present is None or not np.issubdtype(present.dtype, np.floating):
            raise FederationError(
                f"{site} sent another model: {name!r} is no trained array of this one."
            )
        if isinstance(change, Rows):
            _check_rows(site, name, change, present)
            change = change.values
        elif change.shape != present.shape or change.dtype != present.dtype:
            raise FederationError(
                f"{site} sent {name!r} as {change.dtype}{list(change.shape)}: expected "
                f"{present.dtype}{list(present.shape)}."
            )
        if not np.isfinite(change).all():
            raise FederationError(f"{site} sent NaN or infinity in {name!r}: its training failed.")


def _check_rows(site: str, name: str, change: Rows, present: np.ndarray) -> None:
    index, values = change.index, change.values
    fits = index.dtype == np.int64 and index.ndim == 1 and values.dtype == np.float32
    if not fits or present.ndim < 2 or values.shape != (len(index), *present.shape[1:]):
        raise FederationError(
            f"{site} sent rows of {name!r} as {values.dtype}{list(values.shape)} at "
            f"{index.dtype}{list(index.shape)}: expected rows of {list(present.shape)}."
        )
    if len(index) and (index[0] < 0 or index[-1] >= len(present) or (np.diff(index) <= 0).any()):
        raise FederationError(
            f"{site} sent rows of {name!r} that repeat, are out of order or are none of its "
            f"{len(present)}."
        )
