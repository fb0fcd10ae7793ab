"""The training Job: how pods find each other, what survives one's end, what they may do."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from infra.offline import schema
from infra.training_job import TrainingJob, TrainingJobArgs, container, run_name

ARGS = TrainingJobArgs(
    namespace="training",
    image="hybrid/training:1",
    data="s3://shop/events.parquet",
    recipe={"dimension": 128, "bfloat16": True},
    shard_items=False,
    nodes=4,
    gpus_per_node=2,
    attempts=3,
    storage="50Gi",
    storage_class="efs",
    cpu="4",
    memory="16Gi",
)
JOB = "kubernetes:batch/v1:Job"


@pytest.fixture
def seen(declare):
    return declare(lambda: TrainingJob("training", ARGS))[1]


def job(seen) -> dict:
    return seen.only(JOB)["spec"]


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_each_pod_runs_torchrun_with_its_own_number_and_meets_at_the_first_ones_name(seen):
    assert job(seen)["completionMode"] == "Indexed"
    assert job(seen)["completions"] == job(seen)["parallelism"] == 4
    pod = job(seen)["template"]["spec"]
    service = seen.only("kubernetes:core/v1:Service")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert pod["subdomain"] == service["metadata"]["name"]
    command = pod["containers"][0]["command"]
    assert (after(command, "--nnodes"), after(command, "--nproc-per-node")) == ("4", "2")
    assert after(command, "--node-rank") == "$(JOB_COMPLETION_INDEX)"
    name = seen.only(JOB)["metadata"]["name"]
    assert after(command, "--master-addr") == f"{name}-0.{pod['subdomain']}"
    (port,) = service["spec"]["ports"]
    assert after(command, "--master-port") == f"{port['port']:.0f}"


def test_pods_run_on_the_gpu_pool_with_a_gpu_for_each_process(seen):
    pod = job(seen)["template"]["spec"]
    assert pod["nodeSelector"] == {"hybrid/pool": "gpu"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_a_lost_spot_node_is_no_failure_and_a_pod_that_fails_for_good_ends_the_job(seen):
    assert (job(seen)["backoffLimitPerIndex"], job(seen)["maxFailedIndexes"]) == (3, 0)
    (rule,) = job(seen)["podFailurePolicy"]["rules"]
    assert rule == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert job(seen)["template"]["spec"]["restartPolicy"] == "Never"


def test_checkpoints_survive_the_pods_and_all_nodes_see_them(seen):
    claim = seen.only("kubernetes:core/v1:PersistentVolumeClaim")["spec"]
    assert (claim["accessModes"], claim["storageClassName"]) == (["ReadWriteMany"], "efs")
    pod = job(seen)["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"] == {"claimName": "training"}
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert set(mounts) == set(volumes)
    assert after(pod["containers"][0]["command"], "--folder").startswith(mounts["runs"] + "/")


def test_only_what_makes_another_model_makes_another_run():
    assert run_name(replace(ARGS, nodes=2, image="hybrid/training:2")) == run_name(ARGS)
    for other in ({"data": "s3://other"}, {"recipe": {"dimension": 64}}, {"shard_items": True}):
        assert run_name(replace(ARGS, **other)) != run_name(ARGS)
    assert "--shard-items" not in container(ARGS)["command"]
    assert "--shard-items" in container(replace(ARGS, shard_items=True))["command"]


def test_pods_run_restricted_and_talk_to_each_other_only(seen):
    pod = job(seen)["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = seen.only("kubernetes:core/v1:Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    policy = seen.inputs["kubernetes:networking.k8s.io/v1:NetworkPolicy"]["training"]["spec"]
    peers = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "training"}}}
    assert policy["ingress"] == [{"from": [peers]}]
    assert job(seen)["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == "training"
    open_to_all = [rule["ports"] for rule in policy["egress"] if "to" not in rule]
    assert open_to_all == [[{"protocol": "TCP", "port": 443}]]


def test_up_does_not_wait_for_the_end_of_training(seen):
    assert seen.only(JOB)["metadata"]["annotations"] == {"pulumi.com/skipAwait": "true"}


def test_the_offline_plugin_accepts_every_property(seen):
    for kind, resources in seen.inputs.items():
        if kind.startswith("kubernetes:"):
            for inputs in resources.values():
                # The engine's protocol made numbers of the program's whole numbers.
                sent = json.loads(re.sub(r"\b(\d+)\.0\b", r"\1", json.dumps(inputs)))
                assert list(schema.validate(sent, schema.input_properties(kind))) == []
