"""A site's part of a federated run, as a Flower ClientApp.

Reads the interactions of its own site and nothing else. What leaves the site is the change of the
weights, the training loss, the metrics, and how many users and interactions they stand for.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federation.compression import Compression, encode
from federation.errors import FederationError
from federation.privacy.rounds import Terms, train_round
from federation.protocol import Reply, Task, read_model, vocabulary_digest
from federation.site_state import Kept, SiteState
from federation.updates import Weights, difference
from recsys.artifact import model_of
from recsys.data.interactions import Interactions, load_interactions
from recsys.data.split import leave_one_out
from recsys.evaluate import evaluate
from recsys.finetune import train_local
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


def _answer(message: Message, context: Context, parts: tuple[str, ...]) -> Message:
    """Do the task, or give the same reply as the last time that this message came."""
    task = Task.from_record(message.content["task"])
    content, received = read_model(message.content["model"])
    request = task.digest(content)
    state = SiteState(Path(str(context.node_config["state"])), task.run)
    with state.alone():
        reply = state.answer(task.number, request)
        if reply is None:
            kept = state.before(task.number)
            reply, kept = _work(task, received, context, parts, kept, request)
            state.save(request, reply, kept)
    return Message(reply.to_content(), reply_to=message)


def _work(
    task: Task,
    received: Weights,
    context: Context,
    parts: tuple[str, ...],
    kept: Kept,
    request: str,
) -> tuple[Reply, Kept]:
    """The reply to a task, and what the site carries on to the next round."""
    site = str(context.node_config["site"])
    interactions = load_interactions(str(context.node_config["data"]))
    _check_vocabulary(site, interactions, task)
    split = leave_one_out(interactions)
    recipe = Recipe.from_dict(json.loads(task.recipe))
    weights = {name: torch.from_numpy(array.copy()) for name, array in received.items()}
    model = model_of(weights, len(interactions.items), recipe)
    figures = {part: dict(evaluate(model, interactions, split, part=part)) for part in parts}
    blobs = {}
    if task.train:
        began = time.monotonic()
        if task.privacy != "none":
            loss = train_round(
                model, split.train, recipe, Terms.from_text(task.privacy),
                Path(str(context.node_config["state"])), run=task.run, site=site,
                number=task.number, request=request, epochs=task.local_epochs,
            )  # fmt: skip
            # The number of users is taken as public, how much they did is not.
            examples = int((np.diff(split.train.offsets) >= 2).sum())
        else:
            loss = train_local(
                model, split.train, recipe, epochs=task.local_epochs, seed=_seed(task, site),
                proximal_mu=task.proximal_mu,
            )  # fmt: skip
            examples = len(split.train.sequence)
        trained = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
        delta = difference(trained, received)
        blobs["delta"], residual = encode(delta, kept.get("residual", {}), Compression())
        kept = kept | {"residual": residual}
        figures["train"] = {
            "examples": examples,
            "loss": loss,
            "seconds": time.monotonic() - began,
        }
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
