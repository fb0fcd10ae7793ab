"""A training job of Amazon SageMaker."""

from __future__ import annotations

from typing import Any

from infra.clients import Aws
from infra.faults import told
from infra.trainers.job import TrainerJob, require_readable, script

CHECKPOINTS = "/opt/ml/checkpoints"
# SageMaker tells the machines of each other in a file.
HOSTS = (
    "eval \"$(python -c 'import json; "
    'c = json.load(open("/opt/ml/input/config/resourceconfig.json")); h = sorted(c["hosts"]); '
    'print("RANK=%d MASTER=%s" % (h.index(c["current_host"]), h[0]))\')"'
)


def request(job: TrainerJob, *, role: str, volume_gib: int) -> dict[str, Any]:
    """Parameters of CreateTrainingJob.

    Parameters
    ----------
    role
        ARN of the role that the machines act under.
    volume_gib
        Disk of each machine.
    """
    require_readable(job, "s3://")
    folder = f"{job.models.rstrip('/')}/trainers/{job.name}"
    run = script(job, rank="$RANK", master="$MASTER", prepare=HOSTS, checkpoints=CHECKPOINTS)
    seconds = job.hours * 3600
    stop = {"MaxRuntimeInSeconds": seconds}
    return {
        "TrainingJobName": job.name,
        "AlgorithmSpecification": {
            "TrainingImage": job.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["sh", "-c"],
            "ContainerArguments": [run],
        },
        "RoleArn": role,
        "OutputDataConfig": {"S3OutputPath": folder},
        "CheckpointConfig": {"S3Uri": f"{folder}/checkpoints", "LocalPath": CHECKPOINTS},
        "ResourceConfig": {
            "InstanceType": job.machine,
            "InstanceCount": job.nodes,
            "VolumeSizeInGB": volume_gib,
        },
        # Spot machines may be waited for as long again as the training may take.
        "StoppingCondition": stop | ({"MaxWaitTimeInSeconds": 2 * seconds} if job.spot else {}),
        "EnableManagedSpotTraining": job.spot,
        "EnableInterContainerTrafficEncryption": job.nodes > 1,
        "Tags": [{"Key": key, "Value": value} for key, value in sorted(job.tags.items())],
    }


def submit(asked: dict[str, Any], aws: Aws) -> tuple[str, bool]:
    """Start the job unless there is one of its name; the ARN, and whether it is new.

    Raises
    ------
    CloudError
        AWS refuses; the sentence says what to do.
    """
    from botocore.exceptions import ClientError

    client, name = aws("sagemaker"), asked["TrainingJobName"]
    with told():
        try:
            return client.describe_training_job(TrainingJobName=name)["TrainingJobArn"], False
        except ClientError as error:
            # SageMaker has no error of its own for an unknown name.
            if error.response["Error"]["Code"] not in ("ValidationException", "ResourceNotFound"):
                raise
        return client.create_training_job(**asked)["TrainingJobArn"], True
