from __future__ import annotations

import asyncio

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message

from federation.superlink import (
    SERVER_ASKS,
    SERVER_PUSHES,
    SITE_ASKS,
    SITE_PUSHES,
    HeldQuestions,
)

NONE = PullMessagesResponse().SerializeToString()
HOLD = {SITE_ASKS: 1000, SERVER_ASKS: 1000}
SOME = PullMessagesResponse(messages_list=[Message()]).SerializeToString()


class Link:
    """An ASGI application like the SuperLink: gives out the messages that were pushed."""

    def __init__(self) -> None:
        self.messages, self.bodies, self.paths = 0, set(), []
        self.last_part = asyncio.Event()
        self.last_part.set()

    async def __call__(self, scope: dict, receive, send) -> None:
        request = await receive()
        self.paths.append(scope["path"])
        answer = b""
        if scope["path"] == SERVER_PUSHES[0]:
            self.messages += 1
        if scope["path"] in (SERVER_PUSHES[1], SITE_PUSHES[1]):
            await self.last_part.wait()
        if scope["path"] == SITE_ASKS:
            self.bodies.add(request["body"])
            answer = SOME if self.messages else NONE
            self.messages -= bool(self.messages)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def asked(self) -> None:
        """Wait until a site's question has come."""
        while SITE_ASKS not in self.paths:
            await asyncio.sleep(0)


async def call(app: HeldQuestions, path: str, gone: asyncio.Event | None = None) -> bytes:
    """The body of the answer to a request; none if the client went away."""
    events = iter([{"type": "http.request", "body": b"signed", "more_body": False}])
    sent = []

    async def receive() -> dict:
        for event in events:
            return event
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(event: dict) -> None:
        sent.append(event)

    await app({"type": "http", "path": path}, receive, send)
    return b"".join(event.get("body", b"") for event in sent)


def run(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_question_is_answered_as_soon_as_a_message_is_there() -> None:
    async def scenario() -> None:
        link = Link()
        app = HeldQuestions(link, HOLD)
        held = asyncio.create_task(call(app, SITE_ASKS))
        await link.asked()
        assert await call(app, SERVER_PUSHES[0]) == b"" and await held == SOME
        assert link.paths.count(SITE_ASKS) == 2 and link.bodies == {b"signed"}

    run(scenario)


def test_without_messages_it_is_answered_in_the_end() -> None:
    assert asyncio.run(call(HeldQuestions(Link(), {SITE_ASKS: 0.02}), SITE_ASKS)) == NONE


def test_nothing_is_taken_for_a_site_that_has_gone() -> None:
    async def scenario() -> None:
        link, gone = Link(), asyncio.Event()
        app = HeldQuestions(link, HOLD)
        held = asyncio.create_task(call(app, SITE_ASKS, gone))
        await link.asked()
        gone.set()
        assert await held == b""
        await call(app, SERVER_PUSHES[0])
        assert link.messages == 1 and link.paths.count(SITE_ASKS) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("pushes", "asks"), [(SERVER_PUSHES, SITE_ASKS), (SITE_PUSHES, SERVER_ASKS)]
)
def test_who_asks_waits_for_all_parts_of_a_message(pushes: tuple[str, str], asks: str) -> None:
    async def scenario() -> None:
        link = Link()
        app = HeldQuestions(link, {SITE_ASKS: 0, SERVER_ASKS: 0})
        await call(app, pushes[0])
        link.last_part.clear()
        part = asyncio.create_task(call(app, pushes[1]))
        question = asyncio.create_task(call(app, asks))
        while pushes[1] not in link.paths:
            await asyncio.sleep(0)
        link.last_part.set()
        await asyncio.gather(part, question)
        assert link.paths == [*pushes, asks]

    run(scenario)


def test_other_requests_pass_as_they_are() -> None:
    assert asyncio.run(call(HeldQuestions(Link()), "/health")) == b""
