"""Apps of `benchmarks.federation_overhead`, whose sites do nothing: ours and stock Flower's."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg as StockFedAvg
from safetensors.numpy import save

from federation.checkpoint import Checkpoint
from federation.compression import Compression, decode, encode
from federation.exchange import exchange
from federation.parcel import packed, unpacked
from federation.protocol import Reply, Task, write_model
from federation.settings import RunSettings
from federation.strategies.averaging import FedAvg
from federation.updates import Update

WEIGHTS = {"table": np.zeros((2_000, 64), np.float32)}

ours = ServerApp()
our_client = ClientApp()
stock = ServerApp()
stock_client = ClientApp()


@ours.main()
def run_ours(grid: Grid, context: Context) -> None:
    """Rounds as :mod:`federation.server_app` does them: exchange, aggregate, checkpoint."""
    config = context.run_config
    folder = Path(str(config["folder"]))
    settings = RunSettings(
        folder=folder, sites=tuple(str(config["sites"]).split(",")), rounds=int(config["rounds"])
    )
    task = Task(
        run="noop", number=0, version=0, train=True, recipe="none", vocabulary="none",
        local_epochs=1, proximal_mu=0.0, seed=0, fewest_steps=1,
    )  # fmt: skip
    weights, state, seconds = WEIGHTS, {}, []
    for number in range(1, settings.rounds + 1):
        began = time.monotonic()
        asked = replace(task, number=number)

        def read(site: str, content: RecordDict, asked: Task = asked) -> Update:
            reply = Reply.from_content(content, site=site, task=asked, limit=1 << 30)
            return Update(site, decode(reply.blobs["delta"], WEIGHTS), 1, 0.0)

        model = {"model": write_model({"whole": save(weights)})}
        result = exchange(
            grid, settings, asked, lambda site, model=model: model, list(settings.sites), read
        )
        weights, state = FedAvg().aggregate(weights, list(result.answers.values()), state)
        Checkpoint(number, weights, state, []).save(folder)
        seconds.append(time.monotonic() - began)
    (folder / "seconds.json").write_text(json.dumps(seconds))


@our_client.train()
def answer_ours(message: Message, context: Context) -> Message:
    """Send a change of one row."""
    task = Task.from_record(unpacked(message.content)["task"])
    change = np.zeros_like(WEIGHTS["table"])
    change[task.number] = 1
    delta, _ = encode({"table": change}, {}, Compression("rows"), WEIGHTS)
    site = str(context.node_config["site"])
    reply = Reply(site, task.run, task.number, {}, {"delta": delta})
    return Message(packed(reply.to_content()), reply_to=message)


@stock.main()
def run_stock(grid: Grid, context: Context) -> None:
    """Flower's own FedAvg, as its quickstart has it."""
    config, folder = context.run_config, Path(str(context.run_config["folder"]))
    rounds = int(config["rounds"])
    began = time.monotonic()
    StockFedAvg().start(grid, initial_arrays=ArrayRecord(list(WEIGHTS.values())), num_rounds=rounds)
    (folder / "seconds.json").write_text(json.dumps([(time.monotonic() - began) / rounds] * rounds))


@stock_client.train()
def train_stock(message: Message, context: Context) -> Message:
    """Send the model back."""
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content, reply_to=message)


@stock_client.evaluate()
def evaluate_stock(message: Message, context: Context) -> Message:
    """Send a figure."""
    content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.0})})
    return Message(content, reply_to=message)
