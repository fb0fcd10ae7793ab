"""The server's questions to the sites and their answers, one open question a site at a time.

A question is sent when its site is there, again at once where the message or the reply was lost,
and again in growing intervals while the site is silent: a site answers a repeated question with the
same bytes, so that asking twice does no harm.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from federation.downlink import Behind
from federation.errors import FederationError
from federation.parcel import packed, unpacked
from federation.protocol import size_of
from federation.settings import RunSettings

# Replies are looked for often at first, when a quick site may have answered, and then less.
LEAST_POLL_SECONDS = 0.02
MOST_POLL_SECONDS = 0.25
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
class _Question:
    kind: str
    number: int
    content: Callable[[], RecordDict]
    times: int = 0
    due: float = 0.0


class Post:
    """Open questions, and the traffic that they caused.

    Attributes
    ----------
    bytes_down, bytes_up : int
        Bytes of the messages to and the replies from the sites.
    moved : dict of str to int
        The same of each site, both ways.
    """

    def __init__(self, grid: Grid, settings: RunSettings) -> None:
        self._grid, self._settings = grid, settings
        self._open: dict[str, _Question] = {}
        self._sent: dict[str, tuple[str, _Question]] = {}
        self.bytes_down = self.bytes_up = 0
        self.moved: dict[str, int] = {}

    @property
    def open(self) -> list[str]:
        """Sites that have not answered their question."""
        return list(self._open)

    def put(self, site: str, kind: str, number: int, content: Callable[[], RecordDict]) -> None:
        """Give a site a question of a Flower kind in a round; `content` makes it when it is sent."""
        self._open[site] = _Question(kind, number, content)

    def drop(self, site: str) -> None:
        """Take no answer to a site's question any more."""
        self._open.pop(site, None)

    def repeat(self) -> None:
        """Send all open questions at once again."""
        for question in self._open.values():
            question.due = 0.0

    def send(self) -> None:
        """Send what is due to the sites that are there, as many as may be at work at a time."""
        now = time.monotonic()
        waiting = {site: asked for site, asked in self._open.items() if asked.due <= now}
        at_work = len(self._open) - len(waiting)
        room = (self._settings.at_once or len(self._open)) - at_work
        if not waiting or room <= 0:
            return
        there = {node.name: node.node_id for node in self._grid.get_nodes()}
        messages, questions = [], []
        # A site that was silent before lets the others go first.
        for site, question in sorted(waiting.items(), key=lambda asked: asked[1].times):
            if site not in there or len(messages) == room:
                continue
            content = question.content()
            messages.append(
                Message(
                    packed(content),
                    there[site],
                    question.kind,
                    ttl=self._settings.round_timeout,
                    group_id=str(question.number),
                )
            )
            questions.append((site, question))
            self.bytes_down += self._count(site, content)
            if question.times:
                log.info("site %r is asked again in round %d", site, question.number)
            question.due = now + self._settings.ask_again * 2**question.times
            question.times += 1
        if not messages:
            return
        try:
            self._sent.update(zip(self._grid.push_messages(messages), questions, strict=True))
        except ObjectPushError:
            # It had stored a part and was killed before it said so: Flower gives the message up.
            log.warning("the SuperLink was started again while it took messages; they are sent again")
            for _, question in questions:
                question.due = 0.0

    def collect(
        self, read: Callable[[str, RecordDict], Answer]
    ) -> Iterator[tuple[str, Answer | FederationError]]:
        """Answers that have come, each once, or why a site's answer does not count.

        Parameters
        ----------
        read : callable
            Given a site and what it sent, gives the answer or raises FederationError if it is
            unusable; Behind if the site could not read its model and shall get another form.
        """
        replies = self._grid.pull_messages(list(self._sent)) if self._sent else ()
        for reply in replies:
            site, question = self._sent.pop(reply.metadata.reply_to_message_id, (None, None))
            if site is None or self._open.get(site) is not question:
                continue
            if reply.has_error() and reply.error.code in LOST:
                log.warning("site %r: %s; it is asked again", site, LOST[reply.error.code])
                question.due = 0.0
                continue
            try:
                answer = self._answer(site, reply, read)
            except Behind:
                log.info("site %r gets the whole model", site)
                question.due = 0.0
                continue
            except FederationError as error:
                answer = error
            self.drop(site)
            yield site, answer

    def _answer(
        self, site: str, reply: Message, read: Callable[[str, RecordDict], Answer]
    ) -> Answer:
        if reply.has_error():
            raise FederationError(f"Site {site!r} failed: {_reason(reply.error.reason)}")
        content = unpacked(reply.content)
        self.bytes_up += self._count(site, content)
        return read(site, content)

    def _count(self, site: str, content: RecordDict) -> int:
        size = size_of(content)
        self.moved[site] = self.moved.get(site, 0) + size
        return size


def pause(began: float) -> None:
    """Wait a moment before looking for replies again: the longer, the longer one has waited."""
    waited = (time.monotonic() - began) / 10
    time.sleep(min(max(waited, LEAST_POLL_SECONDS), MOST_POLL_SECONDS))


def silence(site: str, seconds: float) -> str:
    """Sentence about a site that has not answered."""
    return (
        f"No answer from site {site!r} within {seconds:g} s: read the logs of the SuperNode and of "
        "the client executor there, and set its clock if it is off."
    )


def _reason(text: str) -> str:
    """The sentence in a ClientApp's error, which Flower sends as ``<class '…'>:<'sentence'>``."""
    match = re.fullmatch(r"<class '[^']*'>:<'(.*)'>", text, re.DOTALL)
    return match.group(1) if match else text
