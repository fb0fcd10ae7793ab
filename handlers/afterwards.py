"""What is done with a batch once its answers have left: counted, observed, traced."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from handlers.errors import Refused

if TYPE_CHECKING:
    from handlers.drift import Observer
    from handlers.meter import Meter
    from handlers.spread import SpreadObserver
    from handlers.tracing import Origin, Tracer

# How often batches are taken note of, and how often what was counted is written.
PAUSE_SECONDS, EVERY_SECONDS = 0.02, 1.0

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """An answered batch.

    Attributes
    ----------
    origins, answers
        Of all requests, in their order; the answer is None where a request asked for the OpenAPI.
    asked
        Requests that a model answered or failed on, by place.
    ended, seconds, milliseconds
        When the answers were there (nanoseconds since 1970), how long they took, and by part.
    """

    origins: Sequence[Origin]
    answers: Sequence[Any]
    asked: dict[int, Any]
    ended: int
    seconds: float
    milliseconds: dict[str, float]

    @cached_property
    def outcomes(self) -> list[str]:
        """What became of each request."""
        return [_outcome(answer) for answer in self.answers]


class Afterwards:
    """A thread that takes note of batches: no client waits for it, not even one that asks alone.

    It looks for them by itself. Woken by each batch, it would want the interpreter and a core while
    the answer is still being sent.

    Parameters
    ----------
    meter
        Counts, and writes once a second.
    observer, tracer
        None where nothing is known of the model's training, and where no collector is named.
    """

    def __init__(
        self, meter: Meter, observer: Observer | SpreadObserver | None, tracer: Tracer | None
    ) -> None:
        self._meter, self._observer, self._tracer = meter, observer, tracer
        self._batches: deque[Batch] = deque()

    def start(self) -> None:
        """Begin, for as long as the process lives."""
        if self._observer:
            self._meter.expect(self._observer.expected)
        threading.Thread(target=self._run, name="afterwards", daemon=True).start()

    def add(self, batch: Batch) -> None:
        """Take note of a batch soon."""
        self._batches.append(batch)

    def _note(self, batch: Batch) -> None:
        self._meter.count(batch)
        if self._tracer:
            self._tracer.trace(batch)
        if self._observer:
            found = [batch.answers[place] for place in batch.asked]
            self._meter.observe(self._observer.counts(batch.asked.values(), found))

    def _run(self) -> None:
        due = time.monotonic() + EVERY_SECONDS
        while True:
            time.sleep(PAUSE_SECONDS)
            while self._batches:
                try:
                    self._note(self._batches.popleft())
                except Exception:
                    # The service answers all the same, and counts the next one.
                    LOG.exception("A batch is missing in the metrics")
            if time.monotonic() >= due:
                self._meter.write()
                due = time.monotonic() + EVERY_SECONDS


def _outcome(answer: Any) -> str:
    """What became of a request, for the metrics."""
    if answer is None:
        return "described"
    if isinstance(answer, Refused) and answer.status < 500:
        return "refused"
    return "failed" if isinstance(answer, Exception) else "answered"
