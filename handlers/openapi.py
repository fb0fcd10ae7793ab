"""One OpenAPI 3.1 document of all endpoints, made from the classes that parse requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from handlers.kinds import KINDS, Kind
from handlers.requests import (
    ClickRequest,
    EventsRequest,
    Problem,
    RatingRequest,
    RecommendRequest,
    SearchRequest,
    SimilarRequest,
    VectorRequest,
)
from handlers.tokens import AUDIENCE

SCHEMAS = "#/components/schemas/"
REQUESTS = {
    "recommend": (RecommendRequest, SimilarRequest, EventsRequest, VectorRequest),
    "search": (SearchRequest,),
    "rating": (RatingRequest,),
    "click": (ClickRequest,),
}
# What TorchServe itself says: no such model, too large, too many requests, no worker, no memory.
SERVERS_OWN = {
    "type": "object",
    "properties": {
        "code": {"type": "integer"},
        "type": {"type": "string"},
        "message": {"type": "string"},
    },
    "required": ["code", "type", "message"],
}
# What is asked of who posts or asks for a user; see `handlers.tokens`.
EVENT_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "Asked of who posts events or names a user, where the service keeps what users "
    f"did and does not answer just anybody: signed with Ed25519, with aud {AUDIENCE!r}, iat, exp and "
    "the user as sub, or any_user: true. Nothing else that is asked needs one.",
}


def openapi_document(kinds: Sequence[Kind] = KINDS) -> dict[str, Any]:
    """The document, which any served model gives to who accepts ``application/openapi+json``."""
    requests = [(cls, "validation") for kind in kinds for cls in REQUESTS[kind.name]]
    answers = [(cls, "validation") for kind in kinds for cls in (kind.response, *kind.others)]
    _, schemas = models_json_schema(
        [*requests, *dict.fromkeys(answers), (Problem, "validation")],
        ref_template=SCHEMAS + "{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hybrid",
            "version": "1",
            "description": "Recommendations, search, ratings and clicks, as TorchServe serves "
            "them. Ask /predictions/<kind>/<version> for one version of a model.",
        },
        "paths": {f"/predictions/{kind.name}": _path(kind) for kind in kinds},
        "components": {
            "schemas": schemas["$defs"] | {"ServersOwn": SERVERS_OWN},
            "securitySchemes": {"eventToken": EVENT_TOKEN},
        },
    }


def _path(kind: Kind) -> dict[str, Any]:
    takes_events = EventsRequest in REQUESTS[kind.name]
    asked = [_of(cls) for cls in REQUESTS[kind.name]]
    answers = [_of(cls) for cls in (kind.response, *kind.others)]
    return {
        "post": {
            "operationId": kind.name,
            "summary": kind.response.__doc__,
            **({"security": [{}, {"eventToken": []}]} if takes_events else {}),
            "requestBody": {
                "required": True,
                "content": _json(_one_of(asked)),
            },
            "responses": {
                "200": {
                    "description": "The answer",
                    "headers": {
                        "Server-Timing": {
                            "description": "Milliseconds of the batch by part",
                            "schema": {"type": "string"},
                        }
                    },
                    "content": _json(_one_of(answers)),
                },
                "400": _refusal("The request is not as described"),
                **(_event_refusals() if takes_events else {}),
                "422": _refusal("The model does not know what the request is about"),
                "409": _refusal("The vector is of another model"),
                "421": _refusal("What is private to a site goes to that site's service only"),
                "4XX": _refusal("There is no such model, or the request is too large", SERVERS_OWN),
                "5XX": _refusal(
                    "The model failed, no worker is free, or no session store", SERVERS_OWN
                ),
            },
        }
    }


def _event_refusals() -> dict[str, Any]:
    return {
        "401": _refusal("A user is named without a token, or with one that is not good"),
        "403": _refusal("The token is for another user than the request"),
    }


def _refusal(description: str, also: dict[str, Any] | None = None) -> dict[str, Any]:
    problem = _of(Problem)
    schema = {"anyOf": [problem, {"$ref": f"{SCHEMAS}ServersOwn"}]} if also else problem
    return {"description": description, "content": _json(schema)}


def _one_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"oneOf": schemas}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _of(cls: type) -> dict[str, str]:
    return {"$ref": SCHEMAS + cls.__name__}
