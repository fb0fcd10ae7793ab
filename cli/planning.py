"""A plan made in this process: programs captured, compared with the state, held against rules."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from datetime import date

from cli.changes import CHANGING, Change, LayerResult
from cli.checkpoint import recorded
from cli.environment import Environment
from cli.errors import CommandError
from cli.layers import LAYERS
from cli.options import MODEL_MIB
from infra.cost import Cost, Prices, monthly_cost, read_prices, round_sentence
from infra.difference import Step, compare
from infra.policy.review import Finding, review
from infra.resources import Declared, Recorded


@dataclass(frozen=True)
class Captured:
    """What an environment's programs declare, beside what its state records."""

    declared: list[Declared]
    recorded: dict[str, Recorded]

    def layers(self) -> list[LayerResult]:
        """Changes by layer, as the engine's preview tells them."""
        results = {layer: LayerResult(layer) for layer in LAYERS}
        for step in compare(self.declared, self.recorded):
            layer = step.resource.urn.split("::")[0].rpartition(".")[2]
            results[layer].resources += 1
            if step.operation in CHANGING:
                results[layer].changes.append(_change(layer, step))
        return list(results.values())


@dataclass(frozen=True)
class Assessment:
    """What a plan means: rules it breaks, a month's cost before and after, a federated round's."""

    findings: list[Finding]
    before: Cost
    after: Cost
    round: str
    budget: float | None = None

    @property
    def over_budget(self) -> str | None:
        """That a month could cost more than the budget, in a sentence."""
        if self.budget is None or self.after.high <= self.budget:
            return None
        return f"That is more than budget.monthly_usd {self.budget:.2f}: it stops `hybrid up`."


def assess(environment: Environment, captured: Captured, prices: Prices) -> Assessment:
    """Hold a plan against the rules and price it."""
    findings = policy_findings(environment, captured.declared)
    settings = environment.settings
    told = round_sentence(len(settings.sites), MODEL_MIB, prices, settings.gpu_pool.cloud)
    limit = settings.budget.monthly_usd if settings.budget else None
    return Assessment(findings, *costs(environment, captured, prices), told, limit)


def capture(environment: Environment) -> Captured:
    """Run the programs of all layers without the engine.

    For a process that declares nothing through the engine itself: the SDKs are imported without
    what that would need.

    Raises
    ------
    CommandError
        The state cannot be read.
    """
    from stacks.light_sdk import use_light_sdk

    use_light_sdk()
    # Hardly anything that is made here is garbage: looking for some takes a third of the time.
    gc.disable()
    try:
        from stacks.capture import Capture

        known = recorded(environment)
        declared = Capture(environment.name, environment.settings, known).run(LAYERS)
    finally:
        gc.freeze()
        gc.enable()
    return Captured(declared, known)


def require_policies(environment: Environment) -> list[Finding]:
    """Hold what an `up` would make against rules and budget; gives findings that block nothing.

    Raises
    ------
    CommandError
        A mandatory rule is broken and not waived, or the budget is: the sentence names each.
    """
    captured = capture(environment)
    findings = policy_findings(environment, captured.declared)
    blocking = [finding for finding in findings if finding.blocks]
    if blocking:
        told = "\n".join(f"  {f.rule}: {f.resource}: {f.told}" for f in blocking)
        raise CommandError(
            f"{environment.name} breaks {len(blocking)} mandatory rules, so nothing was changed:\n"
            f"{told}\nMend them, or waive them with an expiry in the settings (docs/plans.md)."
        )
    _require_budget(environment, captured)
    return findings


def costs(environment: Environment, captured: Captured, prices: Prices) -> tuple[Cost, Cost]:
    """What a month costs as recorded, and as declared."""
    region = environment.settings.region
    now = list(captured.recorded.values())
    return monthly_cost(now, prices, region), monthly_cost(captured.declared, prices, region)


def _require_budget(environment: Environment, captured: Captured) -> None:
    budget = environment.settings.budget
    if budget is None:
        return
    after = costs(environment, captured, read_prices())[1]
    if after.high > budget.monthly_usd:
        told = "\n".join(
            f"  {item.high:10.2f}  {item.layer}: {item.name}: {item.what}"
            for item in after.items
            if item.high
        )
        raise CommandError(
            f"{environment.name} could cost {after.high:.2f} USD a month, more than "
            f"budget.monthly_usd {budget.monthly_usd:.2f}, so nothing was changed:\n{told}\n"
            "Make it smaller, or raise the budget in the settings."
        )


def policy_findings(environment: Environment, declared: list[Declared]) -> list[Finding]:
    """Violations of the rules today."""
    return review(declared, environment.settings, date.today())


def _change(layer: str, step: Step) -> Change:
    name = step.resource.urn.rpartition("::")[2]
    return Change(
        layer,
        step.operation,
        step.resource.type,
        name,
        list(step.properties),
        list(step.replacing),
    )
