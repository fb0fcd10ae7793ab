"""What runs on GPU nodes: the device plugin where GPUs are, and rights that stay small."""

from __future__ import annotations

import pytest
import yaml

from infra.gpu_nodes import GpuNodes, GpuNodesArgs, configuration


@pytest.fixture
def seen(declare):
    return declare(lambda: GpuNodes("gpu", GpuNodesArgs("gpu-nodes", "plugin:1", 1)))[1]


def pod(seen) -> dict:
    return seen.only("kubernetes:apps/v1:DaemonSet")["spec"]["template"]["spec"]


def test_the_plugin_runs_on_gpu_nodes_only_and_sees_their_gpus(seen):
    assert pod(seen)["nodeSelector"] == {"hybrid/pool": "gpu"}
    (toleration,) = pod(seen)["tolerations"]
    assert (toleration["key"], toleration["effect"]) == ("nvidia.com/gpu", "NoSchedule")
    runtime = seen.only("kubernetes:node.k8s.io/v1:RuntimeClass")
    assert pod(seen)["runtimeClassName"] == runtime["metadata"]["name"] == "hybrid-gpu"
    assert runtime["handler"] == "nvidia"


def test_the_plugin_has_the_kubelets_folder_and_nothing_beyond_it(seen):
    (container,) = pod(seen)["containers"]
    assert container["image"] == "plugin:1"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    paths = [v["hostPath"]["path"] for v in pod(seen)["volumes"] if "hostPath" in v]
    assert paths == ["/var/lib/kubelet/device-plugins"]
    assert pod(seen)["automountServiceAccountToken"] is False
    policy = seen.only("kubernetes:networking.k8s.io/v1:NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"] and "egress" not in policy
    assert not {"hostNetwork", "hostPID"} & pod(seen).keys()


def test_a_gpu_is_whole_unless_it_is_to_be_sliced(declare, seen):
    config = seen.only("kubernetes:core/v1:ConfigMap")
    assert "sharing" not in yaml.safe_load(config["data"]["config.yaml"])
    sliced = yaml.safe_load(configuration(4))["sharing"]["timeSlicing"]
    assert sliced["resources"] == [{"name": "nvidia.com/gpu", "replicas": 4}]
    assert sliced["failRequestsGreaterThanOne"] is True
    _, other = declare(lambda: GpuNodes("gpu", GpuNodesArgs("gpu-nodes", "plugin:1", 4)))
    name = other.only("kubernetes:core/v1:ConfigMap")["metadata"]["name"]
    assert name != config["metadata"]["name"], "pods would keep the old configuration"


def test_a_node_may_take_itself_out_and_see_what_stays(seen):
    (role,) = seen.inputs["kubernetes:rbac.authorization.k8s.io/v1:ClusterRole"].values()
    rights = {(rule["resources"][0], *rule["verbs"]) for rule in role["rules"]}
    assert rights == {("nodes", "delete"), ("daemonsets", "get")}
    binding = seen.only("kubernetes:rbac.authorization.k8s.io/v1:ClusterRoleBinding")
    assert [subject["name"] for subject in binding["subjects"]] == ["system:nodes"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_nobody_waits_for_pods_of_an_empty_pool(seen):
    metadata = seen.only("kubernetes:apps/v1:DaemonSet")["metadata"]
    assert metadata["annotations"] == {"pulumi.com/skipAwait": "true"}


def test_a_preview_declares_the_same(declare, seen):
    _, preview = declare(
        lambda: GpuNodes("gpu", GpuNodesArgs("gpu-nodes", "plugin:1", 1)), preview=True
    )
    assert preview.inputs.keys() == seen.inputs.keys()
