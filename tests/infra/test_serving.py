"""TorchServe's Deployment: where it runs, what is open, what it may do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.serving import CONFIGURATION, Serving, ServingArgs

ARGS = ServingArgs("serving", "hybrid/serving:1", "private", 2, "1", "2Gi")


@pytest.fixture
def seen(declare):
    return declare(lambda: Serving("serving", ARGS))[1]


def pod(seen) -> dict:
    return seen.only("kubernetes:apps/v1:Deployment")["spec"]["template"]["spec"]


def test_the_management_port_is_reachable_from_within_the_pod_only(seen):
    assert "management_address=http://127.0.0.1:8081" in CONFIGURATION
    (container,) = pod(seen)["containers"]
    opened = {port["containerPort"] for port in container["ports"]}
    ports = seen.only("kubernetes:core/v1:Service")["spec"]["ports"]
    policy = seen.inputs["kubernetes:networking.k8s.io/v1:NetworkPolicy"]["serving"]["spec"]
    allowed = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == {port["port"] for port in ports} == allowed == {8080, 8082}


def test_prometheus_finds_the_metrics_of_the_handlers(seen):
    data = seen.only("kubernetes:core/v1:ConfigMap")["data"]
    assert "metrics_config=/configuration/metrics.yaml" in data["config.properties"]
    assert "hybrid_requests_total" in data["metrics.yaml"]
    (configuration, *_) = pod(seen)["volumes"]
    name = seen.only("kubernetes:core/v1:ConfigMap")["metadata"]["name"]
    assert configuration == {"name": "configuration", "configMap": {"name": name}}
    template = seen.only("kubernetes:apps/v1:Deployment")["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "8082"


def test_pods_run_restricted(seen):
    assert pod(seen)["securityContext"]["runAsNonRoot"] is True
    assert pod(seen)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(seen)["automountServiceAccountToken"] is False
    (container,) = pod(seen)["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = seen.only("kubernetes:core/v1:Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_everything_writable_is_a_volume(seen):
    (container,) = pod(seen)["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"configuration": "/configuration", "work": "/work", "tmp": "/tmp"}
    assert {volume["name"] for volume in pod(seen)["volumes"]} == set(mounts)


def test_an_update_keeps_all_replicas_answering(seen):
    spec = seen.only("kubernetes:apps/v1:Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert seen.only("kubernetes:policy/v1:PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    (container,) = pod(seen)["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/ping", "port": "inference"}


def test_service_budget_and_policy_select_the_pods(seen):
    labels = seen.only("kubernetes:apps/v1:Deployment")["spec"]["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "torchserve"}
    assert wanted.items() <= labels.items()
    assert seen.only("kubernetes:core/v1:Service")["spec"]["selector"] == wanted
    for kind, key in (
        ("kubernetes:policy/v1:PodDisruptionBudget", "selector"),
        ("kubernetes:networking.k8s.io/v1:NetworkPolicy", "podSelector"),
    ):
        assert seen.inputs[kind]["serving"]["spec"][key] == {"matchLabels": wanted}


def test_it_runs_privately_or_on_the_gpu_pool(declare, seen):
    assert pod(seen)["nodeSelector"] == {"hybrid/pool": "private"}
    _, gpu = declare(lambda: Serving("serving", replace(ARGS, placement="gpu-pool")))
    assert pod(gpu)["nodeSelector"] == {"hybrid/pool": "gpu"}
    assert pod(gpu)["runtimeClassName"] == "hybrid-gpu"
    assert "runtimeClassName" not in pod(seen)
    device, *lost = pod(gpu)["tolerations"]
    assert device["key"] == "nvidia.com/gpu"
    assert {each["key"] for each in lost} == {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    }
    assert all(each["tolerationSeconds"] > 600 for each in lost), "a link lost for ten minutes"
    (container,) = pod(gpu)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_address_is_the_inference_port_of_the_service(declare, settled):
    made, _ = declare(lambda: Serving("serving", ARGS))
    assert settled(made.address)[0] == "http://torchserve.serving.svc:8080"
