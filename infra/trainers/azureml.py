"""A command job of Azure Machine Learning."""

from __future__ import annotations

from typing import Any

from infra.faults import CloudError
from infra.trainers.job import TIMEOUT, TrainerJob, answered, require_readable, script

VERSION = "2023-04-01"


def request(job: TrainerJob, *, workspace: str, compute: str) -> dict[str, Any]:
    """The body of Jobs - Create Or Update.

    Parameters
    ----------
    workspace
        Resource id of the workspace, ``/subscriptions/…/workspaces/NAME``.
    compute
        Name of its cluster of GPU machines; whether they are spare ones is the cluster's matter.
    """
    require_readable(job, "s3://", "gs://")
    name, _, version = job.image.partition(":")
    run = script(
        job,
        rank="$NODE_RANK",
        master="$MASTER_ADDR",
        prepare="",
        checkpoints="${{outputs.checkpoints}}",
    )
    return {
        "properties": {
            "jobType": "Command",
            "displayName": job.name,
            "experimentName": f"hybrid-{job.environment}",
            "command": run,
            "environmentId": f"{workspace}/environments/{name}/versions/{version}",
            "computeId": f"{workspace}/computes/{compute}",
            "resources": {"instanceCount": job.nodes, "instanceType": job.machine},
            # One process a machine: torchrun starts the others.
            "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 1},
            "limits": {"jobLimitsType": "Command", "timeout": f"PT{job.hours}H"},
            "outputs": {"checkpoints": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"}},
            "tags": job.tags,
        }
    }


def submit(asked: dict[str, Any], *, workspace: str) -> tuple[str, bool]:
    """Start the job unless there is one of its name; its resource id, and whether it is new.

    Raises
    ------
    CloudError
        There are no credentials, or Azure refuses.
    """
    import httpx
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    try:
        token = DefaultAzureCredential().get_token("https://management.azure.com/.default").token
    except ClientAuthenticationError:
        raise CloudError("There are no Azure credentials: run az login.") from None
    job = f"https://management.azure.com{workspace}/jobs/{asked['properties']['displayName']}"
    options: dict[str, Any] = {
        "params": {"api-version": VERSION},
        "headers": {"Authorization": f"Bearer {token}"},
        "timeout": TIMEOUT,
    }
    present = httpx.get(job, **options)
    if present.status_code != httpx.codes.NOT_FOUND:
        return answered(present)["id"], False
    return answered(httpx.put(job, json=asked, **options))["id"], True
