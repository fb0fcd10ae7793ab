"""What a worker counts, for Prometheus: TorchServe reads it from the worker's output.

TorchServe has a line for each change of a metric. At every request these would cost the server more
than some answers do, so amounts are added up here and written once a second.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handlers.stopwatch import Stopwatch

REQUESTS, BATCHES, SECONDS, WITHIN = (
    "hybrid_requests_total",
    "hybrid_batches_total",
    "hybrid_stage_seconds_total",
    "hybrid_requests_within_total",
)
# Unit and labels of each; all are counters. TorchServe adds the label Hostname.
METRICS = {
    REQUESTS: ("Count", ("kind", "outcome")),
    BATCHES: ("Count", ("kind",)),
    SECONDS: ("Seconds", ("kind", "stage")),
    WITHIN: ("Count", ("kind", "le")),
}
# Upper bounds in seconds, as histogram_quantile wants them. TorchServe's own histograms have fixed
# bounds, and a line for each request.
BOUNDS = tuple("0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 +Inf".split())
EVERY_SECONDS = 1.0


class Meter:
    """Counts the requests and the time of one model.

    Parameters
    ----------
    kind
        Name of the model's kind.
    """

    def __init__(self, kind: str) -> None:
        # Who only wants the names of the metrics need not wait for TorchServe's modules.
        from ts.metrics.caching_metric import CachingMetric
        from ts.metrics.metric_type_enum import MetricTypes

        self.kind = kind
        self._metrics = {
            name: CachingMetric(name, unit, list(labels), MetricTypes.COUNTER)
            for name, (unit, labels) in METRICS.items()
        }
        self._lock = threading.Lock()
        self._amounts: dict[tuple[str, ...], float] = defaultdict(float)

    def start(self) -> None:
        """Write what has been counted once a second, as long as the process lives."""
        threading.Thread(target=self._write_forever, name="meter", daemon=True).start()

    def count(self, outcomes: list[str], watch: Stopwatch) -> None:
        """Count a batch: the outcome of each request, how long they took, where the time went."""
        seconds = watch.seconds
        with self._lock:
            self._amounts[BATCHES, self.kind] += 1
            for outcome in outcomes:
                self._amounts[REQUESTS, self.kind, outcome] += 1
            for bound in BOUNDS:
                if seconds <= float(bound):
                    self._amounts[WITHIN, self.kind, bound] += len(outcomes)
            for stage, milliseconds in watch.milliseconds.items():
                self._amounts[SECONDS, self.kind, stage] += milliseconds / 1000

    def write(self) -> None:
        """Write what was counted since the last time."""
        with self._lock:
            amounts, self._amounts = self._amounts, defaultdict(float)
        for (name, *values), amount in amounts.items():
            labels = zip(METRICS[name][1], values, strict=True)
            # TorchServe does not read numbers such as 1e-05.
            self._metrics[name].emit_metrics(
                "", f"{amount:.6f}", ",".join(f"{label}:{value}" for label, value in labels)
            )

    def _write_forever(self) -> None:
        pause = threading.Event()
        while not pause.wait(EVERY_SECONDS):
            self.write()
