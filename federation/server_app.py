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
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation.asking import Answer, Run, ask
from federation.asynchronous import BufferedRounds
from federation.checkpoint import Checkpoint, exclusive, identity
from federation.downlink import Messages
from federation.errors import FederationError
from federation.exchange import Exchange
from federation.files import new_folder, room_for
from federation.metrics import average_metrics
from federation.privacy.ledger import budget_spent
from federation.privacy.rounds import Terms, agree_terms, keep_with_model
from federation.protocol import Task, vocabulary_digest
from federation.rounds import close, complete, pay, rate, trained
from federation.secure.encrypted import EncryptedRounds
from federation.secure.rounds import train_secretly
from federation.selection import select
from federation.settings import RunSettings
from federation.updates import Update, Weights
from recsys.artifact import LoadedModel, load_model, save_model
from recsys.finetune import fewest_steps

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
    folder = settings.folder
    initial = load_model(folder / "initial")
    state = Checkpoint.load(folder) or Checkpoint(0, _weights_of(initial), {}, [{"round": 0}])
    terms = _terms(settings)
    keep_moments = settings.keep_moments and terms is None
    task = Task(
        run=identity(folder),
        number=0,
        version=0,
        train=False,
        recipe=json.dumps(initial.recipe.to_dict()),
        vocabulary=vocabulary_digest(initial.items),
        local_epochs=settings.local_epochs,
        proximal_mu=settings.proximal_mu,
        keep_moments=keep_moments,
        by_row=settings.by_row,
        fewest_steps=fewest_steps(settings.rounds * settings.local_epochs, keep_moments),
        personal=settings.personal,
        seed=settings.seed,
        compression=settings.compression,
        share=settings.share,
        privacy=terms.to_text() if terms else "none",
    )
    messages = None if settings.compression == "none" else Messages(folder / "messages")
    run = Run(grid, settings, task, terms, messages)
    if settings.strategy == "fedbuff":
        one_round = BufferedRounds(run, state).round
    else:
        one_round = partial(_round, run, _way_to_train(run))
    while state.number < settings.rounds:
        log.info("round %d of %d", state.number + 1, settings.rounds)
        try:
            state = one_round(state)
        except FederationError as error:
            if not budget_spent(error):
                raise
            log.warning("the run ends after round %d: %s", state.number, error)
            state.records[-1]["halted"] = str(error)
            break
    last = replace(task, number=settings.rounds + 1, version=state.number)
    result = ask(run, state, last, [])
    figures = {site: answer.reply.figures for site, answer in result.answers.items()}
    complete(run, state, {site: parts["validation"] for site, parts in figures.items()})
    metrics = average_metrics({site: parts["test"] for site, parts in figures.items()})
    _write_artifact(folder, initial, state.weights, metrics)


# Lets chosen sites train; gives all sites' answers, and the updates.
Train = Callable[[Checkpoint, Task, list[str]], tuple[Exchange[Answer], list[Update]]]


def _way_to_train(run: Run) -> Train:
    ways: dict[str, Callable[[], Train]] = {
        "none": lambda: partial(_train, run),
        "masks": lambda: partial(train_secretly, run),
        "ckks": lambda: EncryptedRounds(run).train,
    }
    return ways[run.settings.secure]()


def _round(run: Run, train: Train, state: Checkpoint) -> Checkpoint:
    """A round that waits for the sites it chose: the state after it."""
    settings, number = run.settings, state.number + 1
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
    task = replace(run.task, number=number, version=state.number, rate=rate(settings, number))
    spent = pay(run, number, chosen)
    result, updates = train(state, task, chosen)
    record = {
        "bytes_down": result.bytes_down,
        "bytes_up": result.bytes_up,
        "seconds": round(time.monotonic() - began, 3),
        "trained": {
            update.site: trained(update, result.seconds[update.site], result.moved[update.site])
            for update in updates
        },
        "refused": dict(sorted(result.refused.items())),
        "asked": sorted(chosen),
    }
    measured = {
        site: answer.reply.figures["validation"] for site, answer in result.answers.items()
    }
    del result  # which holds the updates too, and `close` lets go of them
    return close(run, state, updates, measured, record | spent)


def _train(
    run: Run, state: Checkpoint, task: Task, chosen: list[str]
) -> tuple[Exchange[Answer], list[Update]]:
    result = ask(run, state, task, chosen)
    return result, [result.answers[site].update for site in chosen if site in result.answers]


def _terms(settings: RunSettings) -> Terms | None:
    """Terms of a private run."""
    if not settings.dp_epsilon:
        return None
    return agree_terms(
        settings.folder, epsilon=settings.dp_epsilon, delta=settings.dp_delta,
        clip=settings.dp_clip, rounds=settings.rounds, local_epochs=settings.local_epochs,
    )  # fmt: skip


def _weights_of(model: LoadedModel) -> Weights:
    # The model's own memory: it is needed only as what the result is written with.
    return {name: tensor.numpy() for name, tensor in model.model.state_dict().items()}


def _write_artifact(
    run: Path, initial: LoadedModel, weights: Weights, metrics: dict[str, float]
) -> None:
    import torch

    if (run / "artifact").exists():
        return  # by a ServerApp that was killed right afterwards
    initial.model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in weights.items()}
    )
    with room_for(run / "artifact"), new_folder(run / "artifact") as folder:
        save_model(
            folder, initial.model, initial.recipe, initial.items, metrics, initial.attributes,
            initial.profile,
        )  # fmt: skip
        keep_with_model(run, folder)
