"""Rules on what keeps data: buckets and volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from infra.offline.wire import UNKNOWN
from infra.machine_groups import AZURE_GROUP
from infra.policy.rule import (
    Problem,
    at,
    document,
    listed,
    of_type,
    own_machines,
    refers_to,
    true,
)
from infra.resources import Declared

S3_BUCKETS = ("aws:s3/bucket:Bucket", "aws:s3/bucketV2:BucketV2")
GCS_BUCKET = "gcp:storage/bucket:Bucket"
S3_BLOCK = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
BLOCKS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
EVERYBODY = frozenset({"allUsers", "allAuthenticatedUsers"})


def public_bucket(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Buckets that somebody outside can be given access to."""
    for bucket in of_type(resources, *S3_BUCKETS):
        blocks = [b for b in of_type(resources, S3_BLOCK) if refers_to(b, "bucket", bucket)]
        open_flags = [f for f in BLOCKS if not any(true(b.inputs.get(f)) for b in blocks)]
        if open_flags:
            missing = ", ".join(open_flags)
            yield Problem(bucket, f"it has no public access block with {missing}")
    for bucket in of_type(resources, GCS_BUCKET):
        if bucket.inputs.get("publicAccessPrevention") not in ("enforced", UNKNOWN):
            yield Problem(bucket, "its publicAccessPrevention is not 'enforced'")
    for account in of_type(resources, "azure:storage/account:Account"):
        if true(account.inputs.get("allowNestedItemsToBePublic", True)):
            yield Problem(account, "its allowNestedItemsToBePublic is not false")
    yield from _given_to_everybody(resources)


def _given_to_everybody(resources: Sequence[Declared]) -> Iterator[Problem]:
    for resource in of_type(resources, *S3_BUCKETS, "aws:s3/bucketAcl:BucketAcl"):
        if str(resource.inputs.get("acl")).startswith("public"):
            yield Problem(resource, f"its acl is {resource.inputs['acl']!r}")
    for policy in of_type(resources, "aws:s3/bucketPolicy:BucketPolicy"):
        for statement in listed(document(policy.inputs.get("policy")).get("Statement")):
            anybody = statement.get("Principal") in ("*", {"AWS": "*"})
            if anybody and statement.get("Effect") == "Allow" and not statement.get("Condition"):
                yield Problem(policy, "a statement allows everybody without a condition")
    for resource in resources:
        if resource.type.startswith("gcp:storage/bucketIAM"):
            members = [*listed(resource.inputs.get("members")), resource.inputs.get("member")]
            if EVERYBODY.intersection(m for m in members if isinstance(m, str)):
                yield Problem(resource, "it gives everybody a role")


def unencrypted_volume(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Volumes of machines that lie on disk in clear."""
    for template in of_type(resources, "aws:ec2/launchTemplate:LaunchTemplate"):
        for mapping in listed(template.inputs.get("blockDeviceMappings")):
            if at(mapping, "ebs") and not true(at(mapping, "ebs.encrypted")):
                device = at(mapping, "deviceName")
                yield Problem(template, f"the volume {device} is not encrypted")
    for volume in of_type(resources, "aws:ebs/volume:Volume"):
        if not true(volume.inputs.get("encrypted")):
            yield Problem(volume, "it is not encrypted")
    for machine in own_machines(resources):
        if not true(at(machine.inputs, "rootBlockDevice.encrypted")):
            yield Problem(machine, "its root volume is not encrypted")
        for device in listed(machine.inputs.get("ebsBlockDevices")):
            if not true(at(device, "encrypted")):
                yield Problem(machine, f"the volume {at(device, 'deviceName')} is not encrypted")
    for scale_set in of_type(resources, AZURE_GROUP):
        # Azure encrypts the disks themselves; caches and scratch disks only where it is asked to.
        if not true(scale_set.inputs.get("encryptionAtHostEnabled")):
            yield Problem(scale_set, "its encryptionAtHostEnabled is not true")
