from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message
from flwr.superlink.main import _get_middleware
from flwr.superlink.routers.control.middlewares import ControlAuthenticationMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware

from federation.superlink import (
    SERVER_ASKS,
    SERVER_PUSHES,
    SITE_ASKS,
    SITE_PUSHES,
    Concerned,
    HeldQuestions,
    pass_by,
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


def upload(parts: list[dict]):
    """What receives a request in parts, each when the event before it is set."""
    events = iter(parts)

    async def receive() -> dict:
        event = next(events)
        if "after" in event:
            await event["after"].wait()
        return event

    return receive


def test_requests_of_sites_and_server_come_one_after_another() -> None:
    async def scenario() -> None:
        inside, most = 0, 0

        async def link(scope: dict, receive, send) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await receive()
            await asyncio.sleep(0)
            inside -= 1
            await send({"type": "http.response.start", "status": 200, "headers": []})

        app = HeldQuestions(link, {SITE_ASKS: 0, SERVER_ASKS: 0})
        paths = (SITE_PUSHES[1], SERVER_PUSHES[1], "/v1/fleet/pull-object", SITE_ASKS)
        await asyncio.gather(*(call(app, path) for path in paths))
        assert most == 1

    run(scenario)


def test_a_slow_upload_keeps_nobody_waiting_and_one_that_breaks_off_does_not_count() -> None:
    async def scenario() -> None:
        bodies, rest = [], asyncio.Event()

        async def link(scope: dict, receive, send) -> None:
            bodies.append((await receive())["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(event: dict) -> None:
            pass

        app = HeldQuestions(link)
        scope = {"type": "http", "path": SITE_PUSHES[1]}
        first = {"type": "http.request", "body": b"whole ", "more_body": True}
        slow = upload([first, {"type": "http.request", "body": b"message", "after": rest}])
        slowly = asyncio.create_task(app(scope, slow, send))
        await app(scope, upload([first, {"type": "http.disconnect"}]), send)
        await call(app, SITE_PUSHES[1])
        assert bodies == [b"signed"]
        rest.set()
        await slowly
        assert bodies == [b"signed", b"whole message"]

    run(scenario)


def test_only_middlewares_that_a_path_does_not_concern_are_passed_by() -> None:
    async def scenario() -> None:
        app = FastAPI(middleware=_get_middleware())
        for path in (SITE_ASKS, "/v1/control/none", "/health"):
            app.post(path)(lambda: "let in")
        pass_by(app)
        spared = {each.args[1].cls for each in app.user_middleware if each.cls is Concerned}
        assert {ControlAuthenticationMiddleware, NodeAuthMiddleware} < spared
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://link") as client:
            headers = {"content-type": "application/protobuf"}
            site = await client.post(SITE_ASKS, headers=headers)
            control = await client.post("/v1/control/none")
            assert (await client.post("/health")).json() == "let in"
        # Neither a site nor who controls the SuperLink gets in without saying who it is.
        assert site.status_code == 401 and "SuperNode" in site.text
        assert control.is_error and "Authentication" in control.text

    run(scenario)
