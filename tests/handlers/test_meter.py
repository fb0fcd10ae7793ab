"""What a worker tells TorchServe of its requests."""

from __future__ import annotations

import re

import pytest

from handlers.afterwards import Batch
from handlers.meter import BOUNDS, WITHIN, Meter
from handlers.tracing import Origin


def test_a_request_is_within_each_bound_that_its_batch_did_not_pass(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    meter = Meter("recommend", "sha256:" + "a" * 64)
    for seconds, requests in ((0.01, 3), (0.07, 2), (9.0, 1)):
        batch = Batch([Origin()] * requests, [{}] * requests, {}, 0, seconds, {})
        meter.count(batch)
    with caplog.at_level("INFO"):
        meter.write()
    lines = caplog.text + capfd.readouterr().out
    pattern = rf"{WITHIN}\.\S+?:([\d.]+)\|#kind:recommend,le:([^|,]+)"
    told = {bound: float(amount) for amount, bound in re.findall(pattern, lines)}
    assert told == {
        bound: 3 * (float(bound) >= 0.01) + 2 * (float(bound) >= 0.07) + (bound == "+Inf")
        for bound in BOUNDS
        if float(bound) >= 0.01
    }
