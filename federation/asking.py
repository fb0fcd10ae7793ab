"""What all rounds of a run share, and the question about the model with how its answer is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid
from safetensors.numpy import save

from federation.checkpoint import Checkpoint, Record
from federation.compression import decode
from federation.downlink import WHOLE, Behind, Messages, Outgoing
from federation.errors import FederationError
from federation.exchange import Exchange, exchange
from federation.metrics import check_metrics, is_figure
from federation.privacy.rounds import Terms
from federation.protocol import Reply, Task, write_model
from federation.secure.homomorphic import CIPHERTEXT_BYTES, NUMBERS
from federation.secure.messages import Plan
from federation.settings import RunSettings
from federation.updates import Update, Weights, check_update

# What a reply may have where the settings say nothing: the model twice (a change and what a
# strategy asks for besides), and room for figures.
REPLY_MODELS = 2
REPLY_ROOM = 1 << 20
# What the reply of a site in a secure sum has in the place of its change.
HIDDEN = {"masks": "masked", "ckks": "encrypted"}


@dataclass(frozen=True)
class Run:
    """A run under way.

    Attributes
    ----------
    grid, settings
        Flower's link to the sites, and what is asked for.
    task : Task
        What is the same in every round's task.
    terms : Terms or None
        Of a private run.
    messages : Messages or None
        Of the rounds so far; None if the whole model goes down in every round.
    """

    grid: Grid
    settings: RunSettings
    task: Task
    terms: Terms | None
    messages: Messages | None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.settings.folder


@dataclass(frozen=True)
class Answer:
    """A site's reply and, if it trained and does not hide it, its usable update."""

    reply: Reply
    update: Update | None


def ask(run: Run, state: Checkpoint, task: Task, chosen: list[str]) -> Exchange[Answer]:
    """Ask every site about the global model; see :func:`federation.exchange.exchange`."""
    outgoing = Outgoing(state.weights, state.number, run.messages, held(state.records))
    along = {}
    if run.settings.strategy == "scaffold":
        along["control"] = write_model({WHOLE: save(state.strategy)})

    def read(site: str, content: RecordDict) -> Answer:
        if "behind" in content and outgoing.has_lost(site):
            raise Behind(f"Site {site!r} does not hold the model of an earlier round.")
        return read_answer(
            run, state.weights, task, site, content, last=not chosen, trained=site in chosen
        )

    def sent(site: str) -> dict[str, ArrayRecord]:
        return {"model": outgoing.message(site), **along}

    return exchange(run.grid, run.settings, task, sent, chosen, read)


def read_answer(
    run: Run, weights: Weights, task: Task, site: str, content: RecordDict, *,
    last: bool, trained: bool,
) -> Answer:  # fmt: skip
    """Read what a site sent, of which nothing is believed.

    Parameters
    ----------
    last
        Whether the final model was asked about, so that it is measured on the test items as well.
    trained
        Whether the site was asked to train.

    Raises
    ------
    FederationError
        If it cannot be used.
    """
    size = sum(array.nbytes for array in weights.values())
    usual = REPLY_MODELS * size + REPLY_ROOM
    if run.settings.secure == "ckks":
        usual += CIPHERTEXT_BYTES * (size // (4 * NUMBERS) + 1)
    limit = run.settings.reply_limit or usual
    reply = Reply.from_content(content, site=site, task=task, limit=limit)
    for part in ["validation", "test"] if last else ["validation"]:
        check_metrics(site, reply.figures.get(part, {}))
    if not trained:
        return Answer(reply, None)
    if task.secure != "none":
        _check_hidden(reply, HIDDEN[run.settings.secure], task)
        return Answer(reply, None)
    return Answer(reply, _update(weights, reply, run.settings.strategy == "scaffold"))


def held(records: list[Record]) -> dict[str, int]:
    """Round of the model that each site is known to hold: the last one that it evaluated."""
    known: dict[str, int] = {}
    for record in records:
        if "arrived" in record:
            known |= dict(record["arrived"])
        else:
            known |= dict.fromkeys(record.get("sites", {}), record["round"])
    return known


def _update(weights: Weights, reply: Reply, controlled: bool) -> Update:
    """The usable update in a reply."""
    try:
        delta = decode(reply.blobs["delta"], weights)
        extra = decode(reply.blobs["extra"], weights) if controlled else {}
        figures = (reply.figures["train"][name] for name in ("examples", "loss", "seconds"))
        update = Update(reply.site, delta, *figures, extra=extra)
    except (KeyError, FederationError) as error:
        raise FederationError(f"Site {reply.site!r} sent no usable update: {error}") from error
    check_update(weights, update)
    return update


def _check_hidden(reply: Reply, part: str, task: Task) -> None:
    """Refuse the reply of a site that takes part in a secure sum without what it is of."""
    try:
        examples, loss = (reply.figures["train"][name] for name in ("examples", "loss"))
    except KeyError as error:
        raise FederationError(f"Site {reply.site!r} left {error} out of its reply.") from error
    usable = is_figure(examples) and examples >= 1 and is_figure(loss)
    if part not in reply.blobs or not usable:
        raise FederationError(f"Site {reply.site!r} sent no usable part of the secure sum.")
    if part == "masked":
        size, wanted = len(reply.blobs[part]), 4 * Plan.from_text(task.secure).session.size
        if size != wanted:
            raise FederationError(
                f"Site {reply.site!r} sent {size:,} bytes as its part of the secure sum: expected "
                f"{wanted:,}."
            )
