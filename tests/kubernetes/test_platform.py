"""The platform layer on a real API: accepted, stable, admitted, closed, and gone at the end."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from infra.offline.errors import OfflineError
from infra.offline.kubernetes import TYPES
from infra.offline.resource import Request

NAMESPACES = ("serving", "sessions", "federation", "training")
DEPLOYMENT, JOB = "kubernetes:apps/v1:Deployment", "kubernetes:batch/v1:Job"
CLAIM = "kubernetes:core/v1:PersistentVolumeClaim"
BUDGET, NAMESPACE = "kubernetes:policy/v1:PodDisruptionBudget", "kubernetes:core/v1:Namespace"
GUEST = {
    "metadata": {"name": "guest"},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "guest",
                "image": "guest:1",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {
                    "requests": {"cpu": "1m", "memory": "1Mi"},
                    "limits": {"memory": "1Mi"},
                },
            }
        ],
    },
}


def items(cluster, path: str) -> list[dict[str, Any]]:
    return cluster.call("GET", path)["items"]


def of_kind(manifests, kind: str) -> list[dict[str, Any]]:
    return [inputs for found, inputs in manifests if found == kind]


def apply(cluster, path: str, body: dict[str, Any]) -> None:
    """Apply an object that the platform does not have."""
    headers = {"Content-Type": "application/apply-patch+yaml"}
    params = {"fieldManager": "test", "force": "true"}
    cluster.call("PATCH", path, params=params, headers=headers, content=json.dumps(body))


def test_every_manifest_is_accepted(applied):
    assert {DEPLOYMENT, JOB, CLAIM} <= {kind for kind, _, _ in applied}
    assert {i for kind, i, _ in applied if kind.endswith(":Namespace")} >= set(NAMESPACES)


def test_a_field_that_does_not_exist_is_refused(cluster, manifests, applied):
    misspelt = copy.deepcopy(of_kind(manifests, DEPLOYMENT)[0])
    misspelt["spec"]["template"]["spec"]["nodeSelektor"] = {}
    with pytest.raises(OfflineError, match="nodeSelektor: field not declared in schema"):
        TYPES[DEPLOYMENT].create(cluster, Request("urn", misspelt, "mark"))


def test_applying_again_changes_nothing(cluster, manifests, applied, until):
    for (kind, inputs), (_, identity, _) in zip(manifests, applied, strict=True):

        def stays(kind=kind, inputs=inputs, identity=identity) -> bool:
            TYPES[kind].read(cluster, identity, {})
            before = cluster.version
            TYPES[kind].configure(cluster, identity, inputs, inputs)
            return cluster.version == before

        # Controllers write as well, for a moment; a change of ours would come every time.
        until(stays, f"{kind} {identity} stays as it is", 20)


def test_quotas_and_admission_let_every_pod_in(cluster, manifests, applied, until):
    wanted = {
        (d["metadata"]["namespace"], d["metadata"]["name"]): d["spec"]["replicas"]
        for d in of_kind(manifests, DEPLOYMENT)
    }

    def made() -> dict[tuple[str, str], int]:
        return {
            (d["metadata"]["namespace"], d["metadata"]["name"]): d["status"].get("replicas", 0)
            for d in items(cluster, "/apis/apps/v1/deployments")
        }

    until(lambda: made() == wanted, "each Deployment has its pods")
    (job,) = of_kind(manifests, JOB)
    path = "/apis/batch/v1/namespaces/training/jobs"
    active = job["spec"]["parallelism"]
    until(lambda: items(cluster, path)[0]["status"].get("active") == active, "the Job has its pods")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_namespace_takes_no_more_than_its_pods_need(cluster, applied, until, namespace):
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    (quota,) = items(cluster, path)
    assert {"pods", "requests.cpu", "limits.memory"} <= quota["spec"]["hard"].keys()
    until(lambda: items(cluster, path)[0]["status"].get("used"), "the quota counts")
    greedy = copy.deepcopy(GUEST)
    greedy["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "500"
    with pytest.raises(OfflineError, match="exceeded quota"):
        cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods", json=greedy)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_pod_with_more_rights_is_refused(cluster, applied, namespace):
    root = copy.deepcopy(GUEST)
    root["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(OfflineError, match='violates PodSecurity "restricted'):
        cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods", json=root)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_what_no_policy_allows_is_denied(cluster, applied, namespace):
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    policies = {each["metadata"]["name"]: each["spec"] for each in items(cluster, path)}
    assert policies.pop("default-deny") == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    (pods,) = policies.values()
    labels = {
        pod["metadata"]["labels"]["app.kubernetes.io/name"]
        for pod in items(cluster, f"/api/v1/namespaces/{namespace}/pods")
    }
    assert labels == {pods["podSelector"]["matchLabels"]["app.kubernetes.io/name"]}


def test_budgets_count_the_pods_they_protect(cluster, manifests, applied, until):
    guarded = {each["metadata"]["namespace"] for each in of_kind(manifests, BUDGET)}
    assert guarded == {"serving", "federation"}
    wanted = {
        each["metadata"]["namespace"]: each["spec"]["replicas"]
        for each in of_kind(manifests, DEPLOYMENT)
        if each["metadata"]["namespace"] in guarded
    }

    def counted() -> dict[str, int]:
        return {
            each["metadata"]["namespace"]: each["status"].get("expectedPods", 0)
            for each in items(cluster, "/apis/policy/v1/poddisruptionbudgets")
        }

    until(lambda: counted() == wanted, "each budget knows its pods")


def test_the_autoscaler_of_google_cloud_gets_its_pod_too(cluster, autoscaler_on_google, until):
    """Which reads its key from a file, where the other clouds' have it in their environment."""
    made = [
        (kind, *TYPES[kind].create(cluster, Request("urn", inputs, "mark")))
        for kind, inputs in autoscaler_on_google
    ]
    path = "/api/v1/namespaces/autoscaler-on-google/pods"
    (pod,) = until(lambda: items(cluster, path), "the Deployment has its pod")
    files = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "files")
    secret = f"/api/v1/namespaces/autoscaler-on-google/secrets/{files['secret']['secretName']}"
    assert cluster.call("GET", secret)["data"].keys() == {"gce.conf", "key.json"}
    for kind, identity, state in reversed(made):
        TYPES[kind].delete(cluster, identity, state)


def test_a_volume_grows_in_place_and_does_not_shrink(cluster, applied, until):
    """On a class that allows it, with a volume bound by hand, since no driver runs here."""
    name = {"metadata": {"name": "growing"}}
    apply(
        cluster,
        "/apis/storage.k8s.io/v1/storageclasses/growing",
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", **name}
        | {"provisioner": "example.org/none", "allowVolumeExpansion": True},
    )
    spec = {
        "capacity": {"storage": "5Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "growing",
        "csi": {"driver": "example.org", "volumeHandle": "1"},
    }
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", **name, "spec": spec}
    apply(cluster, "/api/v1/persistentvolumes/growing", volume)

    def claim(size: str) -> dict[str, Any]:
        return {
            "metadata": {"name": "growing", "namespace": "default"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "growing",
                "volumeName": "growing",
                "resources": {"requests": {"storage": size}},
            },
        }

    identity, _ = TYPES[CLAIM].create(cluster, Request("urn", claim("5Gi"), "mark"))
    until(
        lambda: TYPES[CLAIM].read(cluster, identity, {})["status"]["phase"] == "Bound",
        "the claim is bound",
    )
    grown = TYPES[CLAIM].configure(cluster, identity, claim("8Gi"), claim("5Gi"))
    assert grown["spec"]["resources"] == {"requests": {"storage": "8Gi"}}
    with pytest.raises(OfflineError, match="can not be less than status.capacity"):
        TYPES[CLAIM].configure(cluster, identity, claim("1Gi"), claim("8Gi"))


def test_the_plugin_deletes_all_that_it_made(cluster, applied):
    def delete(made: tuple[str, str, dict[str, Any]]) -> None:
        kind, identity, state = made
        TYPES[kind].delete(cluster, identity, state)

    for made in reversed(applied):
        if made[0] != NAMESPACE:
            delete(made)
    with ThreadPoolExecutor() as pool:  # the API keeps each namespace for some seconds
        list(pool.map(delete, [made for made in applied if made[0] == NAMESPACE]))
    left = {each["metadata"]["name"] for each in items(cluster, "/api/v1/namespaces")}
    assert not left & {identity for kind, identity, _ in applied if kind == NAMESPACE}
