from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.accelerate.export import encoder_graph
from recsys.accelerate.runtime import Runtime, open_runtime, torch_encoder
from recsys.accelerate.session import OnnxEncoder, choose_providers
from recsys.artifact import load_model
from recsys.exact import ExactIndex
from recsys.index import ApproximateIndex, QuantisedIndex
from recsys.ranking import Ranker

TENSORRT, CUDA, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU"))


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        ([CPU], [CPU]),
        (["AzureExecutionProvider", CPU], [CPU]),
        ([CUDA, CPU], [CUDA, CPU]),
        ([CPU, CUDA, TENSORRT], [TENSORRT, CUDA, CPU]),
        ([TENSORRT, CPU], [TENSORRT, CPU]),
    ],
)
def test_the_fastest_provider_that_is_there_comes_first(
    available: list[str], chosen: list[str]
) -> None:
    assert choose_providers(available) == chosen


@pytest.mark.parametrize("bias", [-3.0, 0.0, 5.0])
@pytest.mark.parametrize("kind", [ExactIndex, QuantisedIndex])
def test_seen_items_are_ranked_with_their_bias_and_come_once(
    artifact: Path, kind: type, bias: float
) -> None:
    model = load_model(artifact).model
    histories = [[3, 5, 3, 9], [7]]
    with torch.no_grad():
        states = model.encode(histories)
        expected = states @ model.output_table.T
        expected[0, [3, 5, 9]] += bias
        expected[1, 7] += bias
    index = kind(model.output_table.detach().numpy())
    ranker = Ranker(torch_encoder(model), index, bias, model.length)
    best = expected.topk(10)
    scores, items = ranker.recommend(histories, 10)
    np.testing.assert_allclose(scores, best.values, atol=1e-3, rtol=1e-3)
    assert np.array_equal(items, best.indices)
    scores = Runtime(ranker).scores(states, histories)
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-3)


def test_a_model_that_was_not_accelerated_is_encoded_by_onnx_runtime(artifact: Path) -> None:
    runtime, _ = open_runtime(artifact)
    assert isinstance(runtime.encode, OnnxEncoder)
    model = load_model(artifact).model
    states = model.encode([[3, 5], [7]]).detach()
    np.testing.assert_allclose(runtime.encode([[3, 5], [7]]), states, atol=1e-4, rtol=1e-4)


def test_where_the_export_is_wrong_torch_serves_and_the_log_tells_why(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = load_model(artifact).model.folded()
    with torch.no_grad():
        other.norm.bias += 1
    graph = encoder_graph(other)
    monkeypatch.setattr("recsys.accelerate.runtime.encoder_graph", lambda model: graph)
    runtime, _ = open_runtime(artifact)
    assert not isinstance(runtime.encode, OnnxEncoder)
    assert "served by torch, not by ONNX Runtime: the exported encoder is off by 1" in caplog.text


def test_a_kept_index_of_another_vocabulary_is_made_anew(
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("recsys.accelerate.runtime.EXACT_BELOW", 50)
    monkeypatch.setattr("recsys.index.EXACT_BELOW", 50)
    folder = shutil.copytree(artifact, tmp_path / "model")
    first, items = open_runtime(folder, keep_index=True)
    table = first.index.rows(np.arange(len(items)))
    ApproximateIndex(table[::-1].copy(), table).save(folder)
    again, _ = open_runtime(folder, keep_index=True)
    assert "is of other items or weights" in caplog.text
    states = first.encode([[3, 5], [7]])
    for one, other in zip(first.index.search(states, 5), again.index.search(states, 5)):
        np.testing.assert_array_equal(one, other)
    caplog.clear()
    open_runtime(folder, keep_index=True)
    assert caplog.text == ""
