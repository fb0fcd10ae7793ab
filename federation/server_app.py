"""The server's part of a federated run, as a Flower ServerApp.

A round is one message to every site and one reply. The message carries the global model; the site
evaluates it on its own held-out users and then, if it was chosen, trains it and sends back how
the weights changed. So the model of round r is evaluated in the exchange of round r + 1 and that of the last
round in a final exchange without training: rounds + 1 exchanges, where sending training and
evaluation apart, as Flower's own strategies do, takes 2 x rounds and every model twice.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from federation.checkpoint import Checkpoint, Record, exclusive, write_records
from federation.errors import FederationError
from federation.files import new_folder
from federation.metrics import average_metrics
from federation.protocol import Task, pack, size_of, unpack, vocabulary_digest
from federation.selection import select
from federation.settings import RunSettings
from federation.strategies.make import make_strategy
from federation.updates import Update, Weights, check_update
from recsys.artifact import LoadedModel, load_model, save_model

POLL_SECONDS = 0.25
# Time that a site gets to come back, after a restart or over a lost link, before it is missing.
JOIN_SECONDS = 900.0

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
    strategy = make_strategy(settings)
    task = Task(
        number=0,
        train=False,
        recipe=json.dumps(initial.recipe.to_dict()),
        vocabulary=vocabulary_digest(initial.items),
        local_epochs=settings.local_epochs,
        proximal_mu=settings.proximal_mu,
        seed=settings.seed,
    )
    for number in range(state.number + 1, settings.rounds + 1):
        log.info("round %d of %d", number, settings.rounds)
        began = time.monotonic()
        chosen = select(
            settings.sites, number, fraction=settings.fraction, seed=settings.seed
        )
        replies, traffic = _exchange(
            grid, settings, state.weights, replace(task, number=number), chosen
        )
        _complete(state.records[-1], replies)
        write_records(run, state.records)
        accepted, refused = _accept(state.weights, replies, chosen)
        weights, memory = strategy.aggregate(state.weights, accepted, state.strategy)
        examples = sum(update.examples for update in accepted)
        record: Record = {
            "round": number,
            "loss": sum(update.loss * update.examples for update in accepted) / examples,
            **traffic,
            "seconds": round(time.monotonic() - began, 3),
            "trained": {
                update.site: {"examples": update.examples, "loss": update.loss}
                for update in accepted
            },
            "refused": refused,
        }
        state = Checkpoint(number, weights, memory, [*state.records, record])
        state.save(run)
    last = replace(task, number=settings.rounds + 1)
    replies, _ = _exchange(grid, settings, state.weights, last, [])
    _complete(state.records[-1], replies)
    write_records(run, state.records)
    metrics = average_metrics({site: dict(reply["test"]) for site, reply in replies.items()})
    _write_artifact(run, initial, state.weights, metrics)


def _exchange(
    grid: Grid,
    settings: RunSettings,
    weights: Weights,
    task: Task,
    chosen: list[str],
) -> tuple[dict[str, RecordDict], dict[str, int]]:
    """Send the global model to every site and collect all the replies.

    Flower gives up on a site that was silent for a minute. Such a site is asked again once it is
    back, and the time for an answer starts anew.

    Returns
    -------
    replies : dict of str to RecordDict
        By site.
    traffic : dict of str to int
        Bytes of the arrays, metrics and settings sent to ("bytes_down") and by ("bytes_up") the
        sites.

    Raises
    ------
    FederationError
        If a site is not connected, does not answer in time, or fails.
    """
    model = pack(weights)
    waiting: dict[str, str] = {}
    replies: dict[str, RecordDict] = {}
    bytes_down = 0

    def ask(nodes: dict[str, int]) -> float:
        nonlocal bytes_down
        messages = [
            Message(
                RecordDict(
                    {"model": model, "task": replace(task, train=site in chosen).to_record()}
                ),
                node,
                MessageType.TRAIN if chosen else MessageType.EVALUATE,
                ttl=settings.round_timeout,
                group_id=str(task.number),
            )
            for site, node in nodes.items()
        ]
        waiting.update(zip(grid.push_messages(messages), nodes, strict=True))
        bytes_down += sum(size_of(message.content) for message in messages)
        return time.monotonic() + settings.round_timeout

    deadline = ask(_nodes(grid, settings.sites))
    lost: set[str] = set()
    # Flower's own send_and_receive looks for replies every three seconds only.
    while True:
        for reply in grid.pull_messages(list(waiting)):
            site = waiting.pop(reply.metadata.reply_to_message_id)
            if not reply.has_error():
                replies[site] = reply.content
            elif reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                log.warning("the link to site %r is lost; its work waits until it is back", site)
                lost.add(site)
            else:
                raise FederationError(f"Site {site!r} failed: {_reason(reply.error.reason)}")
        if back := {n.name: n.node_id for n in grid.get_nodes() if n.name in lost} if lost else {}:
            log.info("back again: %s", _listed(back))
            deadline = ask(back)
            lost -= back.keys()
        if not waiting and not lost:
            break
        if time.monotonic() > deadline:
            raise FederationError(
                f"No answer from {_listed([*waiting.values(), *sorted(lost)])} in round "
                f"{task.number} within {settings.round_timeout:g} s: read the log of the SuperNode "
                "and of the client executor there."
            )
        time.sleep(POLL_SECONDS)
    bytes_up = sum(size_of(reply) for reply in replies.values())
    traffic = {"bytes_down": bytes_down, "bytes_up": bytes_up}
    return {site: replies[site] for site in settings.sites}, traffic


def _nodes(grid: Grid, sites: tuple[str, ...]) -> dict[str, int]:
    """Node ids of the sites, once all are connected."""
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        connected = {node.name: node.node_id for node in grid.get_nodes()}
        missing = [site for site in sites if site not in connected]
        if not missing:
            return {site: connected[site] for site in sites}
        if time.monotonic() > deadline:
            raise FederationError(
                f"Not connected: {_listed(missing)}. Start the SuperNode there, or read its log."
            )
        time.sleep(POLL_SECONDS)


def _accept(
    weights: Weights, replies: dict[str, RecordDict], chosen: list[str]
) -> tuple[list[Update], dict[str, str]]:
    """Sort the chosen sites' replies into usable updates and the sentences that refuse others."""
    accepted, refused = [], {}
    for site in chosen:
        try:
            update = _update(site, replies[site])
            check_update(weights, update)
            accepted.append(update)
        except FederationError as error:
            log.warning("%s", error)
            refused[site] = str(error)
    if not accepted:
        raise FederationError(f"No usable update in this round. {' '.join(refused.values())}")
    return accepted, refused


def _update(site: str, reply: RecordDict) -> Update:
    try:
        return Update(site, unpack(reply["delta"]), **reply["train"])
    except (KeyError, TypeError, FederationError) as error:
        raise FederationError(f"Site {site!r} sent no usable update: {error}") from error


def _complete(record: Record, replies: dict[str, RecordDict]) -> None:
    """Add the sites' evaluation of a round's model to the record of that round."""
    sites = {site: dict(reply["validation"]) for site, reply in replies.items()}
    record["metrics"] = average_metrics(sites)
    record["sites"] = sites


def _weights_of(model: LoadedModel) -> Weights:
    return {name: tensor.numpy().copy() for name, tensor in model.model.state_dict().items()}


def _write_artifact(
    run: Path, initial: LoadedModel, weights: Weights, metrics: dict[str, float]
) -> None:
    import torch

    initial.model.load_state_dict(
        {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    )
    with new_folder(run / "artifact") as folder:
        save_model(folder, initial.model, initial.recipe, initial.items, metrics)


def _reason(text: str) -> str:
    """The sentence in a ClientApp's error, which Flower sends as ``<class '…'>:<'sentence'>``."""
    match = re.fullmatch(r"<class '[^']*'>:<'(.*)'>", text, re.DOTALL)
    return match.group(1) if match else text


def _listed(sites: Iterable[str]) -> str:
    return ", ".join(f"site {site!r}" for site in sites)
