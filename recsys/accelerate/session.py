"""The exported encoder in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from recsys.errors import RecsysError
from recsys.ranking import History, padded

GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
LARGEST_BATCH = 256


class OnnxEncoder:
    """Encodes histories in an ONNX Runtime session.

    Parameters
    ----------
    graph
        What `recsys.accelerate.export.encoder_graph` gives, or a file of it.
    rows
        Gives float[..., d] embeddings of int64[...] items.
    items, length
        Of the model.

    Raises
    ------
    RecsysError
        When ONNX Runtime cannot read the graph.
    """

    def __init__(
        self,
        graph: Path | bytes,
        rows: Callable[[np.ndarray], np.ndarray],
        items: int,
        length: int,
    ) -> None:
        self.graph, self.rows, self.items, self.length = graph, rows, items, length
        try:
            self.session = session_of(graph)
        except Exception as error:  # ONNX Runtime's exceptions have no common class of their own
            name = "the exported encoder" if isinstance(graph, bytes) else graph
            raise RecsysError(f"{name} is damaged ({error}); get the model again") from error

    def __call__(self, histories: Sequence[History]) -> np.ndarray:
        """States float[B, d]; errors are those of `SequentialRecommender.encode`."""
        parts = [self._encode(histories[start : start + LARGEST_BATCH])
                 for start in range(0, len(histories), LARGEST_BATCH)]  # fmt: skip
        return np.concatenate(parts)

    def _encode(self, histories: Sequence[History]) -> np.ndarray:
        items, lengths = padded(self._checked(histories))
        given = {"events": self.rows(items), "lengths": lengths}
        return self.session.run(["states"], given)[0]

    def _checked(self, histories: Sequence[History]) -> list[np.ndarray]:
        latest = [np.asarray(history, dtype=np.int64)[-self.length :] for history in histories]
        for number, history in enumerate(latest):
            if not len(history):
                raise RecsysError(f"history {number} is empty: there is no event to encode")
            unknown = history[(history < 0) | (history >= self.items)]
            if len(unknown):
                raise RecsysError(
                    f"a history names item {int(unknown[0])}, "
                    f"the model knows the items 0 to {self.items - 1}"
                )
        return latest


def session_of(graph: Path | bytes) -> onnxruntime.InferenceSession:
    """A session of one thread, on this machine's providers."""
    options = onnxruntime.SessionOptions()
    # The products of one request are too small to be shared out, and threads that wait for work by
    # spinning take the cores from everybody else.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=providers())


def providers() -> list[str]:
    """Those of this machine, by preference."""
    return choose_providers(onnxruntime.get_available_providers())


def choose_providers(available: Sequence[str]) -> list[str]:
    """ONNX Runtime's execution providers by preference: TensorRT, CUDA, CPU.

    A session gives each part of the graph to the first one that can run it, so the CPU is always
    the last.
    """
    return [name for name in GPU_PROVIDERS if name in available] + ["CPUExecutionProvider"]
