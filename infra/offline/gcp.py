"""Cloud Storage buckets over the JSON API of fake-gcs-server (or any endpoint that speaks it)."""

from __future__ import annotations

from typing import Any

from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType, resource_mark

MARK_LABEL = "hybrid-offline"


class CloudStorage:
    """The JSON API at the provider's ``storageCustomEndpoint``."""

    def __init__(self, configuration: Properties) -> None:
        endpoint = configuration.get("storageCustomEndpoint")
        if not endpoint:
            raise OfflineError(
                "the gcp provider has no endpoint for Cloud Storage: set its "
                "`storageCustomEndpoint`, for the offline plugin never calls the real Google Cloud"
            )
        import httpx

        self.project = configuration.get("project") or "local"
        self.default_labels: dict[str, str] = configuration.get("defaultLabels") or {}
        token = configuration.get("accessToken")
        self._http = httpx.Client(
            base_url=endpoint if endpoint.endswith("/") else f"{endpoint}/",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=30.0,
            trust_env=False,  # a proxy has no business between this machine and itself
        )

    def call(self, method: str, path: str, **options: Any) -> Properties | None:
        """The answer to a call; None when the object does not exist."""
        answer = self._http.request(method, path, **options)
        if answer.status_code == 404:
            return None
        if answer.is_error:
            raise OfflineError(
                f"Cloud Storage refused {method} {path}: {answer.text.strip()[:300]}"
            )
        return answer.json() if answer.content else {}

    def labels(self, inputs: Properties) -> dict[str, str]:
        """The provider's default labels, overridden by the resource's own."""
        return self.default_labels | (inputs.get("labels") or {})


_CONDITIONS = {
    "matchesPrefixes": "matchesPrefix",
    "matchesSuffixes": "matchesSuffix",
    "matchesStorageClasses": "matchesStorageClass",
}
_IS_LIVE = {"LIVE": True, "ARCHIVED": False}


def _condition(condition: Properties) -> Properties:
    converted = {_CONDITIONS.get(name, name): value for name, value in condition.items()}
    state = converted.pop("withState", "ANY")
    return converted | ({"isLive": _IS_LIVE[state]} if state in _IS_LIVE else {})


def _body(api: CloudStorage, inputs: Properties) -> Properties:
    """The bucket resource of the JSON API for the inputs."""
    body: Properties = {"labels": api.labels(inputs)}
    for name in ("location", "storageClass", "versioning", "encryption", "retentionPolicy"):
        if inputs.get(name) is not None:
            body[name] = inputs[name]
    if inputs.get("softDeletePolicy") is not None:
        body["softDeletePolicy"] = inputs["softDeletePolicy"]
    if inputs.get("lifecycleRules") is not None:
        body["lifecycle"] = {
            "rule": [
                {"action": rule["action"], "condition": _condition(rule["condition"])}
                for rule in inputs["lifecycleRules"]
            ]
        }
    access: Properties = {}
    if inputs.get("uniformBucketLevelAccess") is not None:
        access["uniformBucketLevelAccess"] = {"enabled": inputs["uniformBucketLevelAccess"]}
    if inputs.get("publicAccessPrevention") is not None:
        access["publicAccessPrevention"] = inputs["publicAccessPrevention"]
    return body | ({"iamConfiguration": access} if access else {})


def _create(api: CloudStorage, request: Request) -> tuple[str, Properties]:
    name = request.inputs["name"]
    found = api.call("GET", f"b/{name}")
    if found is not None:
        mark = (found.get("labels") or {}).get(MARK_LABEL)
        if mark is not None and not mark.startswith(resource_mark(request.urn)):
            raise OfflineError(
                f"the Cloud Storage bucket {name!r} exists already and belongs to another "
                "resource: choose another name, or destroy the stack that made it"
            )
        return name, {}
    body = _body(api, request.inputs) | {"name": name}
    body["labels"][MARK_LABEL] = request.mark.replace(".", "_")
    project = request.inputs.get("project") or api.project
    api.call("POST", "b", params={"project": project}, json=body)
    return name, {}


def _configure(
    api: CloudStorage, identity: str, new: Properties, old: Properties
) -> Properties | None:
    if old:
        body = {key: value for key, value in _body(api, new).items() if key != "location"}
        gone = {key: None for key in api.labels(old) if key not in api.labels(new)}
        body["labels"] |= gone
        api.call("PATCH", f"b/{identity}", json=body)
    return None


def _read(api: CloudStorage, identity: str, state: Properties) -> Properties | None:
    found = api.call("GET", f"b/{identity}")
    if found is None:
        return None
    observed: Properties = {
        "name": identity,
        "url": f"gs://{identity}",
        "selfLink": f"https://www.googleapis.com/storage/v1/b/{identity}",
        "project": state.get("project") or api.project,
        "effectiveLabels": api.labels(state),
    }
    if found.get("versioning") is not None:
        observed["versioning"] = {"enabled": bool(found["versioning"].get("enabled"))}
    # fake-gcs-server keeps little more than names: what it leaves out is not drift.
    for name in ("location", "storageClass"):
        if found.get(name):
            same = str(state.get(name, "")).lower() == found[name].lower()
            observed[name] = state[name] if same else found[name]
    if found.get("labels"):
        labels = {key: value for key, value in found["labels"].items() if key != MARK_LABEL}
        observed["effectiveLabels"] = labels
        observed["labels"] = {
            key: value for key, value in labels.items() if api.default_labels.get(key) != value
        }
    return observed


def _delete(api: CloudStorage, identity: str, state: Properties) -> None:
    if state.get("forceDestroy"):
        _delete_objects(api, identity)
    try:
        api.call("DELETE", f"b/{identity}")
    except OfflineError as error:
        raise OfflineError(
            f"the Cloud Storage bucket {identity!r} cannot be deleted: delete its objects, or set "
            f"forceDestroy on the bucket to delete them with it ({error})"
        ) from error


def _delete_objects(api: CloudStorage, bucket: str) -> None:
    from urllib.parse import quote

    query: Properties = {"versions": True}
    found: list[Properties] = []
    while page := api.call("GET", f"b/{bucket}/o", params=query):
        found += page.get("items") or ()
        if not page.get("nextPageToken"):
            break
        query["pageToken"] = page["nextPageToken"]
    # fake-gcs-server keeps old versions (and answers 404), and deletes a bucket that has only such.
    for each in found:
        api.call(
            "DELETE",
            f"b/{bucket}/o/{quote(each['name'], safe='')}",
            params={"generation": each["generation"]},
        )


connect = CloudStorage

TYPES = {
    "gcp:storage/bucket:Bucket": ResourceType(
        create=_create,
        read=_read,
        delete=_delete,
        configure=_configure,
        handled=frozenset(
            {
                "encryption",
                "forceDestroy",
                "labels",
                "lifecycleRules",
                "location",
                "name",
                "project",
                "publicAccessPrevention",
                "retentionPolicy",
                "softDeletePolicy",
                "storageClass",
                "uniformBucketLevelAccess",
                "versioning",
            }
        ),
        replace_on=("name", "location", "project"),
        name="name",
    ),
}
