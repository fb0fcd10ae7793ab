"""A custom job of Google's Vertex AI."""

from __future__ import annotations

from typing import Any

from infra.faults import told
from infra.trainers.job import TIMEOUT, TrainerJob, answered, require_readable, script

CHECKPOINTS = "/gcs"  # where Vertex mounts the buckets
# Vertex tells the machines of each other in a variable; the first pool has one machine.
HOSTS = (
    "eval \"$(python -c 'import json, os; c = json.loads(os.environ[\"CLUSTER_SPEC\"]); "
    'p = c["cluster"]; t = c["task"]; '
    'print("RANK=%d MASTER=%s" % (t["index"] + (t["type"] != "workerpool0"), '
    'p["workerpool0"][0].split(":")[0]))\')"'
)


def request(
    job: TrainerJob, *, accelerator: str, service_account: str, volume_gib: int
) -> dict[str, Any]:
    """The body of projects.locations.customJobs.create, as JSON has it.

    Parameters
    ----------
    accelerator
        Type of the GPUs, such as NVIDIA_L4.
    service_account
        Account that the machines act under.
    volume_gib
        Disk of each machine.
    """
    require_readable(job, "gs://")
    folder = f"{job.models.rstrip('/')}/trainers/{job.name}"
    mounted = f"{CHECKPOINTS}/{folder.removeprefix('gs://')}/checkpoints"
    run = script(job, rank="$RANK", master="$MASTER", prepare=HOSTS, checkpoints=mounted)
    pool = {
        "machineSpec": {
            "machineType": job.machine,
            "acceleratorType": accelerator,
            "acceleratorCount": job.gpus,
        },
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": volume_gib},
        "containerSpec": {"imageUri": job.image, "command": ["sh", "-c"], "args": [run]},
    }
    others = [pool | {"replicaCount": str(job.nodes - 1)}] if job.nodes > 1 else []
    return {
        "displayName": job.name,
        "labels": job.tags,
        "jobSpec": {
            "workerPoolSpecs": [pool | {"replicaCount": "1"}, *others],
            "scheduling": {
                "timeout": f"{job.hours * 3600}s",
                "restartJobOnWorkerRestart": True,
                **({"strategy": "SPOT"} if job.spot else {}),
            },
            "baseOutputDirectory": {"outputUriPrefix": folder},
            "serviceAccount": service_account,
        },
    }


def submit(asked: dict[str, Any], *, project: str, region: str) -> tuple[str, bool]:
    """Start the job unless one of its name runs or has run; its resource name, whether it is new.

    Raises
    ------
    CloudError
        There are no credentials, or Google refuses.
    """
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    with told():
        credentials, _ = google.auth.default(["https://www.googleapis.com/auth/cloud-platform"])
        session = AuthorizedSession(credentials)
        jobs = (
            f"https://{region}-aiplatform.googleapis.com/v1/projects/{project}"
            f"/locations/{region}/customJobs"
        )
        wanted = {"filter": f'displayName="{asked["displayName"]}"'}
        present = answered(session.get(jobs, params=wanted, timeout=TIMEOUT)).get("customJobs", [])
        for found in present:
            if found["state"] not in ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED"):
                return found["name"], False
        return answered(session.post(jobs, json=asked, timeout=TIMEOUT))["name"], True
