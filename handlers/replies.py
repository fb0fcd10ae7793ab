"""From parsed requests to the bodies of responses, whatever server is around it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic_core import to_json

from handlers.errors import OtherModel, Refused
from handlers.parsing import parse
from handlers.requests import EventsRequest, RecommendRequest, VectorRequest

if TYPE_CHECKING:
    from handlers.kinds import Answerer, Kind
    from handlers.stopwatch import Stopwatch
    from handlers.tokens import Tokens
    from handlers.tracing import Origin

LOG = logging.getLogger(__name__)
FAILED = 500, b'{"error": "The model failed on this request; its log tells why."}'
Answer = dict[str, Any] | Exception


def accepted(
    kind: Kind,
    body: Any,
    digest: str,
    request_id: str | None,
    tokens: Tokens | None = None,
    authorization: str = "",
) -> Any:
    """The request in a body, for a model of that digest.

    Parameters
    ----------
    request_id
        The same where a client or proxy sends the same again.
    tokens
        Tells who may post and ask for a user; None where anybody may.
    authorization
        The request's header of that name.

    Raises
    ------
    Refused
        It is no request, not one to this model, or its user is not its sender's to ask for.
    """
    request = parse(kind.request, body)
    if tokens and isinstance(request, EventsRequest | RecommendRequest) and request.user is not None:
        tokens.require(request.user, authorization)
    if isinstance(request, EventsRequest):
        return request.sent_as(request_id or uuid4().hex)
    if isinstance(request, VectorRequest) and request.model != digest:
        raise OtherModel(
            f"The vector is of model {request.model}, and this is model {digest}: ask with a "
            "vector that this one has made."
        )
    return request


def answers_of(
    model: Answerer, requests: list[Any], watch: Stopwatch, origins: Iterable[Origin] = ()
) -> list[Answer]:
    """An answer a request, or what kept it from being answered; MemoryError where there is none.

    A failure is logged with the ids that the requests came with.
    """
    if not requests:
        return []
    try:
        return model.answer(requests, watch)
    except MemoryError:
        raise  # TorchServe answers 507
    except Exception as error:
        # Whatever goes wrong in the model, the server stays up and clients get an answer.
        ids = {
            "request_ids": [origin.request_id for origin in origins if origin.request_id],
            "trace_ids": [origin.trace_id for origin in origins if origin.trace_id],
        }
        LOG.exception("The model failed on a batch of %d requests", len(requests), extra=ids)
        return [error] * len(requests)


def reply(answer: Answer, digest: str) -> tuple[int, bytes]:
    """Status and JSON body of an answer by the model of that digest."""
    if isinstance(answer, Refused):
        return answer.status, json.dumps({"error": str(answer)}).encode()
    if isinstance(answer, Exception):
        return FAILED
    body = to_json(answer | {"model": digest})
    # JSON has no such numbers; ids may have such letters.
    if b"NaN" in body or b"Infinity" in body:
        try:
            json.dumps(answer, allow_nan=False)
        except ValueError:
            LOG.exception("The model gave a number that is not finite")
            return FAILED
    return 200, body
