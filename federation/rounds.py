"""How a round begins and ends, whether its sites were waited for or not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from federation.asking import Run
from federation.checkpoint import Checkpoint, Record, digest, write_records
from federation.downlink import advance, combine
from federation.ledger import save_updates
from federation.metrics import average_metrics
from federation.privacy.ledger import LEDGER, Ledger
from federation.privacy.rounds import charge
from federation.screening import suspects
from federation.settings import RunSettings
from federation.strategies.make import make_strategy
from federation.updates import Update, Weights

log = logging.getLogger("flwr")


def rate(settings: RunSettings, number: int) -> float:
    """Share of the learning rate in a round: falls linearly, to the final one in the last."""
    done = (number - 1) / max(settings.rounds - 1, 1)
    return 1 - (1 - settings.final_rate) * done


def pay(run: Run, number: int, sites: Sequence[str]) -> dict[str, float]:
    """Charge a round of these sites to the run's ledger; the ε then spent, for the record."""
    if run.terms is None:
        return {}
    ledger = Ledger(run.folder / LEDGER)
    requests = [(site, "") for site in sites]  # a site is asked only once in a round of a run
    epochs = run.settings.local_epochs
    return {"epsilon": charge(ledger, run.terms, run.task.run, number, requests, epochs)}


def close(
    run: Run,
    state: Checkpoint,
    updates: list[Update],
    measured: Mapping[str, Mapping[str, float]],
    record: Record,
) -> Checkpoint:
    """Make the next model of a round's updates, and write down that the round has ended.

    Parameters
    ----------
    updates
        Emptied: a large table has no room for them beside what is made of them.
    measured
        By site: metrics of the model that the round began with.
    record
        What else the round's record shall tell.
    """
    number = state.number + 1
    complete(run, state, measured)
    if run.settings.keep_updates:
        save_updates(run.folder, number, updates)
    found = suspects(updates)
    for sentence in found.values():
        log.warning("round %d: %s", number, sentence)
    examples = sum(update.examples for update in updates)
    loss = sum(update.loss * update.examples for update in updates) / examples
    weights, memory, residual = _combined(run, state, number, updates)
    record = {
        "round": number,
        "loss": loss,
        **record,
        "suspects": dict(sorted(found.items())),
        "model": digest(weights),
    }
    if price := run.settings.egress_price:
        record["cost"] = record["bytes_down"] / 1e9 * price
    after = Checkpoint(number, weights, memory, [*state.records, record], residual)
    after.save(run.folder)
    return after


def complete(run: Run, state: Checkpoint, measured: Mapping[str, Mapping[str, float]]) -> None:
    """Add the sites' metrics to the record of the last round, and publish it."""
    sites = {site: dict(measured[site]) for site in sorted(measured)}
    state.records[-1] |= {"metrics": average_metrics(sites), "sites": sites}
    write_records(run.folder, state.records)


def trained(update: Update, answered: float, moved: int) -> dict[str, Any]:
    """What a round's record tells of a site that trained.

    Parameters
    ----------
    answered
        Seconds from the question to the answer.
    moved
        Bytes of both.
    """
    return {
        "examples": update.examples,
        "loss": update.loss,
        "seconds": round(update.seconds, 3),
        "answered": answered,
        "bytes": moved,
    }


def _combined(
    run: Run, state: Checkpoint, number: int, updates: list[Update]
) -> tuple[Weights, Weights, Weights]:
    """New weights, the strategy's new state, and what the round's message leaves out."""
    strategy = make_strategy(run.settings)
    if run.messages is None:
        return *strategy.aggregate(state.weights, updates, state.strategy), {}
    change, memory = combine(strategy, state.weights, updates, state.strategy)
    updates.clear()
    # In place: the weights may be large, and those of the round before are needed no more.
    message, residual = advance(state.weights, change, state.residual, run.settings.coding)
    run.messages.keep(number, message)
    return state.weights, memory, residual
