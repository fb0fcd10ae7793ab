"""One exchange: the same question to every site, and their replies until enough are there."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from federation.downlink import Behind
from federation.errors import FederationError
from federation.parcel import packed, unpacked
from federation.protocol import Task, size_of
from federation.settings import RunSettings

# Replies are looked for often at first, when a quick site may have answered, and then less.
LEAST_POLL_SECONDS = 0.02
MOST_POLL_SECONDS = 0.25
# Deadlines that a round below its quorum waits for before the run fails.
MOST_DEADLINES = 3
# A message that met this end comes to the site again.
LOST = {
    ErrorCode.MESSAGE_UNAVAILABLE: "its message is lost",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply is lost",
    ErrorCode.NODE_UNAVAILABLE: "the link to it is lost",
    ErrorCode.CLIENT_APP_CRASHED: "its process has died",
}

log = logging.getLogger("flwr")
Answer = TypeVar("Answer")


@dataclass
class Exchange(Generic[Answer]):
    """What came back.

    Attributes
    ----------
    answers : dict of str to object
        By site, as `read` gave them.
    refused : dict of str to str
        By site that does not count in this round: why, as a sentence.
    seconds : dict of str to float
        By site that answered: from the exchange's beginning to the answer.
    bytes_down, bytes_up : int
        Bytes of the messages to and the replies from the sites.
    moved : dict of str to int
        The same of each site, both ways.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    moved: dict[str, int] = field(default_factory=dict)


def exchange(
    grid: Grid,
    settings: RunSettings,
    task: Task,
    sent: Callable[[str], dict[str, ArrayRecord]],
    chosen: list[str],
    read: Callable[[str, RecordDict], Answer],
    questions: Mapping[str, RecordDict] | None = None,
) -> Exchange[Answer]:
    """Ask every site, until all have answered or the deadline has passed and there is a quorum.

    A site that is away is asked when it comes. One whose message or reply was lost is asked again,
    and so is, in growing intervals, one that is silent: a site answers a repeated message with the
    same bytes, so that asking twice does no harm.

    Parameters
    ----------
    task : Task
        What each site shall do; `train` is set for those of `chosen`.
    sent : callable
        Given a site, the model that it is about in a form that the site can read, and what the
        strategy sends along.
    chosen : list of str
        Sites that train; if none, all only evaluate.
    read : callable
        Given a site and what it sent, gives the answer or raises FederationError if it is unusable;
        Behind if the site could not read its model and shall get another form.
    questions : dict of str to RecordDict, optional
        By site what it is asked in the place of the model and task; no other site is asked.

    Raises
    ------
    FederationError
        If fewer usable answers come than the quorum asks for.
    """
    result: Exchange[Answer] = Exchange()
    sites = list(questions or settings.sites)
    counted = chosen or sites
    quorum = math.ceil(settings.quorum * len(counted))
    asked: dict[str, str] = {}
    times = dict.fromkeys(sites, 0)
    due = dict.fromkeys(sites, 0.0)
    began = time.monotonic()
    deadlines = 1

    kind = MessageType.TRAIN if chosen else MessageType.EVALUATE
    if questions:
        kind = MessageType.QUERY

    def about_model(site: str) -> RecordDict:
        return RecordDict({**sent(site), "task": replace(task, train=site in chosen).to_record()})

    def ask(nodes: dict[str, int], now: float) -> None:
        contents = {site: questions[site] if questions else about_model(site) for site in nodes}
        messages = [
            Message(
                packed(contents[site]),
                node,
                kind,
                ttl=settings.round_timeout,
                group_id=str(task.number),
            )
            for site, node in nodes.items()
        ]
        asked.update(zip(grid.push_messages(messages), nodes, strict=True))
        for site, content in contents.items():
            size = size_of(content)
            result.bytes_down += size
            result.moved[site] = result.moved.get(site, 0) + size
            if times[site]:
                log.info("site %r is asked again in round %d", site, task.number)
            due[site] = now + settings.ask_again * 2 ** times[site]
            times[site] += 1

    def take(reply: Message) -> None:
        site = asked.pop(reply.metadata.reply_to_message_id, None)
        if site is None or site not in pending():
            return
        if not reply.has_error():
            try:
                content = unpacked(reply.content)
                size = size_of(content)
                result.bytes_up += size
                result.moved[site] += size
                result.answers[site] = read(site, content)
                result.seconds[site] = round(time.monotonic() - began, 3)
            except Behind:
                log.info("site %r gets the whole model", site)
                due[site] = 0.0
            except FederationError as error:
                leave_out(site, str(error))
        elif reply.error.code in LOST:
            log.warning("site %r: %s; it is asked again", site, LOST[reply.error.code])
            due[site] = 0.0
        else:
            leave_out(site, f"Site {site!r} failed: {_reason(reply.error.reason)}")

    def leave_out(site: str, why: str) -> None:
        log.warning("round %d goes on without site %r: %s", task.number, site, why)
        result.refused[site] = why

    def pending() -> list[str]:
        return [s for s in sites if s not in result.answers and s not in result.refused]

    while True:
        for reply in grid.pull_messages(list(asked)) if asked else ():
            take(reply)
        now = time.monotonic()
        usable = sum(site in result.answers for site in counted)
        if now > began + deadlines * settings.round_timeout and pending():
            if usable >= quorum or deadlines == MOST_DEADLINES:
                for site in pending():
                    leave_out(site, _silence(site, deadlines * settings.round_timeout))
            else:
                log.warning("round %d waits for its quorum: %s", task.number, _listed(pending()))
                deadlines += 1
                due.update(dict.fromkeys(pending(), 0.0))
        if not pending():
            break
        if waiting := [site for site in pending() if due[site] <= now]:
            there = {node.name: node.node_id for node in grid.get_nodes()}
            if nodes := {site: there[site] for site in waiting if site in there}:
                ask(nodes, now)
        pause = (time.monotonic() - began) / 10
        time.sleep(min(max(pause, LEAST_POLL_SECONDS), MOST_POLL_SECONDS))
    if usable < quorum:
        raise FederationError(
            f"Round {task.number} has {usable} of the {quorum} usable answers that it needs. "
            f"{' '.join(result.refused[site] for site in sorted(result.refused))}"
        )
    return result


def _silence(site: str, seconds: float) -> str:
    return (
        f"No answer from site {site!r} within {seconds:g} s: read the logs of the SuperNode and of "
        "the client executor there."
    )


def _reason(text: str) -> str:
    """The sentence in a ClientApp's error, which Flower sends as ``<class '…'>:<'sentence'>``."""
    match = re.fullmatch(r"<class '[^']*'>:<'(.*)'>", text, re.DOTALL)
    return match.group(1) if match else text


def _listed(sites: Iterable[str]) -> str:
    return ", ".join(f"site {site!r}" for site in sites)
