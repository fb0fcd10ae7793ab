"""Mutated requests to models in service: none may end in a 5xx, kill a worker or change an answer.

    python -m benchmarks.fuzz [--requests 100000] [--seed 0] [--clients 8]

Small models of all kinds are served by TorchServe behind nginx, as `hybrid up` has them, with a
store of sessions where this machine has one (without nginx, requests go to TorchServe itself). Each
request is a valid one, with a token for its user, with up to four mutations: of its bytes, of its
JSON (values, keys, nesting), of its encoding or of its headers. The seed decides them all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks._load import Request, drive
from benchmarks.serving import DIGEST, Server, torchserve
from cli.nginx import nginx_command, nginx_program
from cli.sessions import session_store_program
from cli.torchserve import archives_of
from handlers.archive import build_archive
from infra.handler_variables import token_variables
from infra.serving_proxy import ServingProxy, serving_configuration
from tests.federation.servers import free_port
from tests.handlers.bearers import PUBLIC, bearer
from tests.handlers.session_store import SessionStore
from tests.handlers.small_models import ITEMS, small_models, small_recommender

VALID: dict[str, list[dict[str, Any]]] = {
    "recommend": [
        {"history": ITEMS[:5], "k": 3},
        {"user": "u1", "history": [], "exclude_seen": False, "k": 2},
        {
            "history": ITEMS[3:9], "k": 5, "diversity": 0.5, "explain": True,
            "where": {"in_stock": True, "categories": ["c0"], "min_price": 1, "max_price": 30},
        },
        {"item": ITEMS[1], "k": 4},
        {"vector": [0.5] * 16, "model": DIGEST, "k": 3},
    ],
    "rating": [{"user": "u1", "items": ["i1", "i2"]}],
    "click": [{"items": ["i0", "i1"], "context": {"mobile": "true"}, "position": 1}],
    "search": [{"query": "red kettle", "k": 3}],
}  # fmt: skip
EVENTS = {"user": "u1", "events": [{"item": ITEMS[2], "time": 1.0, "id": "e1"}]}
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, -1e308, 2**63, 2**70, float("nan"), float("inf"), "",
    " ", "\x00", "é\ud800", "💥" * 50, "a" * 5000, [], {}, [[]], [None], {"a": {}}, ["x"] * 1001,
]  # fmt: skip
TYPES = [
    "", "text/plain", "application/json; charset=utf-16", "application/octet-stream",
    "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x",
    "application/json" * 20, "image/jpeg", "*/*",
]  # fmt: skip


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def mutated(
    body: dict[str, Any], token: str, chance: random.Random
) -> tuple[bytes, dict[str, str]]:
    """A body and headers that came of a valid body and the token of its user."""
    headers = {"Content-Type": "application/json", "Authorization": token}
    for _ in range(chance.randrange(3)):
        body = changed(body, chance)
    text = json.dumps(body, ensure_ascii=chance.random() < 0.8)
    if chance.random() < 0.05:
        text = text.replace("null", nested(chance.choice([10, 1000, 50_000])), 1)
    if chance.random() < 0.05:  # a key twice
        text = text.replace("{", '{"k": 1, "k": -1, ', 1)
    raw = text.encode(chance.choice(["utf-8"] * 18 + ["utf-16", "utf-32"]), "surrogatepass")
    for _ in range(chance.choice([0, 0, 1, 3])):
        raw = torn(raw, chance)
    if chance.random() < 0.1:
        headers["Content-Type"] = chance.choice(TYPES)
    if chance.random() < 0.05:
        name = chance.choice(
            ["Content-Encoding", "Accept", "Expect", "X-Request-Id", "Authorization"]
        )
        headers[name] = chance.choice(["gzip", "x", "", "a" * 2000, "Bearer a.b.c", token[:-9]])
    return raw, headers


def changed(value: Any, chance: random.Random) -> Any:
    """The value with something in it changed, put in or left out."""
    if chance.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return chance.choice(ODD)
    if isinstance(value, list):
        place = chance.randrange(len(value))
        return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
    key, what = chance.choice(list(value)), chance.random()
    rest = {name: each for name, each in value.items() if name != key}
    if what < 0.15:
        return rest
    if what < 0.3:
        name = "".join(chance.choices(string.printable, k=chance.randrange(10)))
        return value | {name: chance.choice(ODD)}
    return value | {key: changed(value[key], chance)}


def torn(raw: bytes, chance: random.Random) -> bytes:
    """The bytes with some flipped, cut off, doubled or put in."""
    place = chance.randrange(len(raw) + 1)
    match chance.randrange(4):
        case 0:
            return raw[:place]
        case 1:
            return raw[:place] + raw[place : place + chance.randrange(20)] + raw[place:]
        case 2:
            return raw[:place] + chance.randbytes(chance.randrange(1, 9)) + raw[place:]
    flipped = bytearray(raw)
    for _ in range(chance.randrange(1, 9) if raw else 0):
        flipped[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def requests(count: int, seed: int, events: bool) -> Iterator[Request]:
    """Mutated requests to all kinds."""
    chance, token = random.Random(seed), bearer(sub="u1", exp=int(time.time()) + 3600)
    bodies = [(kind, body) for kind, all_of_kind in VALID.items() for body in all_of_kind]
    if events:
        bodies.append(("recommend", EVENTS))
    for _ in range(count):
        kind, body = chance.choice(bodies)
        yield Request(f"/predictions/{kind}", *mutated(body, token, chance))


@contextmanager
def proxied(server: Server, folder: Path) -> Iterator[str]:
    """Address of a proxy before the server, as `hybrid up` starts it but for limits a client."""
    if (program := nginx_program()) is None:
        yield f"http://127.0.0.1:{server.inference}"
        return
    folder.mkdir()
    address = f"127.0.0.1:{free_port()}"
    proxy = ServingProxy(
        address, server.inference, str(folder), requests_per_second=100_000, burst=100_000
    )
    file = folder / "nginx.conf"
    file.write_text(serving_configuration(proxy))
    process = subprocess.Popen(nginx_command(program, file))
    try:
        retry(
            retry=retry_if_exception_type(httpx.TransportError), stop=stop_after_delay(20),
            wait=wait_fixed(0.05),
        )(httpx.get)(f"http://{address}/ping")  # fmt: skip
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    say = Console().print
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = {"recommend": small_recommender(scratch / "recommend")} | small_models(scratch)
        variables = {}
        if session_store_program() is not None:
            (scratch / "sessions").mkdir()
            store = SessionStore(scratch / "sessions")
            store.start()
            stack.callback(store.end)
            variables = store.variables | token_variables("token", [PUBLIC])
        (scratch / "server").mkdir()
        server = stack.enter_context(torchserve(scratch / "server", variables))
        for name, artifact in models.items():
            archive = archives_of(server.folder) / f"{name}.mar"
            build_archive(artifact, DIGEST, archive)
            server.register(archive)
        url = stack.enter_context(proxied(server, scratch / "proxy"))

        def answers() -> list[str]:
            return [
                httpx.post(f"{url}/predictions/{kind}", json=body).text
                for kind, bodies in VALID.items()
                for body in bodies
                if "user" not in body or kind == "rating"
            ]

        before, workers = answers(), server.workers()
        statuses: Counter[int | str] = Counter()
        failed: list[tuple[Request, int | str, bytes]] = []

        def tell(request: Request, status: int | str, body: bytes) -> None:
            statuses[status] += 1
            if status not in range(200, 500) and len(failed) < 20:
                failed.append((request, status, body))
            if (done := statuses.total()) % 10_000 == 0:
                say(f"{done:,} of {options.requests:,}")

        asked = requests(options.requests, options.seed, bool(variables))
        asyncio.run(drive(url, asked, options.clients, tell))
        same, alive = answers() == before, server.workers() == workers
    told = sorted(statuses.items(), key=str)
    by_status = ", ".join(f"{count:,} x {status}" for status, count in told)
    say(f"{statuses.total():,} requests, seed {options.seed}: {by_status}")
    say(f"the same workers afterwards: {alive}; the same answers to valid requests: {same}")
    for request, status, body in failed:
        say(f"{status} {request.path} {request.headers} {request.body[:200]!r}: {body[:200]!r}")
    if failed or not (same and alive):
        sys.exit(1)


if __name__ == "__main__":
    main()
