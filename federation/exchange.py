"""One exchange: the same question to every site, and their replies until enough are there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from flwr.app import ArrayRecord, MessageType, RecordDict
from flwr.serverapp import Grid

from federation.errors import FederationError
from federation.post import Post, pause, silence
from federation.protocol import Task
from federation.settings import RunSettings

# Deadlines that a round below its quorum waits for before the run fails.
MOST_DEADLINES = 3

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
    bytes_down, bytes_up, moved
        See :class:`federation.post.Post`.
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
        See :meth:`federation.post.Post.collect`.
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
    kind = MessageType.TRAIN if chosen else MessageType.EVALUATE
    if questions:
        kind = MessageType.QUERY

    def question(site: str) -> RecordDict:
        if questions:
            return questions[site]
        return RecordDict({**sent(site), "task": replace(task, train=site in chosen).to_record()})

    def leave_out(site: str, why: str) -> None:
        log.warning("round %d goes on without site %r: %s", task.number, site, why)
        result.refused[site] = why

    post = Post(grid, settings)
    for site in sites:
        post.put(site, kind, task.number, partial(question, site))
    began = time.monotonic()
    deadlines = 1
    while True:
        for site, answer in post.collect(read):
            if isinstance(answer, FederationError):
                leave_out(site, str(answer))
            else:
                result.answers[site] = answer
                result.seconds[site] = round(time.monotonic() - began, 3)
        usable = sum(site in result.answers for site in counted)
        waited = deadlines * settings.round_timeout
        if post.open and time.monotonic() > began + waited:
            if usable >= quorum or deadlines == MOST_DEADLINES:
                for site in post.open:
                    leave_out(site, silence(site, waited))
                    post.drop(site)
            else:
                missing = ", ".join(f"site {site!r}" for site in post.open)
                log.warning("round %d waits for its quorum: %s", task.number, missing)
                deadlines += 1
                post.repeat()
        if not post.open:
            break
        post.send()
        pause(began)
    result.bytes_down, result.bytes_up = post.bytes_down, post.bytes_up
    result.moved = post.moved
    if usable < quorum:
        raise FederationError(
            f"Round {task.number} has {usable} of the {quorum} usable answers that it needs. "
            f"{' '.join(result.refused[site] for site in sorted(result.refused))}"
        )
    return result
