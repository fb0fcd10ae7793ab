"""How a federated run will go: what the planner needs to know of an environment, and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.application import Application
from federation.compression import Compression
from federation.history import past_runs
from federation.planner import SCHEMES, Budget, Plan, Site, choose, expected_touched, measured, plan

if TYPE_CHECKING:
    from recsys.data.interactions import Interactions
    from recsys.recipe import Recipe


@dataclass(frozen=True)
class Wish:
    """What the operator asks of a run's traffic.

    Attributes
    ----------
    compression : str
        A method of `federation.compression`, or "auto" to stay in the budget.
    share : float
        Of "topk".
    budget : Budget
        Of the whole run.
    bandwidth : float or None
        Bytes a second of every site's link; None for what earlier rounds measured.
    prices : Path or None
        A table in place of infra/prices.yaml.
    """

    compression: str = "none"
    share: float = 0.1
    budget: Budget = Budget()
    bandwidth: float | None = None
    prices: Path | None = None

    def settings(self) -> dict[str, Any]:
        """What of it makes a run another run."""
        if self.compression == "auto":
            return {"compression": "auto", **asdict(self.budget)}
        return {"compression": self.compression, "share": self.share}


@dataclass(frozen=True)
class Planned:
    """The run that was chosen, and beside it the same with each other compression.

    `price` is that of egress, in US dollars for a GB.
    """

    chosen: Plan
    others: list[Plan]
    price: float


def plan_run(
    model: Path,
    shares: Mapping[str, Interactions | None],
    runs: Path,
    wish: Wish,
    *,
    rounds: int = 5,
    local_epochs: int = 1,
    buffer: int = 0,
    at_once: int = 0,
    keep_moments: bool = True,
) -> Planned:
    """Reckon a run, or pick one that stays in the budget.

    Parameters
    ----------
    model
        Artefact that the run starts from.
    shares
        Each site's interactions; None where only the site has them.
    runs
        Folder of earlier runs, whose measurements count.
    rounds, local_epochs
        As asked for; `Planned.chosen` may have others.
    buffer, at_once
        See :func:`federation.planner.plan`.
    keep_moments
        See :class:`federation.settings.RunSettings`.
    """
    from infra.cost import read_prices
    from recsys.finetune import fewest_steps

    price = max(read_prices(wish.prices).traffic.egress.values())
    shapes, recipe = _read(model)
    known: dict[str, Any] = {}
    for run in reversed(past_runs(runs)):
        known |= measured(run.records, run.settings["local_epochs"])
    steps = fewest_steps(rounds * local_epochs, keep_moments)
    sites = []
    for name, interactions in shares.items():
        speed, seconds = known.get(name, (None, None))
        touched = 1.0 if interactions is None else _touched(recipe, interactions, steps)
        sites.append(Site(name, touched, wish.bandwidth or speed, seconds))
    how = {
        "rounds": rounds, "local_epochs": local_epochs, "price": price, "buffer": buffer,
        "at_once": at_once,
    }  # fmt: skip
    if wish.compression == "auto":
        chosen = choose(shapes, sites, wish.budget, **how)
    else:
        chosen = plan(shapes, sites, Compression(wish.compression, wish.share), **how)
    kept = [site for site in sites if site.name in chosen.sites]
    how |= {"rounds": chosen.rounds, "local_epochs": chosen.local_epochs}
    others = [plan(shapes, kept, s, **how) for s in SCHEMES if s != chosen.compression]
    return Planned(chosen, others, price)


def show_plan(app: Application, planned: Planned) -> None:
    """Tell people on standard error what a run will take."""
    chosen = planned.chosen
    app.say(
        f"{_counted(chosen.rounds, 'round')} of {_counted(chosen.local_epochs, 'local epoch')} on "
        f"{', '.join(chosen.sites)}, compression {chosen.compression}:"
    )
    app.show_table(
        ["compression", "MB down", "MB up", "s", "USD", "run MB", "run s", "run USD"],
        [
            [
                f"{each.compression} *" if each is chosen else str(each.compression),
                f"{each.bytes_down / 1e6:.3f}",
                f"{each.bytes_up / 1e6:.3f}",
                _seconds(each.seconds),
                f"{each.cost:.5f}",
                f"{each.run_bytes / 1e6:.2f}",
                _seconds(each.run_seconds),
                f"{each.run_cost:.5f}",
            ]
            for each in sorted([chosen, *planned.others], key=lambda each: -each.run_bytes)
        ],
    )


def _read(model: Path) -> tuple[dict[str, tuple[int, ...]], Recipe]:
    """Shapes of the model's trained arrays, and its recipe."""
    import json

    from safetensors import safe_open

    from recsys.recipe import Recipe

    recipe = Recipe.from_dict(json.loads((model / "recipe.json").read_text()))
    shapes = {}
    with safe_open(model / "weights.safetensors", framework="numpy") as stored:
        for name in stored.keys():  # noqa: SIM118
            part = stored.get_slice(name)
            if part.get_dtype().startswith("F"):
                shapes[name] = tuple(part.get_shape())
    return shapes, recipe


def _touched(recipe: Recipe, interactions: Interactions, fewest_steps: int) -> float:
    """Share of the items whose vectors one pass over a site's interactions changes."""
    from recsys.packing import events_a_step, training_windows

    items = len(interactions.items)
    if recipe.loss == "softmax" or recipe.negatives >= items:
        return 1.0
    windows = training_windows(interactions, recipe.length, targets=True)
    events = int(windows.lengths.sum())
    size = events_a_step(windows, recipe.batch_tokens, fewest_steps)
    steps = -(-events // size) if events else 0
    distinct = len(np.unique(interactions.sequence))
    return expected_touched(items, distinct, steps * recipe.negatives)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"
