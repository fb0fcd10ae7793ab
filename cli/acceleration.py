"""A stored model made faster, stored again unless it lost too much."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.application import Progress
from cli.environment import Environment
from cli.learning import code_version, environment_store, lineage_of, load_data, store_candidate

if TYPE_CHECKING:
    from recsys.accelerate.job import Acceleration, Comparison


@dataclass(frozen=True)
class Accelerated:
    """What came out; `digest` is None where the result was refused."""

    parent: str
    digest: str | None
    comparison: Comparison


def accelerate(
    environment: Environment,
    reference: str,
    how: Acceleration,
    most_loss: float,
    progress: Progress,
) -> Accelerated:
    """Accelerate a stored model; if it passes it is stored, and `candidate` points to it.

    Parameters
    ----------
    most_loss
        NDCG@10 (test) that the result may lose, as a difference; of the form that decides on the
        data (`recsys.evaluate.deciding_figure`).
    """
    from recsys.accelerate.job import accelerate as accelerate_model

    store = environment_store(environment)
    parent = store.resolve(reference)
    source = lineage_of(store, parent, "data")
    interactions = load_data(environment, source["address"])
    with tempfile.TemporaryDirectory(prefix="hybrid-accelerate-") as scratch:
        model = store.get(parent, Path(scratch) / "model")
        target = Path(scratch) / "accelerated"
        comparison = accelerate_model(model, interactions, how, target, progress=progress)
        # Written this way round, a loss that is no number is refused as well.
        if not comparison.loss <= most_loss:
            return Accelerated(parent, None, comparison)
        lineage = {
            "made_by": "accelerate",
            "parent": parent,
            "data": source,
            "stages": [{"stage": "accelerate"} | {k: v for k, v in asdict(how).items() if v}],
            "settings": asdict(how) | {"most_loss": most_loss},
            "figures": asdict(comparison),
            "metrics": comparison.after.metrics,
            "code": code_version(),
        }
        digest = store_candidate(environment, target, lineage)
    return Accelerated(parent, digest, comparison)
