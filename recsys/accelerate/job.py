"""The whole acceleration job: prune, fine-tune, quantise, export, and compare with before."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.torch import save_file

from recsys.accelerate.export import export_encoder
from recsys.accelerate.prune import make_permanent, prune_magnitude, prune_structure
from recsys.accelerate.quantise import compressed
from recsys.accelerate.runtime import SETTINGS, Runtime, open_runtime, torch_encoder
from recsys.artifact import LoadedModel, load_model, save_model
from recsys.data.interactions import Interactions
from recsys.data.split import Split, leave_one_out
from recsys.errors import RecsysError
from recsys.evaluate import CUTOFF, deciding_figure, evaluate
from recsys.exact import ExactIndex
from recsys.files import write_atomically
from recsys.finetune import finetune
from recsys.loop import Progress
from recsys.ranking import Ranker

REQUESTS = 300
WARM_UP = 20
# Fine-tuning after pruning mends; at the full rate it would start over.
RATE = 0.1


@dataclass(frozen=True)
class Acceleration:
    """What to do to a model.

    Attributes
    ----------
    prune
        Share of heads and feed-forward units, or of the blocks' weights, that go; 0 for none.
    pruning
        `structured` removes heads and units, `magnitude` sets single weights to zero.
    epochs
        Of fine-tuning after pruning, at a tenth of the recipe's learning rate; the best one by
        validation stays.
    quantise
        `int8`: linear layers, and the item table with re-ranking.
    onnx
        Encode in ONNX Runtime.
    """

    prune: float = 0.0
    pruning: Literal["structured", "magnitude"] = "structured"
    epochs: int = 3
    quantise: Literal["int8"] | None = None
    onnx: bool = False


@dataclass(frozen=True)
class Figures:
    """A model's size in bytes, latency of a single request (top 10) and test metrics."""

    size: int
    p50_ms: float
    p99_ms: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """A model before and after; `metric` is the one that decides, by which training chose too."""

    metric: str
    before: Figures
    after: Figures

    @property
    def loss(self) -> float:
        """How much of `metric` was lost; negative where it rose."""
        return self.before.metrics[self.metric] - self.after.metrics[self.metric]


def accelerate(
    folder: Path,
    interactions: Interactions,
    how: Acceleration,
    target: Path,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Make a faster model of the artefact in `folder` and write it to `target`.

    What item texts tell is folded into the item table: the result serves the items that it knows,
    and is no model to add new items to.

    Both are asked the same test histories, in turns, so that what else the machine does weighs on
    both. Metrics are of what is served: after, that is the stored files in their runtime, with
    whatever its encoder and index get wrong.

    Raises
    ------
    RecsysError
        When the data's items are not the model's, or the exported encoder is not the model.
    """
    loaded = load_model(folder)
    if interactions.items != loaded.items:
        raise RecsysError(
            f"the data has {len(interactions.items)} items, the model {len(loaded.items)}, and "
            "they are not the same: give the data that the model was trained on"
        )
    split = leave_one_out(interactions)
    say = _steps(how, progress)
    say("testing the model as it is")
    model = loaded.model.folded().eval()
    metrics_before = evaluate(model, interactions, split, part="test")
    table = ExactIndex(model.output_table.detach().numpy())
    before = Ranker(torch_encoder(model), table, model.seen_bias.item(), model.length)

    changed = load_model(folder)
    if how.prune:
        say(f"pruning {how.prune:.0%} ({how.pruning}) and fine-tuning for {how.epochs} epochs")
        _prune(changed, interactions, split, how)
    say("writing the model")
    _write(changed, how, target)
    say("testing the result")
    after, _ = open_runtime(target)
    metrics_after = evaluate(Runtime(after), interactions, split, part="test")
    _write_json(target / "metrics.json", metrics_after)
    say("measuring single requests")
    times = _latencies([before, after], interactions, split)
    return Comparison(
        deciding_figure(interactions, split),
        _figures(folder, times[0], metrics_before),
        _figures(target, times[1], metrics_after),
    )


def _prune(
    loaded: LoadedModel, interactions: Interactions, split: Split, how: Acceleration
) -> None:
    model, recipe = loaded.model, loaded.recipe
    if how.pruning == "structured":
        prune_structure(model, split, recipe, how.prune)
    else:
        prune_magnitude(model, how.prune)
    if how.epochs:
        gentle = replace(
            recipe,
            epochs=how.epochs,
            patience=how.epochs,
            learning_rate=RATE * recipe.learning_rate,
        )
        with tempfile.TemporaryDirectory() as scratch:
            finetune(model, interactions, split, gentle, Path(scratch) / "finetune.pt")
    make_permanent(model)
    model.eval()


def _write(loaded: LoadedModel, how: Acceleration, target: Path) -> None:
    model = loaded.model.folded().eval()
    save_model(
        target, model, loaded.recipe, loaded.items, {}, loaded.attributes, loaded.profile
    )
    if how.quantise:
        weights = compressed(model)
        write_atomically(target / "weights.safetensors", lambda path: save_file(weights, path))
    if how.onnx:
        export_encoder(model, target, int8=how.quantise == "int8")
    _write_json(target / SETTINGS, asdict(how))


def _write_json(file: Path, content: dict) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(file, lambda path: path.write_text(text))


def _latencies(
    runtimes: Sequence[Ranker], interactions: Interactions, split: Split
) -> list[np.ndarray]:
    """Seconds of each request, one history at a time, for each runtime."""
    users = np.flatnonzero(split.test_target >= 0)
    chosen = users[np.linspace(0, len(users) - 1, REQUESTS).astype(np.int64)]
    histories = [interactions.of(user)[:-1] for user in chosen]
    times = np.empty((len(runtimes), REQUESTS))
    for request, history in enumerate([*histories[:WARM_UP], *histories], start=-WARM_UP):
        for number, runtime in enumerate(runtimes):
            start = time.perf_counter()
            runtime.recommend([history], CUTOFF)
            times[number, request] = time.perf_counter() - start
    return list(times)


def _figures(folder: Path, seconds: np.ndarray, metrics: dict[str, float]) -> Figures:
    p50, p99 = np.percentile(1000 * seconds, [50, 99])
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Figures(size, round(float(p50), 3), round(float(p99), 3), metrics)


def _steps(how: Acceleration, progress: Progress | None) -> Callable[[str], None]:
    """A function that reports the next step."""
    done, total = -1, 5 if how.prune else 4

    def say(text: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, text)

    return say
