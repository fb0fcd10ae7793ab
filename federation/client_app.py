"""A site's part of a federated run, as a Flower ClientApp.

Reads the interactions of its own site and nothing else. What leaves the site is the change
of the weights, the training loss, the metrics, and how many users and interactions they stand for.
"""

from __future__ import annotations

import hashlib
import json
import time

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federation.errors import FederationError
from federation.protocol import Task, pack, unpack, vocabulary_digest
from federation.updates import difference
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
    return Message(_answer(message, context, parts=("validation",)), reply_to=message)


@app.evaluate()
def evaluate_final(message: Message, context: Context) -> Message:
    """Evaluate the final model, also on the test items that no round has looked at."""
    return Message(_answer(message, context, parts=("validation", "test")), reply_to=message)


def _answer(message: Message, context: Context, parts: tuple[str, ...]) -> RecordDict:
    task = Task.from_record(message.content["task"])
    site = str(context.node_config["site"])
    interactions = load_interactions(str(context.node_config["data"]))
    _check_vocabulary(site, interactions, task)
    split = leave_one_out(interactions)
    recipe = Recipe.from_dict(json.loads(task.recipe))
    received = unpack(message.content["model"])
    weights = {name: torch.from_numpy(array.copy()) for name, array in received.items()}
    model = model_of(weights, len(interactions.items), recipe)
    answer = RecordDict(
        {part: MetricRecord(evaluate(model, interactions, split, part=part)) for part in parts}
    )
    if task.train:
        began = time.monotonic()
        loss = train_local(
            model,
            split.train,
            recipe,
            epochs=task.local_epochs,
            seed=_seed(task, site),
            proximal_mu=task.proximal_mu,
        )
        trained = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
        answer["delta"] = pack(difference(trained, received))
        answer["train"] = MetricRecord(
            {
                "examples": len(split.train.sequence),
                "loss": loss,
                "seconds": time.monotonic() - began,
            }
        )
    return answer


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
