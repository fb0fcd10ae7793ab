"""The recorded Kubernetes API answers as a real one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from infra.offline.kubernetes_api import application

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


@pytest.fixture
def api(tmp_path: Path) -> TestClient:
    return TestClient(application(tmp_path))


def config_map(name: str = "a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def apply(api: TestClient, body: dict[str, Any], manager: str = "test") -> Any:
    path = f"{CONFIG_MAPS}/{body['metadata']['name']}?fieldManager={manager}"
    return api.patch(path, json=body, headers=APPLY)


def test_apply_creates_then_changes(api: TestClient) -> None:
    first = apply(api, config_map(x="1"))
    assert first.status_code == 201
    assert first.json()["metadata"]["namespace"] == "default"
    second = apply(api, config_map(x="2"))
    assert second.status_code == 200
    assert second.json()["data"] == {"x": "2"}
    assert second.json()["metadata"]["uid"] == first.json()["metadata"]["uid"]


def test_apply_of_the_same_changes_nothing(api: TestClient) -> None:
    apply(api, config_map(x="1"))
    assert apply(api, config_map(x="1")).json()["metadata"]["resourceVersion"] == "1"


def test_apply_removes_what_its_manager_no_longer_mentions(api: TestClient) -> None:
    apply(api, config_map(mine="1"), "one")
    apply(api, config_map(theirs="2"), "two")
    assert apply(api, config_map(), "one").json()["data"] == {"theirs": "2"}


def test_objects_outlive_the_server(tmp_path: Path) -> None:
    apply(TestClient(application(tmp_path)), config_map(x="1"))
    again = TestClient(application(tmp_path))
    assert again.get(f"{CONFIG_MAPS}/a").json()["data"] == {"x": "1"}


def test_a_namespace_must_exist_and_goes_with_its_objects(api: TestClient) -> None:
    path = "/api/v1/namespaces/shop/configmaps"
    refused = api.post(path, json=config_map())
    assert refused.status_code == 404
    assert refused.json()["message"] == 'namespaces "shop" not found'
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert api.post("/api/v1/namespaces", json=namespace).status_code == 201
    assert api.post(path, json=config_map()).status_code == 201
    assert api.delete("/api/v1/namespaces/shop").status_code == 200
    assert api.get(f"{path}/a").status_code == 404


def test_lists_can_be_narrowed_by_label(api: TestClient) -> None:
    body = config_map("labelled")
    body["metadata"]["labels"] = {"app": "shop"}
    apply(api, body)
    apply(api, config_map("plain"))
    names = [each["metadata"]["name"] for each in api.get("/api/v1/configmaps").json()["items"]]
    assert names == ["labelled", "plain"]
    narrowed = api.get(f"{CONFIG_MAPS}?labelSelector=app=shop").json()["items"]
    assert [each["metadata"]["name"] for each in narrowed] == ["labelled"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", "/api/v1/namespaces/default/configmaps/none", None, 404, "NotFound"),
        ("DELETE", "/api/v1/namespaces/default/configmaps/none", None, 404, "NotFound"),
        ("GET", "/not/an/api", None, 404, "NotFound"),
        ("POST", CONFIG_MAPS, {"metadata": {"name": "Not_A_Name"}}, 422, "Invalid"),
        ("POST", CONFIG_MAPS, {"metadata": {"name": "../../x"}}, 422, "Invalid"),
        ("POST", CONFIG_MAPS, [], 400, "BadRequest"),
        ("PUT", CONFIG_MAPS, {}, 405, "MethodNotAllowed"),
        ("PATCH", f"{CONFIG_MAPS}/a", {"data": {}}, 415, "UnsupportedMediaType"),
        ("POST", "/api/v1/namespaces", {"metadata": {"name": "default"}}, 409, "AlreadyExists"),
    ],
)
def test_refusals(
    api: TestClient, method: str, path: str, body: Any, status: int, reason: str
) -> None:
    apply(api, config_map())
    answer = api.request(method, path, json=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_secrets_are_files_for_the_owner_only(api: TestClient, tmp_path: Path) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {}}
    api.post("/api/v1/namespaces/default/secrets", json=body)
    assert (tmp_path / "v1/secrets/default/a.json").stat().st_mode & 0o777 == 0o600
