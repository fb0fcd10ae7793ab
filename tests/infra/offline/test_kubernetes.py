"""Every Kubernetes type through the real engine on the recorded API; kubeconfigs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pulumi
import pulumi_kubernetes as kubernetes
import pytest

from infra.offline.errors import OfflineError
from infra.offline.kubernetes import TYPES, Cluster


def kubeconfig(server: str, **user: Any) -> str:
    return json.dumps(
        {
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
    )


def everything(url: str, settings: dict[str, Any]) -> None:
    provider = kubernetes.Provider("cluster", kubeconfig=pulumi.Output.secret(kubeconfig(url)))
    options = pulumi.ResourceOptions(provider=provider)
    namespace = kubernetes.core.v1.Namespace("serving", metadata={"name": "serving"}, opts=options)

    def named(name: str) -> dict[str, Any]:
        return {"name": name, "namespace": namespace.metadata["name"]}

    selector = {"match_labels": {"app": "torchserve"}}
    pod = {
        "metadata": {"labels": selector["match_labels"]},
        "spec": {
            "containers": [
                {
                    "name": "torchserve",
                    "image": settings.get("image", "torchserve:1"),
                    "ports": [{"container_port": 8080, "name": "http"}],
                }
            ]
        },
    }
    kubernetes.core.v1.ResourceQuota(
        "quota", metadata=named("quota"), spec={"hard": {"pods": "9"}}, opts=options
    )
    kubernetes.core.v1.ServiceAccount("account", metadata=named("account"), opts=options)
    kubernetes.core.v1.ConfigMap(
        "settings",
        metadata={"namespace": namespace.metadata["name"]},
        data={"mode": settings.get("mode", "fast")},
        opts=options,
    )
    kubernetes.core.v1.Secret(
        "credentials", metadata=named("credentials"), string_data={"key": "swordfish"}, opts=options
    )
    kubernetes.core.v1.PersistentVolumeClaim(
        "models",
        metadata=named("models"),
        spec={"access_modes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        opts=options,
    )
    kubernetes.apps.v1.Deployment(
        "torchserve",
        metadata=named("torchserve"),
        spec={"replicas": 2, "selector": selector, "template": pod},
        opts=options,
    )
    kubernetes.apps.v1.DaemonSet(
        "plugin",
        metadata=named("plugin"),
        spec={"selector": selector, "template": pod},
        opts=options,
    )
    kubernetes.node.v1.RuntimeClass(
        "gpu",
        metadata={"name": "gpu"},
        handler=settings.get("handler", "nvidia"),
        opts=options,
    )
    rules = [{"api_groups": [""], "resources": ["pods"], "verbs": ["get"]}]
    subjects = [{"kind": "ServiceAccount", "name": "account", "namespace": "serving"}]
    group = "rbac.authorization.k8s.io"
    kubernetes.rbac.v1.ClusterRole("all", metadata={"name": "all"}, rules=rules, opts=options)
    kubernetes.rbac.v1.ClusterRoleBinding(
        "all",
        metadata={"name": "all"},
        role_ref={"api_group": group, "kind": "ClusterRole", "name": "all"},
        subjects=subjects,
        opts=options,
    )
    kubernetes.rbac.v1.Role("some", metadata=named("some"), rules=rules, opts=options)
    kubernetes.rbac.v1.RoleBinding(
        "some",
        metadata=named("some"),
        role_ref={"api_group": group, "kind": "Role", "name": "some"},
        subjects=subjects,
        opts=options,
    )
    kubernetes.core.v1.Service(
        "torchserve",
        metadata=named("torchserve"),
        spec={"selector": selector["match_labels"], "ports": [{"port": 80, "target_port": "http"}]},
        opts=options,
    )
    kubernetes.policy.v1.PodDisruptionBudget(
        "torchserve",
        metadata=named("torchserve"),
        spec={"min_available": 1, "selector": selector},
        opts=options,
    )
    kubernetes.networking.v1.NetworkPolicy(
        "closed",
        metadata=named("closed"),
        spec={"pod_selector": {}, "policy_types": ["Ingress"]},
        opts=options,
    )
    kubernetes.batch.v1.Job(
        "training",
        metadata=named("training"),
        spec={"template": {"spec": pod["spec"] | {"restart_policy": "Never"}}},
        opts=options,
    )


def objects(folder: Path) -> set[str]:
    return {
        f"{file.parents[1].name}/{file.stem}"
        for file in folder.rglob("*.json")
        if file.stem not in ("default", "kube-system")
    }


def test_every_type(run_stack, cluster, tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    stack = run_stack(lambda: everything(cluster.url, settings))

    stack.up()
    made = {each["type"] for each in stack.export_stack().deployment["resources"]}
    assert made >= TYPES.keys()
    assert len(objects(tmp_path / "cluster")) == len(TYPES)
    assert stack.refresh().summary.resource_changes.keys() == {"same"}

    settings |= {"image": "torchserve:2", "mode": "slow", "handler": "runc"}
    changes = stack.up().summary.resource_changes
    # A Job's pods, a ConfigMap's data and a RuntimeClass's handler cannot change in place.
    assert (changes["update"], changes["replace"]) == (2, 3)

    scaled = {"spec": {"replicas": 5}}
    path = f"{cluster.url}/apis/apps/v1/namespaces/serving/deployments/torchserve"
    merge = {"Content-Type": "application/merge-patch+json"}
    assert httpx.patch(path, json=scaled, headers=merge).json()["spec"]["replicas"] == 5
    assert stack.refresh().summary.resource_changes["update"] == 1
    assert stack.up().summary.resource_changes["update"] == 1
    assert httpx.get(path).json()["spec"]["replicas"] == 2

    assert "swordfish" not in "".join(f.read_text() for f in (tmp_path / "state").rglob("*.json"))
    stack.destroy()
    assert objects(tmp_path / "cluster") == set()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "has no kubeconfig"),
        ("/nowhere/config", "the kubeconfig '/nowhere/config' cannot be read: No such file"),
        ("a: [\n", "not valid YAML"),
        ("- a\n- b\n", "not a YAML mapping"),
        ("current-context: x\nclusters: []\n", "the kubeconfig has no context 'x'"),
        (kubeconfig("http://127.0.0.1:9", exec={"command": "aws"}), "from another program"),
    ],
)
def test_a_bad_kubeconfig_is_told(text: str | None, reason: str) -> None:
    with pytest.raises(OfflineError, match=reason):
        Cluster({"kubeconfig": text})


def test_a_kubeconfig_may_be_a_file_with_a_token_beside_it(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "token").write_text("of the test\n")
    (tmp_path / "config").write_text(kubeconfig("http://127.0.0.1:9", tokenFile="token"))
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json={"kind": "Namespace"})

    client = httpx.Client
    monkeypatch.setattr(
        httpx,
        "Client",
        lambda **options: client(transport=httpx.MockTransport(answer), **options),
    )
    cluster = Cluster({"kubeconfig": str(tmp_path / "config")})
    assert cluster.call("GET", "/api/v1/namespaces/a") == {"kind": "Namespace"}
    assert seen == ["Bearer of the test"]


def test_a_password_is_sent_as_basic_credentials() -> None:
    config = kubeconfig("http://127.0.0.1:9", username="u", password="p")
    expected = f"Basic {base64.b64encode(b'u:p').decode()}"
    assert Cluster({"kubeconfig": config})._http.headers["authorization"] == expected


def test_an_api_that_does_not_answer_is_named() -> None:
    with pytest.raises(OfflineError, match="the Kubernetes API at http://127.0.0.1:9 fails"):
        Cluster({"kubeconfig": kubeconfig("http://127.0.0.1:9")}).call("GET", "/api/v1/nodes/a")
