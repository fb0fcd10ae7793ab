from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.accelerate.runtime import Runtime, choose_providers
from recsys.artifact import load_model
from recsys.index import ExactIndex, QuantisedIndex

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
        runtime = Runtime(model.encode, kind(model.output_table), bias)
    best = expected.topk(10)
    scores, items = runtime.recommend(histories, 10)
    torch.testing.assert_close(scores, best.values, atol=1e-3, rtol=1e-3)
    assert torch.equal(items, best.indices)
    torch.testing.assert_close(runtime.scores(states, histories), expected, atol=1e-3, rtol=1e-3)
