"""A model's change as one vector of whole numbers, which sites can add up under masks.

The numbers count modulo 2^32. Every site sends the same coordinates, whether it changed them or
not, so that the message tells nothing of which rows it touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federation.errors import FederationError
from federation.updates import Delta, Rows, Weights

RING_BITS = 32
# No round of training changes a number by as much as this; the rest of the ring is for precision.
BOUND = 8.0


@dataclass(frozen=True)
class Layout:
    """Which coordinates of a model are sent, and at what scale.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        The floating-point arrays of the model.
    rows : dict of str to ndarray
        Of the tables of which only some rows are sent: int64[n], ascending.
    bound : float
        No number of an average may be larger.
    bits : int
        Of a whole number, its sign included.
    """

    shapes: dict[str, tuple[int, ...]]
    rows: dict[str, np.ndarray]
    bound: float
    bits: int = RING_BITS

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(math.prod(self._sent(name)) for name in self.shapes)

    def _sent(self, name: str) -> tuple[int, ...]:
        shape = self.shapes[name]
        return (len(self.rows[name]), *shape[1:]) if name in self.rows else shape

    @property
    def _scale(self) -> float:
        return 2.0 ** (self.bits - 1) / self.bound * (1 - 1e-6)

    def encode(self, delta: Delta, weight: float) -> np.ndarray:
        """uint32[size]: a change times a weight. The weights of all sites sum to 1 at most.

        Raises
        ------
        FederationError
            If a number of the change is beyond the bound or not finite.
        """
        parts = []
        for name in sorted(self.shapes):
            change = delta.get(name)
            if change is None:
                parts.append(np.zeros(math.prod(self._sent(name))))
                continue
            if isinstance(change, Rows):
                change = change.dense(self.shapes[name][0])
            change = change[self.rows[name]] if name in self.rows else change
            if not np.abs(change).max(initial=0.0) <= self.bound:  # NaN as well
                raise FederationError(
                    f"Training changed a number of {name!r} by more than {self.bound:g}, or to no "
                    "number: it cannot be added up in secret."
                )
            parts.append(change.astype(np.float64).ravel())
        whole = np.rint(np.concatenate(parts) * (weight * self._scale)).astype(np.int64)
        return whole.astype(np.uint32)

    def decode(self, total: np.ndarray, weight: float) -> Delta:
        """The average change, from the sum of what the sites encoded and the sum of weights."""
        values = total.astype(np.uint32).view(np.int32) / (weight * self._scale)
        delta: Delta = {}
        start = 0
        for name in sorted(self.shapes):
            shape = self._sent(name)
            end = start + math.prod(shape)
            change = values[start:end].reshape(shape).astype(np.float32)
            delta[name] = Rows(self.rows[name], change) if name in self.rows else change
            start = end
        return delta


def layout(
    weights: Weights, *, share: float, seed: int, number: int, bound: float, bits: int = RING_BITS
) -> Layout:
    """What the sites send in a round: small arrays whole, of each table a share of the rows.

    The rows follow from the seed and the round's number alone, the same at every site; over
    the rounds each row gets its turn.
    """
    shapes = {
        name: array.shape
        for name, array in weights.items()
        if np.issubdtype(array.dtype, np.floating)
    }
    rows = {}
    tables = [name for name, shape in sorted(shapes.items()) if len(shape) == 2 and share < 1]
    for place, name in enumerate(tables):
        count = shapes[name][0]
        generator = np.random.default_rng([seed, number, place])
        kept = generator.choice(count, max(1, round(share * count)), replace=False)
        rows[name] = np.sort(kept).astype(np.int64)
    return Layout(shapes, rows, bound, bits)
