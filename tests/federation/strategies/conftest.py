from __future__ import annotations

import numpy as np
import pytest

from federation.updates import Rows, Update, Weights

ROWS, WIDTH = 5, 3


@pytest.fixture
def weights() -> Weights:
    """A table, a layer, a single number, and a counter that nothing trains."""
    generator = np.random.default_rng(0)
    return {
        "table": generator.normal(size=(ROWS, WIDTH)).astype(np.float32),
        "layer": generator.normal(size=4).astype(np.float32),
        "scale": np.array(0.5, np.float32),
        "steps": np.array([7]),
    }


@pytest.fixture
def updates() -> list[Update]:
    """Seven sites; each touches some rows of the table and the whole layer."""
    generator = np.random.default_rng(1)
    made = []
    for number in range(7):
        index = np.sort(generator.choice(ROWS, size=1 + number % 4, replace=False))
        table = Rows(index, generator.normal(size=(len(index), WIDTH)).astype(np.float32))
        layer = generator.normal(size=4).astype(np.float32)
        scale = np.array(generator.normal(), np.float32)
        extra = {"layer": generator.normal(size=4).astype(np.float32)}
        made.append(
            Update(
                f"site-{number}",
                {"table": table, "layer": layer, "scale": scale},
                examples=10 + number,
                loss=1.0,
                extra=extra,
                staleness=number % 3,
            )
        )
    return made
