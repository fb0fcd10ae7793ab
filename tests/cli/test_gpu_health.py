"""What `hybrid doctor` says of GPU nodes, of machines that are none, and of quotas."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import boto3
import httpx
import pytest
import uvicorn
from botocore.stub import Stubber

from cli import gpu_health
from cli.environment import Environment
from infra.gpu_quotas import needed
from infra.offline.kubernetes_api import application
from infra.offline.kubernetes_server import kubeconfig
from stacks.settings import SHIPPED, load_settings

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def node(name: str = "i-0abc", **changes) -> dict:
    """A node that lacks nothing, but for the changes."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "hybrid/pool": "gpu",
                "hybrid/container-toolkit": changes.get("toolkit", "present"),
            },
        },
        "status": {
            "allocatable": {"nvidia.com/gpu": changes.get("gpus", "1")},
            "conditions": [{"type": "Ready", "status": changes.get("ready", "True")}],
            "runtimeHandlers": [{"name": name} for name in changes.get("handlers", ["nvidia"])],
        },
    }


def look(nodes: list[dict], **ages: int) -> list:
    """Findings for nodes and machines, by their age in minutes."""
    machines = {name.replace("_", "-"): NOW - timedelta(minutes=age) for name, age in ages.items()}
    return gpu_health.node_findings(nodes, machines, NOW)


def test_a_node_that_has_everything_is_well():
    (finding,) = look([node()], i_0abc=60)
    assert finding.ok and finding.detail == "ready, 1 × nvidia.com/gpu"


@pytest.mark.parametrize(
    ("changes", "detail", "mend"),
    [
        ({"toolkit": "missing"}, "has no NVIDIA container toolkit", "gpu_pool.image_parameter"),
        ({"handlers": ["runc"]}, "has no runtime 'nvidia' for class", "--instance-id i-0abc"),
        ({"gpus": "0"}, "offers no GPU", "spec.nodeName=i-0abc"),
        ({"ready": "Unknown"}, "is not ready", "kubectl describe node i-0abc"),
    ],
)
def test_what_a_node_lacks_is_told_by_its_name_with_what_to_do(changes, detail, mend):
    well, bad = look([node("i-1"), node(**changes)], i_1=60, i_0abc=60)
    assert well.ok
    assert (bad.ok, bad.subject) == (False, "GPU node i-0abc")
    assert detail in bad.detail and mend in bad.mend


def test_a_node_of_an_older_kubernetes_does_not_tell_its_handlers():
    assert look([node(handlers=[])], i_0abc=60)[0].ok


def test_a_node_that_lacks_everything_is_told_of_each_lack():
    bare = node(toolkit="missing", handlers=["runc"], ready="False")
    del bare["status"]["allocatable"]
    assert [finding.ok for finding in look([bare], i_0abc=60)] == [False] * 4


def test_a_machine_that_never_joined_is_told_but_one_that_boots_is_given_time():
    late, young = look([], i_0late=16, i_0new=3)
    assert (late.ok, late.subject) == (False, "GPU machine i-0late")
    assert late.detail == "runs since 2026-05-04 11:44 UTC, but never joined the cluster"
    assert "get-console-output" in late.mend and "i-0late" in late.mend
    assert young.ok and young.detail.endswith("is joining")


def test_a_node_without_its_machine_is_told():
    (finding,) = look([node()])
    assert not finding.ok and finding.mend == "kubectl delete node i-0abc"


def test_a_quota_that_is_too_small_is_named():
    wanted = needed({"g5.xlarge": 4}, maximum=8, on_demand_base=2, spot_share=1.0)
    spot, on_demand = sorted(wanted, key=lambda quota: quota.name)
    client = boto3.client(
        "service-quotas", "eu-central-1", aws_access_key_id="t", aws_secret_access_key="t"
    )
    with Stubber(client) as stub:
        for quota, value in zip(wanted, (8.0, 5.0), strict=True):
            asked = {"ServiceCode": "ec2", "QuotaCode": quota.code}
            stub.add_response("get_service_quota", {"Quota": {"Value": value}}, asked)
        limits = gpu_health.quota_limits(client, wanted)
    findings = {f.subject: f for f in gpu_health.quota_findings(wanted, limits, "eu-central-1")}
    assert findings[f"Quota {on_demand.name}"].ok
    short = findings[f"Quota {spot.name}"]
    assert not short.ok
    assert short.detail == "5 vCPUs in eu-central-1; gpu_pool.maximum needs 24"
    assert re.search(f"--quota-code {spot.code} --desired-value 24 ", short.mend)


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory) -> Iterator[str]:
    """Address of a recorded Kubernetes API."""
    config = uvicorn.Config(
        application(tmp_path_factory.mktemp("cluster")), host="127.0.0.1", port=0, log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    (port,) = {socket.getsockname()[1] for each in server.servers for socket in each.sockets}
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_cluster_and_group_are_asked(kubernetes, moto_endpoint, tmp_path):
    (tmp_path / "environments").mkdir()
    text = (SHIPPED / "local.yaml").read_text() + f"aws:\n  endpoint: {moto_endpoint}\n"
    (tmp_path / "environments" / "local.yaml").write_text(text)
    settings = load_settings("local", [tmp_path / "environments"])
    ec2, autoscaling = (
        boto3.client(
            service, settings.region, endpoint_url=moto_endpoint,
            aws_access_key_id="test", aws_secret_access_key="test",
        )
        for service in ("ec2", "autoscaling")
    )  # fmt: skip
    template = ec2.create_launch_template(
        LaunchTemplateName="gpu-health",
        LaunchTemplateData={"ImageId": "ami-12c6146b", "InstanceType": "g5.xlarge"},
    )["LaunchTemplate"]
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName="gpu-health", MinSize=2, MaxSize=2,
        AvailabilityZones=["eu-central-1a"],
        LaunchTemplate={"LaunchTemplateId": template["LaunchTemplateId"]},
    )  # fmt: skip
    machines = sorted(gpu_health.launch_times(autoscaling, ec2, "gpu-health"))
    assert len(machines) == 2
    httpx.post(f"{kubernetes}/api/v1/nodes", json=node(machines[0], gpus="0"))
    other = node("somewhere-else")
    other["metadata"]["labels"]["hybrid/pool"] = "private"
    httpx.post(f"{kubernetes}/api/v1/nodes", json=other)
    found = gpu_health.pool_findings(
        "local", settings, kubeconfig(kubernetes), "gpu-health"
    )
    assert [(f.subject, f.ok) for f in found] == [
        (f"GPU node {machines[0]}", False),
        (f"GPU machine {machines[1]}", True),
        ("RuntimeClass hybrid-gpu", False),
    ]
    runtime = {"metadata": {"name": "hybrid-gpu"}, "handler": "nvidia"}
    httpx.post(f"{kubernetes}/apis/node.k8s.io/v1/runtimeclasses", json=runtime)
    found = gpu_health.pool_findings("local", settings, kubeconfig(kubernetes), "of-nobody")
    assert [f.detail for f in found] == ["its machine is gone"]


def test_a_cluster_that_does_not_answer_is_told():
    settings = load_settings("local", [SHIPPED])
    (finding,) = gpu_health.pool_findings(
        "local", settings, kubeconfig("http://127.0.0.1:9"), "gpu-health"
    )
    assert not finding.ok and "the Kubernetes API at http://127.0.0.1:9 fails" in finding.detail


def test_an_environment_that_was_never_prepared_has_no_nodes(tmp_path):
    settings = load_settings("local", [SHIPPED])
    assert gpu_health.gpu_findings(Environment("local", settings, tmp_path)) == []


def test_a_node_whose_cloud_is_not_asked_for_machines_is_looked_at_all_the_same():
    missing = node("hybrid-spot-x1", toolkit="missing")
    (finding,) = gpu_health.node_findings([missing], None, NOW)
    assert not finding.ok and "gpu_pool.image," in finding.mend
    assert gpu_health.node_findings([node()], None, NOW)[0].ok
