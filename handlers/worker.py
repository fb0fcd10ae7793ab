"""A model in a worker of TorchServe: batches of requests are parsed, answered and written.

A bad request gets {"error": sentence} with a 4xx status and leaves the other requests of its batch
alone. Who accepts application/openapi+json gets the OpenAPI document. The header Server-Timing
tells the milliseconds of the batch by part.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from handlers.afterwards import Afterwards, Batch
from handlers.drift import observer_of
from handlers.errors import Refused
from handlers.kinds import kind_in
from handlers.meter import Meter
from handlers.openapi import openapi_document
from handlers.replies import accepted, answers_of, reply
from handlers.stopwatch import Stopwatch
from handlers.tokens import open_tokens
from handlers.tracing import Origin, open_tracer

if TYPE_CHECKING:
    from ts.context import Context

# Requests that are answered when the model is loaded: the first user does not wait for what is set
# up at the first of them.
WARM_UP = 16
CAUSE = "X-Hybrid-Cause"


class Worker:
    """Answers by one model.

    Parameters
    ----------
    folder
        Of the unpacked archive.
    version
        The model's digest, without the name of the hash.
    """

    def __init__(self, folder: str, version: str) -> None:
        artifact = Path(folder) / "artifact"
        self.digest = f"sha256:{version}"
        self.document = json.dumps(openapi_document()).encode()
        self.kind = kind_in(artifact)
        self.model = self.kind.open(artifact)
        # The products of a few requests are too small to be shared out, and threads that wait for
        # work by spinning take the cores from the server; loading had all of them.
        torch.set_num_threads(1)
        example = self.model.example()
        for _ in range(WARM_UP):
            answers_of(self.model, [example], Stopwatch())
        self.tokens = open_tokens()
        self.afterwards = Afterwards(
            Meter(self.kind.name, self.digest),
            observer_of(self.model, artifact),
            open_tracer(self.kind.name, self.digest),
        )
        self.afterwards.start()

    def answer(self, data: list[dict[str, Any]], context: Context) -> list[bytes]:
        """Bodies of the responses to a batch, in its order; the rest of them is in the context."""
        watch = Stopwatch()
        answers: list[Any] = [None] * len(data)
        good: dict[int, Any] = {}
        # TorchServe passes on headers only, neither method nor query of a request.
        origins = [Origin.of(context.get_all_request_header(place)) for place in range(len(data))]
        with watch("parse"):
            for place, (row, origin) in enumerate(zip(data, origins, strict=True)):
                if "application/openapi+json" in origin.accepts:
                    continue
                body = row.get("body", row.get("data"))
                try:
                    good[place] = accepted(
                        self.kind, body, self.digest, origin.request_id, self.tokens,
                        origin.authorization,
                    )  # fmt: skip
                except Refused as error:
                    answers[place] = error
        found = answers_of(
            self.model, list(good.values()), watch, [origins[place] for place in good]
        )
        for place, answer in zip(good, found, strict=True):
            answers[place] = answer
        written = [
            self._written(answer, place, watch, context) for place, answer in enumerate(answers)
        ]
        self.afterwards.add(
            Batch(origins, answers, good, time.time_ns(), watch.seconds, watch.milliseconds)
        )
        return written

    def _written(self, answer: Any, place: int, watch: Stopwatch, context: Context) -> bytes:
        """The body of a response; its status and headers go to the context."""
        context.set_response_content_type(place, "application/json")
        if answer is None:
            return self.document
        status, body = reply(answer, self.digest)
        if status == 200:
            context.set_response_header(place, "Server-Timing", watch.header)
        else:
            context.set_response_status(status, HTTPStatus(status).phrase, place)
            if status == HTTPStatus.UNAUTHORIZED:
                context.set_response_header(place, "WWW-Authenticate", "Bearer")
            # A trial of two versions counts neither as failed for what both stand beside.
            if cause := getattr(answer, "cause", ""):
                context.set_response_header(place, CAUSE, cause)
        return body


class Unmeasured:
    """In the place of the metrics of TorchServe's worker, which has a line for each batch's time.

    What is counted of batches `handlers.meter` writes once a second.
    """

    request_ids: dict[int, str]

    def add_time(self, name: str, milliseconds: float) -> None:
        """Take no note of a time."""
