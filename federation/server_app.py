"""The server's part of a federated run, as a Flower ServerApp.

A round is one message to every site and one reply. The message carries the global model; the site
evaluates it on its own held-out users and then, if it was chosen, trains it and sends back how
the weights changed. So the model of round r is evaluated in the exchange of round r + 1 and that
of the last round in a final exchange without training: rounds + 1 exchanges, where sending
training and evaluation apart, as Flower's own strategies do, takes 2 x rounds and every model
twice.

A ServerApp may be killed at any moment. The next one goes on from the checkpoint and asks the
sites the same again, which answer with the same bytes (:mod:`federation.site_state`).
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import save

from federation.checkpoint import (
    Checkpoint,
    Record,
    digest,
    exclusive,
    identity,
    write_records,
)
from federation.compression import decode
from federation.downlink import WHOLE, Behind, Messages, Outgoing, advance, combine
from federation.errors import FederationError
from federation.exchange import Exchange, exchange
from federation.files import new_folder
from federation.ledger import save_updates
from federation.metrics import average_metrics, check_metrics
from federation.privacy.ledger import LEDGER, Ledger, budget_spent
from federation.privacy.rounds import Terms, agree_terms, charge, keep_with_model
from federation.protocol import Reply, Task, vocabulary_digest, write_model
from federation.secure.messages import read as read_message
from federation.secure.server import prepare, total
from federation.selection import select
from federation.settings import RunSettings
from federation.strategies.make import make_strategy
from federation.updates import Delta, Update, Weights, check_update
from recsys.artifact import LoadedModel, load_model, save_model

# What a reply may have where the settings say nothing: the model twice (a change and what a
# strategy asks for besides), and room for figures.
REPLY_MODELS = 2
REPLY_ROOM = 1 << 20

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are not done yet and write the resulting artefact."""
    settings = RunSettings.from_config(context.run_config)
    with exclusive(settings.folder):
        record = logging.FileHandler(settings.folder / "server.log")
        record.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(record)
        try:
            _run(grid, settings)
        except FederationError as error:
            log.error("%s", error)
            raise
        finally:
            log.removeHandler(record)
            record.close()


def _run(grid: Grid, settings: RunSettings) -> None:
    run = settings.folder
    initial = load_model(run / "initial")
    state = Checkpoint.load(run) or Checkpoint(0, _weights_of(initial), {}, [{"round": 0}])
    terms = _terms(settings)
    task = Task(
        run=identity(run),
        number=0,
        version=0,
        train=False,
        recipe=json.dumps(initial.recipe.to_dict()),
        vocabulary=vocabulary_digest(initial.items),
        local_epochs=settings.local_epochs,
        proximal_mu=settings.proximal_mu,
        personal=settings.personal,
        seed=settings.seed,
        compression=settings.compression,
        share=settings.share,
        privacy=terms.to_text() if terms else "none",
    )
    messages = None if settings.compression == "none" else Messages(run / "messages")
    for number in range(state.number + 1, settings.rounds + 1):
        log.info("round %d of %d", number, settings.rounds)
        began = time.monotonic()
        chosen = select(
            settings.sites,
            number,
            state.records,
            rule=settings.selection,
            fraction=settings.fraction,
            deadline=settings.answer_within or math.inf,
            seed=settings.seed,
        )
        asked = replace(task, number=number, version=number - 1, rate=_rate(settings, number))
        try:
            spent = _pay(settings, terms, asked, chosen)
            train = _train_secretly if settings.secure != "none" else _train
            result, updates = train(grid, settings, state, messages, asked, chosen)
        except FederationError as error:
            if not budget_spent(error):
                raise
            log.warning("the run ends after round %d: %s", state.number, error)
            state.records[-1]["halted"] = str(error)
            break
        _complete(state.records[-1], result)
        write_records(run, state.records)
        if settings.keep_updates:
            save_updates(run, number, updates)
        record = _record(number, updates, result, time.monotonic() - began) | spent
        weights, memory, residual = _combine(settings, state, messages, number, updates)
        record |= {"asked": sorted(chosen), "model": digest(weights)}
        state = Checkpoint(number, weights, memory, [*state.records, record], residual)
        state.save(run)
    last = replace(task, number=settings.rounds + 1, version=state.number)
    result = _exchange(grid, settings, state, messages, last, [])
    _complete(state.records[-1], result)
    write_records(run, state.records)
    metrics = average_metrics(
        {site: answer.reply.figures["test"] for site, answer in result.answers.items()}
    )
    _write_artifact(run, initial, state.weights, metrics)


def _combine(
    settings: RunSettings,
    state: Checkpoint,
    messages: Messages | None,
    number: int,
    updates: list[Update],
) -> tuple[Weights, Weights, Delta]:
    """New weights, the strategy's new state, and what the round's message leaves out."""
    strategy = make_strategy(settings)
    if messages is None:
        return *strategy.aggregate(state.weights, updates, state.strategy), {}
    change, memory = combine(strategy, state.weights, updates, state.strategy)
    # In place: the weights may be large, and those of the round before are needed no more.
    message, residual = advance(state.weights, change, state.residual, settings.coding)
    messages.keep(number, message)
    return state.weights, memory, residual


def _terms(settings: RunSettings) -> Terms | None:
    """Terms of a private run."""
    if not settings.dp_epsilon:
        return None
    return agree_terms(
        settings.folder, epsilon=settings.dp_epsilon, delta=settings.dp_delta,
        clip=settings.dp_clip, rounds=settings.rounds, local_epochs=settings.local_epochs,
    )  # fmt: skip


def _pay(
    settings: RunSettings, terms: Terms | None, task: Task, chosen: list[str]
) -> dict[str, float]:
    """Charge a round to the run's ledger; the ε then spent, for the round's record."""
    if terms is None:
        return {}
    ledger = Ledger(settings.folder / LEDGER)
    requests = [(site, "") for site in chosen]  # a round of a run is asked only once
    epochs = settings.local_epochs
    return {"epsilon": charge(ledger, terms, task.run, task.number, requests, epochs)}


@dataclass(frozen=True)
class _Answer:
    """A site's reply and, if it trained, its usable update."""

    reply: Reply
    update: Update | None


def _rate(settings: RunSettings, number: int) -> float:
    """Share of the learning rate in a round: falls linearly, to the final one in the last."""
    done = (number - 1) / max(settings.rounds - 1, 1)
    return 1 - (1 - settings.final_rate) * done


def _exchange(
    grid: Grid,
    settings: RunSettings,
    state: Checkpoint,
    messages: Messages | None,
    task: Task,
    chosen: list[str],
) -> Exchange[_Answer]:
    """Ask every site about the global model; see :func:`federation.exchange.exchange`."""
    outgoing = Outgoing(state.weights, state.number, messages, _held(state.records))
    along = {}
    if settings.strategy == "scaffold":
        along["control"] = write_model({WHOLE: save(state.strategy)})
    size = sum(array.nbytes for array in state.weights.values())
    limit = settings.reply_limit or REPLY_MODELS * size + REPLY_ROOM
    parts = ["validation"] if chosen else ["validation", "test"]

    def read(site: str, content: RecordDict) -> _Answer:
        if "behind" in content and outgoing.has_lost(site):
            raise Behind(f"Site {site!r} does not hold the model of an earlier round.")
        reply = Reply.from_content(content, site=site, task=task, limit=limit)
        for part in parts:
            check_metrics(site, reply.figures.get(part, {}))
        if site not in chosen:
            return _Answer(reply, None)
        if task.secure != "none":
            check_masked(reply)
            return _Answer(reply, None)
        return _Answer(reply, _update(state.weights, reply, bool(along)))

    # Sites that get the same share it: a model may be large, and the sites many.
    made: dict[tuple[str, ...], ArrayRecord] = {}

    def sent(site: str) -> dict[str, ArrayRecord]:
        parts = outgoing.parts(site)
        names = tuple(parts)
        if names not in made:
            made[names] = write_model(parts)
        return {"model": made[names], **along}

    return exchange(grid, settings, task, sent, chosen, read)


def _train(
    grid: Grid,
    settings: RunSettings,
    state: Checkpoint,
    messages: Messages | None,
    task: Task,
    chosen: list[str],
) -> tuple[Exchange[_Answer], list[Update]]:
    """A round in which each site sends its update."""
    result = _exchange(grid, settings, state, messages, task, chosen)
    return result, [result.answers[site].update for site in chosen if site in result.answers]


def _train_secretly(
    grid: Grid,
    settings: RunSettings,
    state: Checkpoint,
    messages: Messages | None,
    task: Task,
    chosen: list[str],
) -> tuple[Exchange[_Answer], list[Update]]:
    """A round in which the server learns the mean of the sites' updates alone."""
    traffic = {"bytes_down": 0, "bytes_up": 0}

    def ask(questions: dict[str, str]) -> dict[str, dict[str, Any]]:
        head = {"run": task.run, "number": task.number}
        contents = {
            site: RecordDict({"secure": ConfigRecord(head | {"text": text})})
            for site, text in questions.items()
        }

        def told(site: str, content: RecordDict) -> dict[str, Any]:
            reply = Reply.from_content(content, site=site, task=task, limit=REPLY_ROOM)
            return read_message(reply.blobs.get("secure", b"").decode(errors="replace"))

        result = exchange(grid, settings, task, lambda site: {}, [], told, contents)
        for way in traffic:
            traffic[way] += getattr(result, way)
        return result.answers

    about = f"{task.run}/{task.number}/{replace(task, train=True).digest(state.weights)}"
    prepared = prepare(
        ask, state.weights, chosen, about=about, rows=settings.secure_rows, seed=settings.seed,
        number=task.number,
    )  # fmt: skip
    planned = replace(task, secure=prepared.plan.to_text())
    members = sorted(prepared.plan.weights)
    result = _exchange(grid, settings, state, messages, planned, members)
    replies = {site: result.answers[site].reply for site in members if site in result.answers}
    delta = total(ask, prepared, {site: reply.blobs["masked"] for site, reply in replies.items()})
    figures = {site: reply.figures["train"] for site, reply in replies.items()}
    examples = {site: int(figure["examples"]) for site, figure in figures.items()}
    count = sum(examples.values())
    loss = sum(figures[site]["loss"] * examples[site] for site in figures) / count
    update = Update("sum of " + ", ".join(figures), delta, count, loss)
    check_update(state.weights, update)
    # The sum has come when the last site's part has.
    result.seconds[update.site] = max(result.seconds[site] for site in replies)
    result.moved[update.site] = sum(result.moved[site] for site in replies)
    result.bytes_down += traffic["bytes_down"]
    result.bytes_up += traffic["bytes_up"]
    return result, [update]
def _held(records: list[Record]) -> dict[str, int]:
    """Round of the model that each site is known to hold: the last one that it evaluated."""
    return {site: record["round"] for record in records for site in record.get("sites", {})}


def _update(weights: Weights, reply: Reply, controlled: bool) -> Update:
    """The usable update in a reply."""
    try:
        delta = decode(reply.blobs["delta"], weights)
        extra = decode(reply.blobs["extra"], weights) if controlled else {}
        update = Update(reply.site, delta, extra=extra, **reply.figures["train"])
    except (KeyError, TypeError, FederationError) as error:
        raise FederationError(f"Site {reply.site!r} sent no usable update: {error}") from error
    check_update(weights, update)
    return update


def check_masked(reply: Reply) -> None:
    """Refuse the reply of a site that takes part in a secure sum without what it is of."""
    try:
        examples, loss = int(reply.figures["train"]["examples"]), reply.figures["train"]["loss"]
    except KeyError as error:
        raise FederationError(f"Site {reply.site!r} left {error} out of its reply.") from error
    if "masked" not in reply.blobs or examples < 1 or not math.isfinite(loss):
        raise FederationError(f"Site {reply.site!r} sent no usable part of the secure sum.")


def _record(
    number: int, updates: list[Update], result: Exchange[_Answer], seconds: float
) -> Record:
    examples = sum(update.examples for update in updates)
    return {
        "round": number,
        "loss": sum(update.loss * update.examples for update in updates) / examples,
        "bytes_down": result.bytes_down,
        "bytes_up": result.bytes_up,
        "seconds": round(seconds, 3),
        "trained": {
            update.site: {
                "examples": update.examples,
                "loss": update.loss,
                "seconds": round(update.seconds, 3),
                "answered": result.seconds[update.site],
                "bytes": result.moved[update.site],
            }
            for update in updates
        },
        "refused": dict(sorted(result.refused.items())),
    }


def _complete(record: Record, result: Exchange[_Answer]) -> None:
    """Add the sites' evaluation of a round's model to the record of that round."""
    sites = {
        site: result.answers[site].reply.figures["validation"] for site in sorted(result.answers)
    }
    record["metrics"] = average_metrics(sites)
    record["sites"] = sites


def _weights_of(model: LoadedModel) -> Weights:
    # The model's own memory: it is needed only as what the result is written with.
    return {name: tensor.numpy() for name, tensor in model.model.state_dict().items()}


def _write_artifact(
    run: Path, initial: LoadedModel, weights: Weights, metrics: dict[str, float]
) -> None:
    import torch

    initial.model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in weights.items()}
    )
    with new_folder(run / "artifact") as folder:
        save_model(
            folder, initial.model, initial.recipe, initial.items, metrics, initial.attributes
        )
        keep_with_model(run, folder)
