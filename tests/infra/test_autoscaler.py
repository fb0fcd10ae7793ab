"""The cluster autoscaler: one group, few rights, in AWS as in the cluster."""

from __future__ import annotations

import json

import pytest

from infra.autoscaler import Autoscaler, AutoscalerArgs
from infra.autoscaler_access import AutoscalerAccess, AutoscalerAccessArgs, policy

TAG = "k8s.io/cluster-autoscaler/hybrid-test"
GROUP = "arn:aws:autoscaling:eu-central-1:111122223333:autoScalingGroup:1:autoScalingGroupName/gpu"
RBAC = "kubernetes:rbac.authorization.k8s.io/v1"
KEY = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "swordfish"}
ARGS = AutoscalerArgs(
    "autoscaler",
    "scaler:1",
    "aws",
    [f"--node-group-auto-discovery=asg:tag={TAG}"],
    {"AWS_REGION": "eu-central-1"},
    KEY,
)


@pytest.fixture
def seen(declare):
    return declare(lambda: Autoscaler("autoscaler", ARGS))[1]


def pod(seen) -> dict:
    return seen.only("kubernetes:apps/v1:Deployment")["spec"]["template"]["spec"]


def test_it_finds_its_own_group_only_and_runs_where_machines_stay(seen):
    (container,) = pod(seen)["containers"]
    assert f"--node-group-auto-discovery=asg:tag={TAG}" in container["command"]
    assert pod(seen)["nodeSelector"] == {"hybrid/pool": "private"}
    assert container["env"] == [{"name": "AWS_REGION", "value": "eu-central-1"}]


def test_a_pod_with_scratch_files_does_not_keep_a_machine(seen):
    (container,) = pod(seen)["containers"]
    assert "--skip-nodes-with-local-storage=false" in container["command"]


def test_its_key_is_in_a_secret_and_nowhere_else(seen):
    secret = seen.only("kubernetes:core/v1:Secret")
    assert secret["stringData"] == KEY
    assert "stringData" in seen.secrets["kubernetes:core/v1:Secret", "autoscaler"]
    assert "swordfish" not in json.dumps(pod(seen))
    (container,) = pod(seen)["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]


def test_its_pod_runs_restricted(seen):
    labels = seen.only("kubernetes:core/v1:Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod(seen)["securityContext"]["runAsNonRoot"] is True
    (container,) = pod(seen)["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    policy = seen.only("kubernetes:networking.k8s.io/v1:NetworkPolicy")["spec"]
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 6443} and "ingress" not in policy


def test_in_the_cluster_it_reads_and_changes_nodes_and_evicts_and_no_more(seen):
    rules = seen.only(f"{RBAC}:ClusterRole")["rules"]
    changed = {
        (resource, verb)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("get", "list", "watch")
    }
    assert changed == {
        ("nodes", "update"),
        ("nodes", "patch"),
        ("pods/eviction", "create"),
        ("pods/status", "update"),
        ("events", "create"),
        ("events", "patch"),
    }
    read = {resource for rule in rules for resource in rule["resources"]}
    assert not read & {"*", "secrets", "configmaps"}
    named = [rule for rule in seen.only(f"{RBAC}:Role")["rules"] if "resourceNames" in rule]
    assert {name for rule in named for name in rule["resourceNames"]} == {
        "cluster-autoscaler",
        "cluster-autoscaler-status",
    }


def test_in_aws_it_resizes_one_group_that_carries_the_tag():
    looks, changes = json.loads(policy(GROUP, TAG))["Statement"]
    assert all(":Describe" in a or ":GetInstanceTypes" in a for a in looks["Action"])
    assert changes["Resource"] == GROUP
    assert changes["Condition"] == {"StringEquals": {f"aws:ResourceTag/{TAG}": "owned"}}
    assert not any("*" in action for action in looks["Action"] + changes["Action"])


def test_the_access_key_is_secret(declare, settled):
    made, seen = declare(lambda: AutoscalerAccess("pool", AutoscalerAccessArgs(GROUP, TAG)))
    _, _, secret = settled(made.key)
    assert secret
    assert json.loads(seen.only("aws:iam/userPolicy:UserPolicy")["policy"]) == json.loads(
        policy(GROUP, TAG)
    )


def test_a_preview_knows_no_key_yet(declare, settled):
    args = AutoscalerAccessArgs(GROUP, TAG)
    made, _ = declare(lambda: AutoscalerAccess("pool", args), preview=True)
    _, known, secret = settled(made.key)
    assert not known and secret
