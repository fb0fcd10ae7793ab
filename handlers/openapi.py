"""One OpenAPI 3.1 document of all endpoints, made from the classes that parse requests."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from handlers.kinds import KINDS, Kind
from handlers.requests import (
    ClickRequest,
    Problem,
    RatingRequest,
    RecommendRequest,
    SearchRequest,
    SimilarRequest,
)

SCHEMAS = "#/components/schemas/"
REQUESTS = {
    "recommend": (RecommendRequest, SimilarRequest),
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


def openapi_document() -> dict[str, Any]:
    """The document, which any served model gives to who accepts ``application/openapi+json``."""
    requests = [(cls, "validation") for classes in REQUESTS.values() for cls in classes]
    answers = [(kind.response, "validation") for kind in KINDS]
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
        "paths": {f"/predictions/{kind.name}": _path(kind) for kind in KINDS},
        "components": {"schemas": schemas["$defs"] | {"ServersOwn": SERVERS_OWN}},
    }


def _path(kind: Kind) -> dict[str, Any]:
    asked = [_of(cls) for cls in REQUESTS[kind.name]]
    return {
        "post": {
            "operationId": kind.name,
            "summary": kind.response.__doc__,
            "requestBody": {
                "required": True,
                "content": _json(asked[0] if len(asked) == 1 else {"oneOf": asked}),
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
                    "content": _json(_of(kind.response)),
                },
                "400": _refusal("The request is not as described"),
                "422": _refusal("The model does not know what the request is about"),
                "4XX": _refusal("There is no such model, or the request is too large", SERVERS_OWN),
                "5XX": _refusal("The model failed, or no worker is free", SERVERS_OWN),
            },
        }
    }


def _refusal(description: str, also: dict[str, Any] | None = None) -> dict[str, Any]:
    problem = _of(Problem)
    schema = {"anyOf": [problem, {"$ref": f"{SCHEMAS}ServersOwn"}]} if also else problem
    return {"description": description, "content": _json(schema)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _of(cls: type) -> dict[str, str]:
    return {"$ref": SCHEMAS + cls.__name__}
