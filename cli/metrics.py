"""What Prometheus may know of pipeline, federation and model store, which are no servers to ask.

Gauges in the text format, for node_exporter's textfile collector: written anew each time from the
records that are there.
"""

from __future__ import annotations

from collections.abc import Callable

from cli.environment import Environment
from cli.federation import runs_folder
from cli.learning import environment_store
from cli.rounds import figures_of
from cli.steps import steps
from federation.history import PastRun, past_runs

# Name, further labels and help of each gauge.
GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    "hybrid_model_stored_timestamp_seconds": (
        ("channel", "model"),
        "When the model that a channel points to was stored",
    ),
    "hybrid_model_quality": (
        ("channel", "metric"),
        "Test metric in the card of the model that a channel points to",
    ),
    "hybrid_step_timestamp_seconds": (
        ("step", "event"),
        "When a step of the pipeline last began, succeeded or failed",
    ),
    "hybrid_step_seconds": (("step",), "How long it took when it last succeeded"),
    "hybrid_federation_started_timestamp_seconds": (
        ("run", "strategy", "state"),
        "When the newest run was asked for, and what became of it",
    ),
    "hybrid_federation_rounds": (("progress",), "Rounds of the newest run, done and wanted"),
    "hybrid_federation_bytes": (("direction",), "Bytes of the newest run, down to sites and up"),
    "hybrid_federation_sites": (("outcome",), "Sites of its newest round: trained or refused"),
    "hybrid_federation_round": (
        ("figure",),
        "Figures of its newest round: loss, epsilon, cost in USD, seconds, metrics",
    ),
}


def exposition(environment: Environment) -> str:
    """The gauges in Prometheus's text format; those of a federated run only if there was one."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    gauges = {
        name: Gauge(name, text, ("environment", *labels), registry=registry)
        for name, (labels, text) in GAUGES.items()
    }

    def tell(name: str, value: float, *labels: str) -> None:
        gauges[name].labels(environment.name, *labels).set(value)

    store = environment_store(environment)
    for record in store.list():
        for channel in record.channels:
            stored = record.created.timestamp()
            tell("hybrid_model_stored_timestamp_seconds", stored, channel, record.digest)
            for metric, value in record.lineage.get("metrics", {}).items():
                tell("hybrid_model_quality", value, channel, metric)
    for step, record in steps(environment).items():
        for event, value in record.items():
            if event == "seconds":
                tell("hybrid_step_seconds", value, step)
            else:
                tell("hybrid_step_timestamp_seconds", value, step, event)
    for run in past_runs(runs_folder(environment))[:1]:
        _tell_run(run, tell)
    return generate_latest(registry).decode()


def _tell_run(run: PastRun, tell: Callable[..., None]) -> None:
    strategy = run.settings["strategy"]
    tell(
        "hybrid_federation_started_timestamp_seconds", run.started, run.name, strategy, run.state
    )
    tell("hybrid_federation_rounds", len(run.rounds), "done")
    tell("hybrid_federation_rounds", run.settings["rounds"], "wanted")
    for direction in ("down", "up"):
        total = sum(record[f"bytes_{direction}"] for record in run.rounds)
        tell("hybrid_federation_bytes", total, direction)
    if not run.rounds:
        return
    newest = run.rounds[-1]
    for outcome in ("trained", "refused"):
        tell("hybrid_federation_sites", len(newest[outcome]), outcome)
    for figure, value in figures_of(newest).items():
        tell("hybrid_federation_round", value, figure)
