"""A round in which the server learns the mean of the sites' updates alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flwr.app import ConfigRecord, RecordDict

from federation.asking import REPLY_ROOM, Answer, Run, ask
from federation.checkpoint import Checkpoint
from federation.exchange import Exchange, exchange
from federation.protocol import Reply, Task
from federation.secure.messages import answer_of
from federation.secure.messages import read as read_message
from federation.secure.server import Read, Told, prepare, total
from federation.updates import Delta, Update, check_update


def train_secretly(
    run: Run, state: Checkpoint, task: Task, chosen: list[str]
) -> tuple[Exchange[Answer], list[Update]]:
    """Let the chosen sites train; gives all sites' answers and one update, the sum's."""
    traffic = {"bytes_down": 0, "bytes_up": 0}
    refused: dict[str, str] = {}

    def tell(questions: dict[str, str], usable: Read[Told]) -> dict[str, Told]:
        head = {"run": task.run, "number": task.number}
        contents = {
            site: RecordDict({"secure": ConfigRecord(head | {"text": text})})
            for site, text in questions.items()
        }

        def told(site: str, content: RecordDict) -> Told:
            reply = Reply.from_content(content, site=site, task=task, limit=REPLY_ROOM)
            text = reply.blobs.get("secure", b"").decode(errors="replace")
            with answer_of(site):
                return usable(site, read_message(text))

        result = exchange(run.grid, run.settings, task, lambda site: {}, [], told, contents)
        for way in traffic:
            traffic[way] += getattr(result, way)
        refused.update(result.refused)
        return result.answers

    about = f"{task.run}/{task.number}/{replace(task, train=True).digest(state.weights)}"
    prepared = prepare(
        tell, state.weights, chosen, about=about, rows=run.settings.secure_rows,
        seed=run.settings.seed, number=task.number,
    )  # fmt: skip
    planned = replace(task, secure=prepared.plan.to_text())
    members = sorted(prepared.plan.weights)
    result = ask(run, state, planned, members)
    replies = {site: result.answers[site].reply for site in members if site in result.answers}
    delta = total(tell, prepared, {site: reply.blobs["masked"] for site, reply in replies.items()})
    result.refused |= {site: why for site, why in refused.items() if site not in replies}
    return sum_of(state, result, replies, delta, traffic["bytes_down"], traffic["bytes_up"])


def sum_of(
    state: Checkpoint,
    result: Exchange[Answer],
    replies: Mapping[str, Reply],
    delta: Delta,
    bytes_down: int,
    bytes_up: int,
) -> tuple[Exchange[Answer], list[Update]]:
    """What a secure sum is taken for: one update, of which the mean change is known.

    Parameters
    ----------
    replies
        Of the sites that the sum is of.
    bytes_down, bytes_up
        Of the exchanges besides the training.
    """
    figures = {site: reply.figures["train"] for site, reply in replies.items()}
    examples = {site: int(figure["examples"]) for site, figure in figures.items()}
    count = sum(examples.values())
    loss = sum(figures[site]["loss"] * examples[site] for site in figures) / count
    update = Update("sum of " + ", ".join(figures), delta, count, loss)
    check_update(state.weights, update)
    # The sum has come when the last site's part has.
    result.seconds[update.site] = max(result.seconds[site] for site in replies)
    result.moved[update.site] = sum(result.moved[site] for site in replies)
    result.bytes_down += bytes_down
    result.bytes_up += bytes_up
    return result, [update]
