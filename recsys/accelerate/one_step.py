"""The best items of one history by one call of ONNX Runtime: encoder, product and choice in a graph.

What a lone request needs is so little that the way from step to step, through NumPy and a cache
that others have filled meanwhile, takes as long as the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recsys.accelerate.session import OnnxEncoder, session_of
from recsys.exact import Found


class OneStep:
    """Finds what `recsys.ranking.Ranker` finds for one history where no item is barred.

    Parameters
    ----------
    encoder
        Of the model.
    table
        float32[items, d] finite vectors; a score is the inner product with a row.
    seen_bias
        Added to the scores of items that the history holds.
    """

    def __init__(self, encoder: OnnxEncoder, table: np.ndarray, seen_bias: float) -> None:
        self._length, self._items = encoder.length, len(table)
        self._added = {
            True: np.array([[seen_bias]], dtype=np.float32),
            False: np.array([[-np.inf]], dtype=np.float32),
        }
        self._session = session_of(_graph(encoder.graph, table))

    def __call__(self, history: Sequence[int] | np.ndarray, k: int, seen: bool) -> Found:
        """Scores float[k] and items int64[k] of at least one event, the best first.

        There are fewer than k where the model has fewer items; those of the history have the score
        -inf where seen items shall not be found.
        """
        events = np.array([history], dtype=np.int64)
        values, found = self._session.run(
            ["values", "found"],
            {
                "items": events[:, -self._length :],
                "lengths": np.array([min(len(history), self._length)]),
                "had": np.array([list(set(events[0].tolist()))]),
                "added": self._added[seen],
                "k": np.array([min(k, self._items)]),
            },
        )
        return values[0], found[0]


def _graph(encoder: bytes | Path, table: np.ndarray) -> bytes:
    """The encoder's graph between the look-up of its events and the choice of items."""
    whole = onnx.load_from_string(encoder if isinstance(encoder, bytes) else encoder.read_bytes())
    graph, node = whole.graph, helper.make_node
    nodes = [
        node("Gather", ["table", "items"], ["events"]),
        *graph.node,
        node("Gemm", ["states", "table"], ["scores"], transB=1),
        node("Shape", ["had"], ["many"]),
        node("Expand", ["added", "many"], ["more"]),
        node("ScatterElements", ["scores", "had", "more"], ["ranked"], axis=1, reduction="add"),
        node("TopK", ["ranked", "k"], ["values", "found"]),
    ]
    given = helper.make_tensor_value_info
    whole.graph.CopyFrom(
        helper.make_graph(
            nodes,
            "recommend",
            [
                given("items", TensorProto.INT64, [1, "length"]),
                given("lengths", TensorProto.INT64, [1]),
                given("had", TensorProto.INT64, [1, "had"]),
                given("added", TensorProto.FLOAT, [1, 1]),
                given("k", TensorProto.INT64, [1]),
            ],
            [
                given("values", TensorProto.FLOAT, [1, "k"]),
                given("found", TensorProto.INT64, [1, "k"]),
            ],
            [*graph.initializer, numpy_helper.from_array(table, "table")],
        )
    )
    return whole.SerializeToString()
