"""Whether the GPU pool can do its work: nodes that lack something, machines that never joined,
quotas that are too small. Each finding names the node, machine or quota."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cli.environment import Environment
from cli.errors import CommandError
from cli.findings import Finding
from cli.preflight import require_account
from cli.state import stack_outputs
from infra import gpu
from infra.clients import Aws
from infra.faults import CloudError
from infra.gpu_quotas import Quota, needed
from stacks.settings import Settings

# Driver, k3s and images take some minutes; later than this a machine will not come by itself.
BOOT_TIME = timedelta(minutes=15)


def gpu_findings(environment: Environment) -> list[Finding]:
    """Look at an environment's cluster, group and quotas; an emulator has no quotas of GPUs."""
    settings, pool = environment.settings, environment.settings.gpu_pool
    try:
        require_account(environment)
    except (CommandError, CloudError) as refused:
        return [Finding("AWS account", False, str(refused), "aws sts get-caller-identity")]
    counted = pool.cloud == "aws" and pool.maximum and not settings.aws_endpoint
    findings = _quotas(settings) if counted else []
    if not environment.project.exists():
        return findings
    try:
        kubeconfig = stack_outputs(environment, "private", secrets=True).get("kubeconfig")
        group = stack_outputs(environment, "cloud").get("gpu_group")
    except CommandError as error:
        return [*findings, Finding("Stacks", False, str(error), f"hybrid init {environment.name}")]
    if kubeconfig and (group or pool.cloud != "aws"):
        findings += pool_findings(environment.name, settings, kubeconfig, group)
    return findings


def pool_findings(
    name: str, settings: Settings, kubeconfig: str, group: str | None
) -> list[Finding]:
    """Look at the nodes of environment `name`; on AWS compare them with its group's machines."""
    from botocore.exceptions import BotoCoreError, ClientError

    from infra.offline.errors import OfflineError
    from infra.offline.kubernetes import Cluster

    try:
        cluster = Cluster({"kubeconfig": kubeconfig})
        pool = {"labelSelector": f"{gpu.NODE_LABEL}={gpu.NODE_LABEL_VALUE}"}
        nodes = (cluster.call("GET", "/api/v1/nodes", params=pool) or {})["items"]
        runtime = cluster.call("GET", f"/apis/node.k8s.io/v1/runtimeclasses/{gpu.RUNTIME_CLASS}")
    except OfflineError as error:
        return [Finding("Kubernetes API", False, str(error), f"hybrid up {name}")]
    launched = None
    try:
        if group:
            aws = Aws(settings.region, settings.aws_endpoint)
            launched = launch_times(aws("autoscaling"), aws("ec2"), group)
    except (BotoCoreError, ClientError) as error:
        return [_no_answer(error)]
    findings = node_findings(nodes, launched, datetime.now(UTC))
    if settings.gpu_pool.device_plugin_image and runtime is None:
        subject = f"RuntimeClass {gpu.RUNTIME_CLASS}"
        findings.append(Finding(subject, False, "not in the cluster", f"hybrid up {name}"))
    empty = f"none now; group {group} is empty" if group else "none now"
    return findings or [Finding("GPU nodes", True, empty)]


def _quotas(settings: Settings) -> list[Finding]:
    from botocore.exceptions import BotoCoreError, ClientError

    aws, pool = Aws(settings.region, settings.aws_endpoint), settings.gpu_pool
    try:
        kinds = aws("ec2").describe_instance_types(
            InstanceTypes=list(pool.instance_types)
        )["InstanceTypes"]
        wanted = needed(
            {kind["InstanceType"]: kind["VCpuInfo"]["DefaultVCpus"] for kind in kinds},
            maximum=pool.maximum,
            on_demand_base=pool.on_demand_base,
            spot_share=pool.spot_share,
        )
        limits = quota_limits(aws("service-quotas"), wanted)
    except (BotoCoreError, ClientError) as error:
        return [_no_answer(error)]
    return quota_findings(wanted, limits, settings.region)


def launch_times(autoscaling: Any, ec2: Any, group: str) -> dict[str, datetime]:
    """Machines of a group that are meant to work, by id, and when each was started."""
    groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    machines = [
        machine["InstanceId"]
        for found in groups["AutoScalingGroups"]
        for machine in found["Instances"]
        if machine["LifecycleState"] in ("Pending", "InService")
    ]
    if not machines:
        return {}
    pages = ec2.get_paginator("describe_instances").paginate(InstanceIds=machines)
    return {
        machine["InstanceId"]: machine["LaunchTime"]
        for page in pages
        for reservation in page["Reservations"]
        for machine in reservation["Instances"]
    }


def quota_limits(service_quotas: Any, quotas: Iterable[Quota]) -> dict[Quota, float]:
    """What the account may have of each quota now, in vCPUs."""
    return {
        quota: service_quotas.get_service_quota(ServiceCode="ec2", QuotaCode=quota.code)["Quota"][
            "Value"
        ]
        for quota in quotas
    }


def node_findings(
    nodes: Iterable[Mapping[str, Any]], launched: Mapping[str, datetime] | None, now: datetime
) -> list[Finding]:
    """What is wrong with each node, and which machine is none.

    Parameters
    ----------
    nodes
        Node objects of the pool, as Kubernetes gives them; a node has its machine's id for a name.
    launched
        Machines of the group, and when each was started; None where that is not asked.
    now
        The time, with a time zone as in `launched`.
    """
    findings, names = [], set()
    for node in nodes:
        name = node["metadata"]["name"]
        names.add(name)
        lacks = list(_lacks(node, launched))
        findings += [Finding(f"GPU node {name}", False, *lack) for lack in lacks]
        if not lacks:
            count = node["status"]["allocatable"][gpu.GPU]
            findings.append(Finding(f"GPU node {name}", True, f"ready, {count} × {gpu.GPU}"))
    for machine, start in (launched or {}).items():
        if machine in names:
            continue
        since = f"runs since {start:%Y-%m-%d %H:%M} UTC"
        late = now - start > BOOT_TIME
        detail = f"{since}, but never joined the cluster" if late else f"{since}, is joining"
        mend = f"aws ec2 get-console-output --latest --output text --instance-id {machine}"
        findings.append(Finding(f"GPU machine {machine}", not late, detail, mend if late else ""))
    return findings


def _lacks(
    node: Mapping[str, Any], launched: Mapping[str, datetime] | None
) -> Iterable[tuple[str, str]]:
    """What a node lacks, and the command that mends it."""
    name, status = node["metadata"]["name"], node.get("status", {})
    replace = "name an image with nvidia-container-toolkit in gpu_pool.image, then end the machine"
    if launched is not None:
        if name not in launched:
            yield "its machine is gone", f"kubectl delete node {name}"
            return
        replace = (
            "name an image with nvidia-container-toolkit in gpu_pool.image_parameter, then: "
            "aws autoscaling terminate-instance-in-auto-scaling-group "
            f"--no-should-decrement-desired-capacity --instance-id {name}"
        )
    if node["metadata"].get("labels", {}).get(gpu.TOOLKIT_LABEL) == gpu.TOOLKIT_MISSING:
        yield "has no NVIDIA container toolkit", replace
    # Kubernetes 1.30 and later tell the handlers.
    handlers = [handler.get("name") for handler in status.get("runtimeHandlers", ())]
    if handlers and gpu.RUNTIME_HANDLER not in handlers:
        yield f"has no runtime {gpu.RUNTIME_HANDLER!r} for class {gpu.RUNTIME_CLASS!r}", replace
    if status.get("allocatable", {}).get(gpu.GPU, "0") == "0":
        pods = "kubectl --namespace gpu-nodes describe pods --field-selector"
        yield "offers no GPU", f"{pods} spec.nodeName={name}"
    ready = {c["type"]: c["status"] for c in status.get("conditions", ())}.get("Ready")
    if ready != "True":
        yield "is not ready", f"kubectl describe node {name}"


def quota_findings(
    wanted: Mapping[Quota, int], limits: Mapping[Quota, float], region: str
) -> list[Finding]:
    """Whether each quota is large enough for the full pool, in vCPUs."""
    return [
        Finding(
            f"Quota {quota.name}",
            limits[quota] >= vcpus,
            f"{limits[quota]:.0f} vCPUs in {region}; gpu_pool.maximum needs {vcpus}",
            "aws service-quotas request-service-quota-increase --service-code ec2 "
            f"--quota-code {quota.code} --desired-value {vcpus} --region {region}",
        )
        for quota, vcpus in wanted.items()
    ]


def _no_answer(error: Exception) -> Finding:
    return Finding("AWS", False, f"does not answer: {error}", "aws sts get-caller-identity")
