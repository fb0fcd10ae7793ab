from __future__ import annotations

import pytest

from recsys.accelerate.runtime import choose_providers

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
