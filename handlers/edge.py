"""The tiny server of an edge bundle; `handlers.bundle` packs it as the archive's ``__main__.py``.

``python edge.pyz`` checks every file of its own archive by the manifest, loads the model and
answers as TorchServe does: POST /predictions/recommend, GET /ping. Nothing of ours is imported
before it has been checked.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import socket
import sys
import zipfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.ledger import Ledger
    from handlers.tokens import Tokens
    from handlers.tower import Policy

MANIFEST, SIGNATURE, MODEL, POLICY = "manifest.json", "manifest.sig", "model", "policy.json"
EVENTS = "events.json"
# What a client may take to send a body, and how many may be waiting for an answer.
BODY_SECONDS, MOST_CLIENTS = 10.0, 64

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class EdgeServer:
    """An ASGI application around one recommender, which may be that of a private site.

    Parameters
    ----------
    folder
        A portable model.
    digest
        Of the stored model that it was made of.
    most_bytes
        The largest body that is taken.
    policy
        What the cloud is told of users; nothing by default.
    histories
        Of the site's users.
    tokens
        Tells who may post and ask for a user; None where anybody may.
    ledger
        Counts what the cloud is told of each user, where the policy limits that.
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        most_bytes: int,
        policy: Policy | None = None,
        histories: Mapping[str, Sequence[str]] | None = None,
        tokens: Tokens | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        from handlers.kinds import RECOMMEND
        from handlers.openapi import openapi_document
        from handlers.tower import CloudIndex

        self.kind = RECOMMEND
        self.model = self.kind.open(folder)
        self.model.histories = histories or {}
        self.cloud: CloudIndex | None = None
        if policy is not None and policy.shares == "vector":
            recommender = self.model.model
            runtime = recommender.runtime
            self.cloud = CloudIndex(runtime.index, recommender.places, digest, policy, ledger)
            recommender.runtime = runtime.searched_by(self.cloud)
        self.digest = digest
        self.most_bytes = most_bytes
        self.tokens = tokens
        self.document = json.dumps(openapi_document([RECOMMEND])).encode()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1"): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        timing = ""
        if scope["path"] == "/ping":
            status, body = 200, b'{"status": "Healthy"}'
        elif scope["path"] != f"/predictions/{self.kind.name}":
            status, body = _problem(404, f"There is only /ping and /predictions/{self.kind.name}.")
        elif "application/openapi+json" in headers.get("accept", ""):
            status, body = 200, self.document
        elif scope["method"] != "POST":
            status, body = _problem(405, "Send a POST with a JSON object.")
        else:
            status, body, timing = await self._predict(headers, receive)
        sent = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if timing:
            sent.append((b"server-timing", timing.encode()))
        if status == 401:
            sent.append((b"www-authenticate", b"Bearer"))
        if status in (408, 413):  # the rest of the body is not read
            sent.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    async def _predict(self, headers: dict[str, str], receive: Receive) -> tuple[int, bytes, str]:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > self.most_bytes:
                        sentence = f"The body is larger than {self.most_bytes} bytes."
                        return *_problem(413, sentence), ""
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            return *_problem(408, f"The body took more than {BODY_SECONDS:.0f} seconds."), ""
        # The cloud may take its time; others are answered meanwhile.
        return await asyncio.to_thread(
            self.answer,
            bytes(body),
            headers.get("x-request-id"),
            headers.get("authorization", ""),
        )

    def answer(
        self, body: bytes, request_id: str | None = None, authorization: str = ""
    ) -> tuple[int, bytes, str]:
        """Status, JSON and the times of the parts for the body of one request."""
        from handlers.errors import Refused
        from handlers.replies import accepted, answers_of, reply
        from handlers.stopwatch import Stopwatch

        watch = Stopwatch()
        try:
            with watch("parse"):
                request = accepted(
                    self.kind, body, self.digest, request_id, self.tokens, authorization
                )
        except Refused as error:
            return *reply(error, self.digest), ""
        user = getattr(request, "user", None)
        with self.cloud.for_user(user) if self.cloud else nullcontext():
            (answer,) = answers_of(self.model, [request], watch)
        status, text = reply(answer, self.digest)
        return status, text, watch.header if status == 200 else ""


def checked(archive: Path) -> dict[str, Any]:
    """The manifest of an archive that is what the manifest says.

    Raises
    ------
    ValueError
        A file is damaged, missing, or there without being named.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            manifest = json.loads(content.read(MANIFEST))
            wanted = {file["name"]: file["sha256"] for file in manifest["files"]}
            names = content.namelist()
            extra = set(names) - set(wanted) - {MANIFEST, SIGNATURE}
            if extra or len(names) != len(set(names)):
                raise ValueError(f"it holds {sorted(extra or names)[0]}, which its manifest lacks")
            for name, sha256 in wanted.items():
                with content.open(name) as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        raise ValueError(f"{name} is damaged")
    except (OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is damaged: {error}") from None
    return manifest


def main() -> None:
    """Serve the archive that this file lies in, until it is told to end."""
    archive = Path(__file__).parent
    parser = argparse.ArgumentParser(prog=archive.name, description="Answers with recommendations.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="0 for any that is free (8080)")
    parser.add_argument("--request-bytes", type=_size, default=1_000_000, help="largest body (1 MB)")
    parser.add_argument("--histories", type=Path, help="histories of the site's users")
    parser.add_argument("--ledger", type=Path, help="counts what of each user the cloud is told")
    parser.add_argument("--share-nothing", action="store_true", help="tell the cloud nothing")
    options = parser.parse_args()
    try:
        manifest = checked(archive)
    except ValueError as error:
        sys.exit(f"{archive} is refused: {error}; get it again.")
    # Before NumPy: on so little, its threads would wait for work by spinning.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import uvicorn

        from handlers.ledger import Ledger
        from handlers.tokens import tokens_of
        from handlers.tower import Policy, read_histories
        from recsys.errors import RecsysError

        model = zipfile.Path(archive, f"{MODEL}/")
        policy = Policy(**json.loads(zipfile.Path(archive, POLICY).read_text(encoding="utf-8")))
        events = json.loads(zipfile.Path(archive, EVENTS).read_text(encoding="utf-8"))
        if options.share_nothing:
            policy = Policy()
        ledger = None
        if policy.shares == "vector" and policy.most_vectors is not None:
            if options.ledger is None:
                raise ValueError(
                    f"The policy of {archive} lets {policy.most_vectors} vectors of each user go: "
                    "name the file that counts them with --ledger, or use --share-nothing"
                )
            ledger = Ledger(options.ledger, policy.most_vectors, policy.noise)
        # Without histories and sessions nothing is known of a user that a name would give away.
        known = options.histories or os.environ.get("HYBRID_SESSIONS")
        server = EdgeServer(
            model,
            manifest["model"],
            options.request_bytes,
            policy,
            read_histories(options.histories) if options.histories else None,
            tokens_of(events["keys"]) if known and events["credential"] != "none" else None,
            ledger,
        )
        listening = socket.create_server((options.host, options.port))
    except ImportError as error:
        sys.exit(f"{error}: install what requirements.txt in {archive} names.")
    except (OSError, OverflowError) as error:
        sys.exit(f"{archive} cannot be served at {options.host}:{options.port}: {error}.")
    except (RecsysError, ValueError) as error:
        sys.exit(f"{error}.")
    host, port = listening.getsockname()[:2]
    print(f"{manifest['model']} answers at http://{host}:{port}", flush=True)
    configuration = uvicorn.Config(
        server,
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=MOST_CLIENTS,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(configuration).run(sockets=[listening])


def _size(text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of bytes: give one from 1 on")
    return size


def _problem(status: int, sentence: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": sentence}).encode()


if __name__ == "__main__":
    main()
