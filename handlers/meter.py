"""What a worker counts, for Prometheus: TorchServe reads it from the worker's output.

TorchServe has a line for each change of a metric. At every request these would cost the server more
than some answers do, so amounts are added up here and written once a second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handlers.afterwards import Batch
    from handlers.spread import Bin

REQUESTS, BATCHES, SECONDS, WITHIN, OBSERVED = (
    "hybrid_requests_total",
    "hybrid_batches_total",
    "hybrid_stage_seconds_total",
    "hybrid_requests_within_total",
    "hybrid_observed_total",
)
EXPECTED = "hybrid_expected_share"
# Unit and labels of each. TorchServe adds the label Hostname.
COUNTERS = {
    REQUESTS: ("Count", ("kind", "outcome")),
    BATCHES: ("Count", ("kind",)),
    SECONDS: ("Seconds", ("kind", "stage")),
    WITHIN: ("Count", ("kind", "le")),
    OBSERVED: ("Count", ("kind", "model", "what", "bin")),
}
GAUGES = {EXPECTED: ("Count", ("kind", "model", "what", "bin"))}
# Upper bounds in seconds, as histogram_quantile wants them. TorchServe's own histograms have fixed
# bounds, and a line for each request.
BOUNDS = {
    bound: float(bound)
    for bound in "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 +Inf".split()
}


class Meter:
    """Counts the requests and the time of one model.

    Parameters
    ----------
    kind
        Name of the model's kind.
    model
        Its digest.
    """

    def __init__(self, kind: str, model: str) -> None:
        # Who only wants the names of the metrics need not wait for TorchServe's modules.
        from ts.metrics.caching_metric import CachingMetric
        from ts.metrics.metric_type_enum import MetricTypes

        self.kind, self.model = kind, model.removeprefix("sha256:")[:12]
        self._metrics = {
            name: CachingMetric(name, unit, list(labels), type_)
            for type_, metrics in ((MetricTypes.COUNTER, COUNTERS), (MetricTypes.GAUGE, GAUGES))
            for name, (unit, labels) in metrics.items()
        }
        self._amounts: dict[tuple[str, ...], float] = defaultdict(float)

    def count(self, batch: Batch) -> None:
        """Count a batch: the outcome of each request, how long they took, where the time went."""
        self._amounts[BATCHES, self.kind] += 1
        for outcome in batch.outcomes:
            self._amounts[REQUESTS, self.kind, outcome] += 1
        for bound, most in BOUNDS.items():
            if batch.seconds <= most:
                self._amounts[WITHIN, self.kind, bound] += len(batch.outcomes)
        for stage, milliseconds in batch.milliseconds.items():
            self._amounts[SECONDS, self.kind, stage] += milliseconds / 1000

    def observe(self, counts: Mapping[Bin, int]) -> None:
        """Count what an observer (`handlers.drift`) saw in a batch."""
        for (what, name), count in counts.items():
            self._amounts[OBSERVED, self.kind, self.model, what, name] += count

    def expect(self, shares: Mapping[Bin, float]) -> None:
        """Write once what share of the observations each bin has where nothing drifts."""
        for (what, name), share in shares.items():
            self._write(EXPECTED, (self.kind, self.model, what, name), share)

    def write(self) -> None:
        """Write what was counted since the last time."""
        amounts, self._amounts = self._amounts, defaultdict(float)
        for (name, *values), amount in amounts.items():
            self._write(name, values, amount)

    def _write(self, name: str, values: Sequence[str], amount: float) -> None:
        labels = zip((COUNTERS | GAUGES)[name][1], values, strict=True)
        # TorchServe does not read numbers such as 1e-05.
        self._metrics[name].emit_metrics(
            "", f"{amount:.6f}", ",".join(f"{label}:{value}" for label, value in labels)
        )
