"""A site's part of a federated run, as a Flower ClientApp.

Reads the interactions of its own site and nothing else. What leaves the site is the change of the
weights, the training loss, the metrics, and how many users and interactions they stand for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from federation.compression import Compression, encode
from federation.downlink import Behind, arrived
from federation.errors import FederationError
from federation.local_training import own_model, train_at_site, train_privately
from federation.privacy.rounds import site_key
from federation.parcel import packed, unpacked
from federation.protocol import Reply, Task, read_model, vocabulary_digest
from federation.secure.encrypted_site import KeyHolder, is_encrypted
from federation.secure.site import answer, masked_change
from federation.site_state import Kept, SiteState
from federation.updates import Weights
from recsys.data.interactions import Interactions, load_interactions
from recsys.data.split import leave_one_out
from recsys.evaluate import evaluate
from recsys.recipe import Recipe

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Evaluate the received model and, if this site was chosen, train it."""
    return _answer(message, context, parts=("validation",))


@app.evaluate()
def evaluate_final(message: Message, context: Context) -> Message:
    """Evaluate the final model, also on the test items that no round has looked at."""
    return _answer(message, context, parts=("validation", "test"))


@app.query()
def secure_sum(message: Message, context: Context) -> Message:
    """Answer a question of a secure sum; the vector itself comes with the training."""
    content = unpacked(message.content)
    question = content["secure"]
    text, run = str(question["text"]), str(question["run"])
    site, state = str(context.node_config["site"]), Path(str(context.node_config["state"]))
    split = leave_one_out(load_interactions(str(context.node_config["data"])))
    examples, parts = len(split.train.sequence), {}
    if is_encrypted(text):
        holder = KeyHolder(site, site_key(state), run, state)
        sent = read_model(content["with"]) if "with" in content else {}
        told, parts = holder.answer(text, sent, examples)
    else:
        told = answer(text, site=site, secret=site_key(state), examples=examples, folder=state)
    blobs = {"secure": json.dumps(told).encode()} | parts
    reply = Reply(site, run, int(question["number"]), {}, blobs)
    return Message(packed(reply.to_content()), reply_to=message)


def _answer(message: Message, context: Context, parts: tuple[str, ...]) -> Message:
    """Do the task, or give the same reply as the last time that this message came."""
    content = unpacked(message.content)
    task = Task.from_record(content["task"])
    state = SiteState(Path(str(context.node_config["state"])), task.run)
    with state.alone():
        kept = state.before(task.number)
        try:
            received = _arrived(task, read_model(content["model"]), kept)
        except Behind:
            return Message(RecordDict({"behind": ConfigRecord()}), reply_to=message)
        control = None
        if "control" in content:
            control = arrived(read_model(content["control"]), {}, None, task.version)
        request = task.digest(received, control or {})
        reply = state.answer(task.number, request)
        if reply is None:
            # What training follows from: the same in each attempt at a secure sum.
            about = replace(task, secure="none").digest(received, control or {})
            reply, kept = _work(task, received, control, context, parts, kept, about)
            state.save(request, reply, kept)
    return Message(packed(reply.to_content()), reply_to=message)


def _arrived(task: Task, parts: dict[str, bytes], kept: Kept) -> Weights:
    """The model that the message is about."""
    held = kept.get("model", {})
    number = int(kept["version"]["number"]) if held else None
    return arrived(parts, held, number, task.version)


def _work(
    task: Task,
    received: Weights,
    control: Weights | None,
    context: Context,
    parts: tuple[str, ...],
    kept: Kept,
    about: str,
) -> tuple[Reply, Kept]:
    """The reply to a task, and what the site carries on to the next round."""
    site, state = str(context.node_config["site"]), Path(str(context.node_config["state"]))
    interactions = load_interactions(str(context.node_config["data"]))
    _check_vocabulary(site, interactions, task)
    split = leave_one_out(interactions)
    recipe = Recipe.from_dict(json.loads(task.recipe))
    model = own_model(received, task, recipe, len(interactions.items), kept)
    figures = {part: dict(evaluate(model, interactions, split, part=part)) for part in parts}
    blobs = {}
    if task.train:
        if task.privacy != "none":
            trained = train_privately(model, split.train, recipe, task, site, state, about)
        else:
            seed = _seed(task, site)
            trained = train_at_site(model, split.train, recipe, task, seed, kept, control)
        kept = kept | trained.kept
        if task.secure != "none" and is_encrypted(task.secure):
            holder = KeyHolder(site, site_key(state), task.run, state)
            blobs["encrypted"] = holder.encrypted(
                task.secure, trained.delta, received, seed=task.seed, number=task.number
            )
        elif task.secure != "none":
            blobs["masked"] = masked_change(
                task.secure, trained.delta, received, site=site, secret=site_key(state),
                seed=task.seed, number=task.number, about=f"{task.run}/{task.number}/{about}",
            )  # fmt: skip
        else:
            changes = {"delta": trained.delta}
            if control is not None:
                changes["extra"] = trained.extra
            coding = Compression(task.compression, task.share)
            for name, change in changes.items():
                waits = f"residual of {name}"
                blobs[name], rest = encode(change, kept.get(waits, {}), coding, received)
                kept = kept | {waits: rest}
        figures["train"] = trained.figures
    if task.compression != "none":
        version = {"number": np.array(task.version)}
        kept = kept | {"model": received, "version": version}
    return Reply(site, task.run, task.number, figures, blobs), kept


def _check_vocabulary(site: str, interactions: Interactions, task: Task) -> None:
    if vocabulary_digest(interactions.items) != task.vocabulary:
        raise FederationError(
            f"the catalogue of site {site!r} ({len(interactions.items)} items) is not the model's: "
            "hand the site its data again, written with the model's items."
        )


def _seed(task: Task, site: str) -> int:
    """A seed that differs between sites and rounds but not between repetitions."""
    text = f"{task.seed}/{task.number}/{site}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
