"""The sequence encoder as an ONNX graph, checked against torch when it is made.

The graph is written node by node from the weights: that takes milliseconds, where tracing the model
takes many seconds, so that every model can be served by ONNX Runtime, and it can leave out what no
trace leaves out. Only the state after the last event is asked for, so the last block computes
queries and feed-forward for that event alone.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from recsys.accelerate.session import OnnxEncoder
from recsys.errors import RecsysError
from recsys.files import write_atomically
from recsys.model import Block, SequentialRecommender

ENCODER, INT8_ENCODER = "encoder.onnx", "encoder.int8.onnx"
# The first with GELU as one operator, and its file format.
OPSET, IR_VERSION = 20, 10
# States are of unit size after the last norm; float32 kernels differ in the order of their sums.
TOLERANCE = 1e-4
# Added to the scores of events that must not be seen.
UNSEEN = np.float32(-1e30)


def export_encoder(model: SequentialRecommender, folder: Path, *, int8: bool) -> None:
    """Write ``encoder.onnx`` and, on demand, ``encoder.int8.onnx`` with dynamic int8 products.

    Both are graphs as `encoder_graph` gives them.

    Parameters
    ----------
    model
        Without towers (`SequentialRecommender.folded`).

    Raises
    ------
    RecsysError
        When ONNX Runtime's states are not torch's.
    """
    graph = encoder_graph(model)
    write_atomically(folder / ENCODER, lambda target: target.write_bytes(graph))
    rows = model.output_table.detach().numpy().__getitem__
    check_encoder(model, OnnxEncoder(folder / ENCODER, rows, model.items, model.length))
    if int8:
        write_atomically(
            folder / INT8_ENCODER, lambda target: _quantise(folder / ENCODER, target)
        )


def encoder_graph(model: SequentialRecommender) -> bytes:
    """An ONNX model that gives ``states`` of ``events`` and ``lengths``.

    ``events`` are float[batch, length, d] embeddings, ``lengths`` int64[batch] from 1 to length,
    ``states`` float[batch, d] after the last event, for any batch and any length up to the model's.
    What stands behind a sequence's end does not count. The item table stays out of the graph, whose
    size does not grow with the catalogue.
    """
    return _Graph(model).build()


@torch.inference_mode()
def check_encoder(
    model: SequentialRecommender, encode: Callable[[Sequence[np.ndarray]], np.ndarray]
) -> None:
    """Compare an encoder with the model's own on random histories of all kinds of lengths.

    Raises
    ------
    RecsysError
        When a state is off by more than `TOLERANCE`, or is no number.
    """
    random = np.random.default_rng(0)
    for batch in (1, 3, 32):
        for longest in sorted({1, 2, model.length // 2 or 1, model.length}):
            lengths = random.integers(1, longest + 1, batch)
            histories = [random.integers(0, model.items, length) for length in lengths]
            off = np.abs(encode(histories) - model.encode(histories).numpy()).max()
            # Written this way round, a NaN is caught as well.
            if not off <= TOLERANCE:
                raise RecsysError(
                    f"the exported encoder is off by {off:.2g} from torch at batch {batch} and "
                    f"length {longest}, more than {TOLERANCE}: do without --onnx"
                )


class _Graph:
    """The graph as far as it is written: its nodes and constants, each with a name of its own."""

    def __init__(self, model: SequentialRecommender) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def build(self) -> bytes:
        model, d = self.model, self.model.item_embedding.embedding_dim
        # One more axis than the batch, so that the last events are still sequences, of length 1.
        last = self.op("Sub", self.op("Unsqueeze", "lengths", self.ints(1, 2)), self.ints(1))
        length = self.op("Shape", "events", start=1, end=2)
        positions = self.slice(self.weights(model.position_embedding.weight), length, axis=0)
        x = self.op("Add", "events", positions)
        for block in model.blocks[:-1]:
            ahead = np.triu(np.full((model.length, model.length), UNSEEN), 1)
            mask = self.slice(self.slice(self.constant(ahead), length, axis=0), length, axis=1)
            x = self.block(block, x, x, mask)
        places = self.slice(self.constant(np.arange(model.length)), length, axis=0)
        # [batch, heads, queries, keys]
        ended = self.op("Greater", places, self.op("Unsqueeze", last, self.ints(3)))
        mask = self.op("Where", ended, self.constant(UNSEEN), self.constant(np.float32(0)))
        mask = self.op("Reshape", mask, self.ints(0, 1, 1, -1))
        # A model without blocks has only this to do.
        x_last = self.op("GatherND", x, last, batch_dims=1)
        for block in model.blocks[-1:]:
            x_last = self.block(block, x_last, x, mask)
        states = self.op("Squeeze", self.norm(model.norm, x_last), self.ints(1))
        self.nodes.append(helper.make_node("Identity", [states], ["states"]))
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            [
                helper.make_tensor_value_info("events", TensorProto.FLOAT, ["batch", "length", d]),
                helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
            ],
            [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", d])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        whole = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(whole)
        return whole.SerializeToString(deterministic=True)

    def block(self, block: Block, asking: str, asked: str, mask: str) -> str:
        """What `recsys.model.Block` makes of `asking`, whose events look at those of `asked`."""
        weights = block.query_key_value.weight.detach().chunk(3)
        biases = block.query_key_value.bias.detach().chunk(3)
        width = len(biases[0]) // block.heads
        query, keys = (self.norm(block.attention_norm, x) for x in (asking, asked))

        def heads(x: str, part: int, scale: float, order: list[int]) -> str:
            projected = self.affine(x, scale * weights[part], scale * biases[part])
            parted = self.op("Reshape", projected, self.ints(0, -1, block.heads, width))
            return self.op("Transpose", parted, perm=order)

        q = heads(query, 0, width**-0.5, [0, 2, 1, 3])
        k = heads(keys, 1, 1.0, [0, 2, 3, 1])
        v = heads(keys, 2, 1.0, [0, 2, 1, 3])
        share = self.op("Softmax", self.op("Add", self.op("MatMul", q, k), mask), axis=-1)
        attended = self.op("Transpose", self.op("MatMul", share, v), perm=[0, 2, 1, 3])
        joined = self.op("Reshape", attended, self.ints(0, -1, block.heads * width))
        x = self.op("Add", asking, self.linear(block.attention_output, joined))
        first, _, second = block.feed_forward
        hidden = self.op("Gelu", self.linear(first, self.norm(block.feed_forward_norm, x)))
        return self.op("Add", x, self.linear(second, hidden))

    def norm(self, norm: nn.LayerNorm, x: str) -> str:
        weight, bias = self.weights(norm.weight), self.weights(norm.bias)
        return self.op("LayerNormalization", x, weight, bias, epsilon=norm.eps)

    def linear(self, linear: nn.Linear, x: str) -> str:
        return self.affine(x, linear.weight.detach(), linear.bias.detach())

    def affine(self, x: str, weight: Tensor, bias: Tensor) -> str:
        product = self.op("MatMul", x, self.weights(weight.T.contiguous()))
        return self.op("Add", product, self.weights(bias))

    def slice(self, x: str, end: str, axis: int) -> str:
        return self.op("Slice", x, self.ints(0), end, self.ints(axis))

    def op(self, kind: str, *inputs: str, **attributes: int | float | list[int]) -> str:
        """Add a node; the name of its output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def weights(self, weight: Tensor) -> str:
        return self.constant(weight.detach().numpy())

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def constant(self, value: np.ndarray | np.generic) -> str:
        """Add a constant; its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, target, per_channel=True, weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the quantiser says about steps that are not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
