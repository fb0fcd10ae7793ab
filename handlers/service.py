"""What TorchServe loads, whatever the model: it speaks HTTP, the model's kind does the rest.

POST a request to /predictions/<kind> and get its answer; a bad request gives {"error": sentence}
with a 4xx status and leaves the other requests of its batch alone. Who accepts
application/openapi+json gets the OpenAPI document. The header Server-Timing tells the milliseconds
of the batch by part.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ts.context import Context

    from handlers.stopwatch import Stopwatch

# Requests that are answered when the model is loaded: the first user does not wait for what is set
# up at the first of them.
WARM_UP = 16
CAUSE = "X-Hybrid-Cause"


class Service:
    """The one class that TorchServe finds here.

    Imports are inside the methods: TorchServe takes an ImportError of this file for a missing
    handler and hides its cause.
    """

    def initialize(self, context: Context) -> None:
        """Load the model from the unpacked archive."""
        import torch

        from handlers.afterwards import Afterwards
        from handlers.drift import observer_of
        from handlers.kinds import kind_in
        from handlers.meter import Meter
        from handlers.openapi import openapi_document
        from handlers.replies import answers_of
        from handlers.stopwatch import Stopwatch
        from handlers.tokens import open_tokens
        from handlers.tracing import open_tracer

        folder = Path(context.system_properties["model_dir"])
        self.digest = f"sha256:{context.manifest['model']['modelVersion']}"
        self.document = json.dumps(openapi_document()).encode()
        self.kind = kind_in(folder / "artifact")
        self.model = self.kind.open(folder / "artifact")
        # The products of a few requests are too small to be shared out, and threads that wait for
        # work by spinning take the cores from the server; loading had all of them.
        torch.set_num_threads(1)
        # TorchServe's worker logs lines for each batch, which the server reads and throws away.
        # A filter sees what its own logger is given, and no other's.
        for name in (None, "ts.metrics.caching_metric"):
            logging.getLogger(name).addFilter(_worth_a_line)
        log_as_json()
        example = self.model.example()
        for _ in range(WARM_UP):
            answers_of(self.model, [example], Stopwatch())
        self.tokens = open_tokens()
        self.afterwards = Afterwards(
            Meter(self.kind.name, self.digest),
            observer_of(self.model, folder / "artifact"),
            open_tracer(self.kind.name, self.digest),
        )
        self.afterwards.start()

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[bytes]:
        """Answer a batch of requests, in their order."""
        from handlers.afterwards import Batch
        from handlers.errors import Refused
        from handlers.replies import accepted, answers_of
        from handlers.stopwatch import Stopwatch
        from handlers.tracing import Origin

        watch = Stopwatch()
        answers: list[Any] = [None] * len(data)
        good: dict[int, Any] = {}
        # TorchServe passes on headers only, neither method nor query of a request.
        origins = [Origin.of(context.get_all_request_header(place)) for place in range(len(data))]
        with watch("parse"):
            for place, row in enumerate(data):
                if "application/openapi+json" in origins[place].accepts:
                    continue
                body = row.get("body", row.get("data"))
                try:
                    good[place] = accepted(
                        self.kind,
                        body,
                        self.digest,
                        origins[place].request_id,
                        self.tokens,
                        origins[place].authorization,
                    )
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
        from handlers.replies import reply

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


def _worth_a_line(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(("Backend received inference", "[METRICS]PredictionTime"))


def log_as_json() -> None:
    """Let our own records be lines of JSON; TorchServe reads its metrics from other lines."""
    from pythonjsonlogger.json import JsonFormatter

    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(
        JsonFormatter(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
        )
    )
    for package in ("handlers", "recsys"):
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [output], False
