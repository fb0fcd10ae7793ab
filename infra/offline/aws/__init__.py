"""AWS resource types over an emulator's endpoints (moto, ministack, LocalStack)."""

from __future__ import annotations

from infra.offline.aws import autoscaling, ec2, iam, instances, s3, secretsmanager, vpn
from infra.offline.aws.api import Aws

TYPES = (
    ec2.TYPES
    | instances.TYPES
    | vpn.TYPES
    | iam.TYPES
    | autoscaling.TYPES
    | s3.TYPES
    | secretsmanager.TYPES
)

connect = Aws
