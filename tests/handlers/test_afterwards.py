"""What happens to a batch after its answers have left."""

from __future__ import annotations

import logging
from collections import Counter
from threading import Event

import pytest

from handlers.afterwards import Afterwards, Batch
from handlers.errors import BadRequest
from handlers.tracing import Origin

PATIENCE = 60.0


class Recorded:
    """Meter and observer of batches, of whose requests "bad" cannot be looked at."""

    expected: dict = {}

    def __init__(self) -> None:
        self.observed: list[dict] = []
        self.written = Event()

    def count(self, batch: Batch) -> None:
        pass

    def counts(self, requests: list, answers: list) -> Counter:
        if "bad" in requests:
            raise KeyError("bad")
        return Counter(zip(requests, map(str, answers), strict=True))

    def observe(self, counts: Counter) -> None:
        self.observed.append(dict(counts))

    def expect(self, shares: dict) -> None:
        pass

    def write(self) -> None:
        self.written.set()


def batch_of(*requests: str) -> Batch:
    answers = [f"to {request}" for request in requests]
    return Batch([Origin()] * len(answers), answers, dict(enumerate(requests)), 0, 0.1, {})


def test_a_batch_that_cannot_be_noted_is_told_and_the_next_one_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorded = Recorded()
    afterwards = Afterwards(recorded, recorded, None)
    for request in ("bad", "good"):
        afterwards.add(batch_of(request))
    with caplog.at_level(logging.ERROR):
        afterwards.start()
        # A second later, though no more batches come.
        assert recorded.written.wait(PATIENCE)
    assert recorded.observed == [{("good", "to good"): 1}]
    assert "missing in the metrics" in caplog.text


def test_each_request_has_an_outcome() -> None:
    answers = [{}, BadRequest("no"), KeyError("x"), None]
    batch = Batch([Origin()] * 4, answers, {}, 0, 0.1, {})
    assert batch.outcomes == ["answered", "refused", "failed", "described"]
