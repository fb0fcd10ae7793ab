"""Flower's SuperLink, with a way for sites and ServerApps to learn of a message at once.

A SuperNode that finds no message sleeps for three seconds, for which Flower 1.41 has no setting.
Here the SuperLink does not answer "none" at once: it holds the question until a message comes,
for twenty seconds at most. And who asks while a message is still being pushed waits until all its
parts are there; otherwise Flower finds parts missing and tries again after a second.

This is a middleware, which Flower's SuperLink takes from an extension module
(:mod:`flwr.superlink.extensions`); nothing of Flower is changed.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

if TYPE_CHECKING:
    from fastapi import FastAPI

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Event, Receive, Send], Awaitable[None]]

EXTENSION = "flwr.ee.superlink.extensions"
SITE_ASKS = "/v1/fleet/pull-messages"
SERVER_ASKS = "/v1/runtime/pull-messages"
SITE_PUSHES = ("/v1/fleet/push-messages", "/v1/fleet/push-object")
SERVER_PUSHES = ("/v1/runtime/push-messages", "/v1/runtime/push-object")
IN_TURN = ("/v1/fleet/", "/v1/runtime/")
# Seconds that a site's question is held, and a ServerApp's, which has its own deadlines to look
# after. A client of Flower's gives an answer 30 s.
HOLD_SITE, HOLD_SERVER = 20.0, 1.0
# The parts of a message follow one another faster than this.
SETTLE_SECONDS = 0.03
# Somebody may always be pushing.
MOST_SETTLING_SECONDS = 1.0
# Free on the disk of a SuperLink that starts.
ROOM_BYTES = 1 << 20

log = logging.getLogger("flwr")


class Pushes:
    """What one side pushes: whether a message may be under way, and when one has come."""

    def __init__(self) -> None:
        self._under_way = 0
        self._settled = asyncio.Event()
        self._settled.set()
        self._news = asyncio.Event()

    async def pushing(self, request: Awaitable[None]) -> None:
        """Let a push happen."""
        self._under_way += 1
        self._settled.clear()
        try:
            await request
        finally:
            self._under_way -= 1
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle)

    def _settle(self) -> None:
        if self._under_way == 0 and not self._settled.is_set():
            self._settled.set()
            self._news.set()
            self._news = asyncio.Event()

    async def settled(self) -> None:
        """Wait until nothing is under way, though not for ever."""
        await asyncio.wait(
            [asyncio.ensure_future(self._settled.wait())], timeout=MOST_SETTLING_SECONDS
        )

    def news(self) -> asyncio.Event:
        """What is set when something more has come."""
        return self._news


class HeldQuestions:
    """ASGI middleware that answers a question for messages when there is one.

    Sites' and ServerApps' requests come one after another to what is behind: nearly every one
    writes to the SuperLink's SQLite, which has one writer at a time, and whoever finds it busy
    sleeps up to a tenth of a second before it looks again. No request is kept from its turn by a
    slow line: its body is there before, and the answer is sent after.

    Parameters
    ----------
    app : callable
        The SuperLink as an ASGI application.
    hold : dict of str to float
        By path of a question the seconds that it is held.
    """

    def __init__(self, app: App, hold: Mapping[str, float] | None = None) -> None:
        self._app = app
        self._hold = hold or {SITE_ASKS: HOLD_SITE, SERVER_ASKS: HOLD_SERVER}
        to_sites, to_server = Pushes(), Pushes()
        self._asked = {SITE_ASKS: to_sites, SERVER_ASKS: to_server}
        self._pushed = dict.fromkeys(SERVER_PUSHES, to_sites) | dict.fromkeys(
            SITE_PUSHES, to_server
        )
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Handle a request."""
        path = scope.get("path", "")
        if path in self._asked:
            await self._answer(path, scope, receive, send)
        elif path in self._pushed:
            await self._pushed[path].pushing(self._handle(scope, receive, send))
        elif path.startswith(IN_TURN):
            await self._handle(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _handle(self, scope: Event, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        async with self._turn:
            answer = await self._ask(scope, body)
        for event in answer:
            await send(event)

    async def _answer(self, path: str, scope: Event, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._hold[path]
        pushes = self._asked[path]
        try:
            while True:
                await pushes.settled()
                news = asyncio.ensure_future(pushes.news().wait())
                try:
                    async with self._turn:
                        # Nobody is asked on behalf of one that has gone: its message would be lost.
                        if gone.done():
                            return
                        answer = await self._ask(scope, body)
                    rest = deadline - loop.time()
                    if not _is_empty(answer) or rest <= 0:
                        break
                    await asyncio.wait({gone, news}, timeout=rest, return_when="FIRST_COMPLETED")
                finally:
                    news.cancel()
            for event in answer:
                await send(event)
        finally:
            gone.cancel()

    async def _ask(self, scope: Event, body: bytes) -> list[Event]:
        answer: list[Event] = []
        asked = False

        async def receive() -> Event:
            nonlocal asked
            if asked:  # the application may wait for the end of the connection
                await asyncio.Event().wait()
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(event: Event) -> None:
            answer.append(event)

        await self._app(scope | {"state": dict(scope.get("state", {}))}, receive, keep)
        return answer


async def _body(receive: Receive) -> bytes | None:
    """A request's whole body; None if who asked has gone before it was there."""
    pieces, more = [], True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        pieces.append(event.get("body", b""))
        more = event.get("more_body", False)
    return b"".join(pieces)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_empty(answer: list[Event]) -> bool:
    """Whether an answer says that there is no message: then it holds nothing at all."""
    body = b"".join(event.get("body", b"") for event in answer)
    return answer[0].get("status") == 200 and not body


class Concerned:
    """ASGI middleware that goes past another one where the path is none of its concern.

    Parameters
    ----------
    app : callable
        The rest of the application.
    prefix : str
        What the paths begin with that `middleware` is for.
    middleware : Middleware
        Starlette's description of the other one.
    """

    def __init__(self, app: App, prefix: str, middleware: Middleware) -> None:
        self._app, self._prefix = app, prefix
        self._other = middleware.cls(app, *middleware.args, **middleware.kwargs)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Handle a request."""
        concerned = scope.get("path", "").startswith(self._prefix)
        await (self._other if concerned else self._app)(scope, receive, send)


def pass_by(app: FastAPI) -> None:
    """Spare requests the middlewares that would let them through untouched.

    Each of Flower's middlewares looks at every path and passes on those of the other APIs, at the
    price of several tasks for each: with seven of them most of the time of a small request.
    """
    from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
    from flwr.superlink.routers.control import middlewares as control
    from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
    from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware

    prefixes = {
        control.ControlSensitiveResponseMiddleware: "/v1/control/",
        control.ControlAuthenticationMiddleware: "/v1/control/",
        control.ControlLicenseMiddleware: "/v1/control/",
        control.ControlEventLogMiddleware: "/v1/control/",
        NodeAuthMiddleware: "/v1/fleet/",
        FleetEventLogMiddleware: "/v1/fleet/",
        RuntimeTracingMiddleware: "/v1/runtime/",
    }
    app.user_middleware = [
        Middleware(Concerned, prefixes[each.cls], each) if each.cls in prefixes else each
        for each in app.user_middleware
    ]


def end_on_a_full_disk() -> None:
    """Let the process end at the first write to its database that finds no room.

    Flower goes on, and gives answers from which sites and ServerApps do not recover. Of a SuperLink
    that ended they do, once it is there again.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine, ExceptionContext

    def end(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            log.critical("The disk of the SuperLink's database is full: the SuperLink ends.")
            os._exit(1)

    event.listen(Engine, "handle_error", end)


def wait_for_room(folder: Path) -> None:
    """Wait until a file of `ROOM_BYTES` can be written: a SuperLink without room would end again."""
    told = False
    while True:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            if not told:
                log.critical("The SuperLink starts as soon as there is room in %s.", folder)
                told = True
            time.sleep(1)


def main() -> None:
    """Run ``flower-superlink`` with the middleware, on the arguments of the command line."""
    from flwr.superlink.cli import flower_superlink

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--database", type=Path)
    if (database := parser.parse_known_args()[0].database) is not None:
        wait_for_room(database.parent)
    end_on_a_full_disk()
    extension = ModuleType(EXTENSION)
    extension.get_middleware = lambda: (Middleware(HeldQuestions),)
    extension.configure_app = pass_by
    sys.modules[EXTENSION] = extension
    flower_superlink()


if __name__ == "__main__":
    main()
