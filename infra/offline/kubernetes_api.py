"""A recorded Kubernetes API: keeps what is applied to it, and runs nothing.

``python -m infra.offline.kubernetes_api --port N --folder DIR`` serves the REST paths of any
resource (``/api/v1/…``, ``/apis/GROUP/VERSION/…``) on 127.0.0.1: get, list, create, replace, patch
(server-side apply and merge patch) and delete.  Objects are JSON files below DIR.  There is no
controller behind it: a Deployment is stored, no pod starts.  Where a real kube-apiserver is to be
had, use that.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.offline.files import write_private

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[a-z0-9.-]+/v[a-z0-9]+))"
    r"(?:/namespaces/(?P<namespace>[a-z0-9-]+)(?=/))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[a-z0-9.-]+))?$"
)
_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
_FIRST_NAMESPACES = ("default", "kube-system")
_CLUSTER_SCOPE = "_cluster"


class Refusal(Exception):
    """What the API answers instead: an HTTP status, its reason word and a sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Records:
    """Objects as files: ``FOLDER/<group and version>/<plural>/<namespace>/<name>.json``.

    A file holds the object and, for each field manager, what it applied last: server-side apply
    removes the fields that a manager no longer mentions.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in _FIRST_NAMESPACES:
            if not self.file("v1", "namespaces", None, name).exists():
                body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                self.create("v1", "namespaces", None, body)

    def file(self, version: str, plural: str, namespace: str | None, name: str) -> Path:
        group = self._folder / version.replace("/", "_") / plural
        return group / (namespace or _CLUSTER_SCOPE) / f"{name}.json"

    def get(self, version: str, plural: str, namespace: str | None, name: str) -> dict[str, Any]:
        """The record of an object; refused with 404 when there is none."""
        try:
            return json.loads(self.file(version, plural, namespace, name).read_text())
        except FileNotFoundError:
            raise Refusal(404, "NotFound", f'{plural} "{name}" not found') from None

    def list(self, version: str, plural: str, namespace: str | None) -> Iterator[dict[str, Any]]:
        """All objects of a namespace, or of all namespaces."""
        group = self._folder / version.replace("/", "_") / plural
        for file in sorted(group.glob(f"{namespace or '*'}/*.json")):
            yield json.loads(file.read_text())["object"]

    def create(
        self,
        version: str,
        plural: str,
        namespace: str | None,
        body: dict[str, Any],
        applied: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Store a new object."""
        name = body.get("metadata", {}).get("name", "")
        if not _NAME.match(name):
            raise Refusal(422, "Invalid", f'{plural} "{name}" is invalid: metadata.name')
        if self.file(version, plural, namespace, name).exists():
            raise Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
        if namespace is not None and not self.file("v1", "namespaces", None, namespace).exists():
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        body = _merge(
            body,
            {
                "metadata": {
                    "uid": str(uuid.uuid4()),
                    "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "resourceVersion": "1",
                    "generation": 1,
                }
                | ({"namespace": namespace} if namespace else {})
            },
        )
        if plural == "namespaces":
            body["status"] = {"phase": "Active"}
        self._write(version, plural, namespace, name, {"object": body, "applied": applied or {}})
        return body

    def replace(
        self,
        version: str,
        plural: str,
        namespace: str | None,
        record: dict[str, Any],
        body: dict[str, Any],
        applied: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Store a new content of the object in ``record``; the server's own fields stay."""
        old = record["object"]
        kept = ("uid", "creationTimestamp", "resourceVersion", "generation", "namespace", "name")
        metadata = {key: old["metadata"][key] for key in kept if key in old["metadata"]}
        body = body | {"metadata": body.get("metadata", {}) | metadata}
        if "status" in old:
            body["status"] = old["status"]
        applied = record["applied"] if applied is None else applied
        if body != old:
            metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
            if body.get("spec") != old.get("spec"):
                metadata["generation"] += 1
            body["metadata"] |= metadata
        if body != old or applied != record["applied"]:
            record = {"object": body, "applied": applied}
            self._write(version, plural, namespace, metadata["name"], record)
        return body

    def delete(self, version: str, plural: str, namespace: str | None, name: str) -> None:
        """Remove an object; a namespace goes with all that is in it."""
        self.get(version, plural, namespace, name)
        self.file(version, plural, namespace, name).unlink()
        if plural == "namespaces":
            for folder in self._folder.glob(f"*/*/{name}"):
                shutil.rmtree(folder)

    def _write(
        self,
        version: str,
        plural: str,
        namespace: str | None,
        name: str,
        record: dict[str, Any],
    ) -> None:
        file = self.file(version, plural, namespace, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, json.dumps(record).encode())  # secrets are among the objects


def _merge(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _without_dropped(live: Any, before: Any, now: Any) -> Any:
    """``live`` less the fields that a manager applied before and does not apply now."""
    if not isinstance(live, dict) or not isinstance(before, dict):
        return live
    now = now if isinstance(now, dict) else {}
    return {
        key: _without_dropped(value, before.get(key), now.get(key))
        for key, value in live.items()
        if key in now or key not in before
    }


def application(folder: Path) -> Starlette:
    """The API as an ASGI application over the records in ``folder``."""
    records = Records(folder)

    async def resource(request: Request) -> Response:
        # One process and no await between reading and writing: calls do not interleave.
        body = yaml.safe_load(await request.body()) if request.method in _WITH_BODY else None
        try:
            return _answer(records, request, body)
        except Refusal as refusal:
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "message": str(refusal),
                "reason": refusal.reason,
                "code": refusal.status,
            }
            return JSONResponse(status, status_code=refusal.status)

    async def ready(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def version(request: Request) -> Response:
        return JSONResponse({"major": "1", "minor": "36", "gitVersion": "v1.36.3+recorded"})

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return Starlette(
        routes=[
            *(Route(path, ready) for path in ("/readyz", "/livez", "/healthz")),
            Route("/version", version),
            Route("/{path:path}", resource, methods=methods),
        ]
    )


_WITH_BODY = ("POST", "PUT", "PATCH")


def _answer(records: Records, request: Request, body: Any) -> Response:
    match = _PATH.match(request.url.path)
    if match is None:
        raise Refusal(404, "NotFound", f"there is no resource at {request.url.path}")
    version = match["core"] or match["group"]
    plural, namespace, name = match["plural"], match["namespace"], match["name"]
    if request.method in _WITH_BODY and not isinstance(body, dict):
        raise Refusal(400, "BadRequest", "the body is not an object")
    if request.method == "GET" and name is None:
        items = list(records.list(version, plural, namespace))
        if selector := request.query_params.get("labelSelector"):
            wanted = dict(part.split("=", 1) for part in selector.replace("==", "=").split(","))
            items = [
                each
                for each in items
                if wanted.items() <= (each["metadata"].get("labels") or {}).items()
            ]
        return JSONResponse({"kind": "List", "apiVersion": version, "metadata": {}, "items": items})
    if request.method == "POST" and name is None:
        return JSONResponse(records.create(version, plural, namespace, body), status_code=201)
    if name is None:
        raise Refusal(405, "MethodNotAllowed", f"{request.method} needs the name of an object")
    if request.method == "DELETE":
        records.delete(version, plural, namespace, name)
        return JSONResponse({"kind": "Status", "apiVersion": "v1", "status": "Success"})
    kind = request.headers.get("content-type", "").partition(";")[0]
    if request.method == "PATCH" and kind == "application/apply-patch+yaml":
        return _apply(records, version, plural, namespace, name, request, body)
    record = records.get(version, plural, namespace, name)
    if request.method == "PUT":
        return JSONResponse(records.replace(version, plural, namespace, record, body))
    if request.method == "PATCH":
        if kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
            raise Refusal(415, "UnsupportedMediaType", f"cannot patch with {kind!r}")
        merged = _merge(record["object"], body)
        return JSONResponse(records.replace(version, plural, namespace, record, merged))
    return JSONResponse(record["object"])


def _apply(
    records: Records,
    version: str,
    plural: str,
    namespace: str | None,
    name: str,
    request: Request,
    body: dict[str, Any],
) -> Response:
    manager = request.query_params.get("fieldManager")
    if not manager:
        raise Refusal(400, "BadRequest", "server-side apply needs the parameter fieldManager")
    if body.get("metadata", {}).get("name") != name:
        raise Refusal(400, "BadRequest", "metadata.name does not match the path")
    if not records.file(version, plural, namespace, name).exists():
        made = records.create(version, plural, namespace, body, {manager: body})
        return JSONResponse(made, status_code=201)
    record = records.get(version, plural, namespace, name)
    kept = _without_dropped(record["object"], record["applied"].get(manager, {}), body)
    applied = record["applied"] | {manager: body}
    merged = _merge(kept, body)
    return JSONResponse(records.replace(version, plural, namespace, record, merged, applied))


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m infra.offline.kubernetes_api")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    app = application(arguments.folder)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
