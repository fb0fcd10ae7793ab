from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from federation.arrays import KINDS, pieces
from federation.checkpoint import Checkpoint, digest


def test_the_pieces_are_a_safetensors_file() -> None:
    arrays = {kind: np.ones((2, 3), kind) for kind in KINDS}
    arrays |= {
        "number": np.float32(3).reshape(()),
        "empty": np.zeros((0, 4), np.float32),
        "backwards": np.arange(3)[::-1],
    }
    found = load(b"".join(bytes(piece) for piece in pieces(arrays, {"state": "{}"})))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_a_checkpoint_takes_no_memory_beside_the_model(tmp_path: Path) -> None:
    weights = {"table": np.ones((100_000, 16), np.float32)}
    tracemalloc.start()
    record = {"round": 1, "model": digest(weights)}
    Checkpoint(1, weights, {}, [record]).save(tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < weights["table"].nbytes / 4
    saved = Checkpoint.load(tmp_path)
    assert saved.records == [record] and digest(saved.weights) == record["model"]
