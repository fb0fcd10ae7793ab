"""Loads of HTTP requests.

`send` is an open loop, for times: requests are sent when they are due, whatever is still out. A
client that waits for answers slows down with its server and does not see the queue that its users
would stand in; so a request's time counts from when it was due. `drive` is a closed loop, for
counts: as many requests as the server takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

CONNECTIONS = 64


@dataclass(frozen=True)
class Load:
    """What came back.

    Attributes
    ----------
    milliseconds
        float[requests] from when a request was due to its answer.
    seconds
        From the first request to the last answer.
    failed
        Answers other than 200.
    bodies
        Of the answers, in the order of the requests.
    """

    milliseconds: np.ndarray
    seconds: float
    failed: int
    bodies: list[bytes]

    def percentile(self, share: float) -> float:
        """Milliseconds within which this percentage of the requests was answered."""
        return float(np.percentile(self.milliseconds, share))


def send(port: int, path: str, bodies: Sequence[bytes], rate: float | None, seed: int = 0) -> Load:
    """POST the bodies to 127.0.0.1, at Poisson times of so many a second.

    Without a rate, one after another, each as the one before is answered.
    """
    return asyncio.run(_send(port, path, bodies, rate, seed))


async def _send(
    port: int, path: str, bodies: Sequence[bytes], rate: float | None, seed: int
) -> Load:
    count = 1 if rate is None else CONNECTIONS
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    idle: asyncio.LifoQueue = asyncio.LifoQueue()
    for pair in pairs:
        idle.put_nowait(pair)
    times, answers, failed = np.zeros(len(bodies)), [b""] * len(bodies), 0
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

    async def ask(number: int, due: float) -> None:
        nonlocal failed
        reader, writer = connection = await idle.get()
        body = bodies[number]
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        headers = await reader.readuntil(b"\r\n\r\n")
        length = headers.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        answers[number] = await reader.readexactly(int(length))
        times[number] = time.perf_counter() - due
        failed += not headers.startswith(b"HTTP/1.1 200")
        idle.put_nowait(connection)

    begin = time.perf_counter()
    if rate is None:
        for number in range(len(bodies)):
            await ask(number, time.perf_counter())
    else:
        gaps = np.random.default_rng(seed).exponential(1 / rate, len(bodies))
        tasks = []
        for number, due in enumerate(begin + np.cumsum(gaps)):
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(ask(number, due)))
        await asyncio.gather(*tasks)
    seconds = time.perf_counter() - begin
    for _, writer in pairs:
        writer.close()
    return Load(1000 * times, seconds, failed, answers)


@dataclass(frozen=True)
class Request:
    """A POST."""

    path: str
    body: bytes
    headers: dict[str, str]


async def drive(
    url: str,
    requests: Iterable[Request],
    clients: int,
    tell: Callable[[Request, int | str, bytes], None],
) -> None:
    """POST requests to `url` from several clients, each one after another.

    TorchServe closes a connection after some errors, which a client learns with its next request:
    that one is sent a second time.

    Parameters
    ----------
    tell
        Told of each request, the status of its answer (the name of what failed, where there was
        none) and the answer's body.
    """
    rest = iter(requests)

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            for request in rest:
                for attempt in (1, 2):
                    try:
                        answer = await http.post(
                            request.path, content=request.body, headers=request.headers
                        )
                    except httpx.HTTPError as error:
                        if attempt == 2:
                            tell(request, type(error).__name__, b"")
                    else:
                        tell(request, answer.status_code, answer.content)
                        break

    await asyncio.gather(*(client() for _ in range(clients)))
