"""Object stores of an environment: one S3 and one GCS bucket, private, versioned, encrypted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_aws import s3
from pulumi_gcp import storage

# Both answer a read at once; models are few and large, so that what is read costs little.
COLD_S3, COLD_GCS = "STANDARD_IA", "NEARLINE"
# Where model_store/gcs.py keeps parts, in a bucket that is a store as a whole.
INCOMING = ".hybrid/incoming/"


@dataclass(frozen=True)
class ObjectStoresArgs:
    """What the buckets are for whom.

    Parameters
    ----------
    gcs_location
        Region or multi-region of the GCS bucket, e.g. "EUROPE-WEST3".
    noncurrent_days
        Days that a replaced or deleted version can still be brought back.
    cold_days
        Days after which an object goes to a cheaper class; 0: never.
    unfinished_upload_days
        Days after which the parts of an upload that did not end are removed.
    delete_with_data
        Whether destroying a bucket may delete what it holds; else a bucket with data stays.
    s3
        Whether there is an S3 bucket beside the GCS one.
    tls_only
        Whether S3 refuses plain HTTP; an emulator speaks nothing else.
    """

    gcs_location: str
    noncurrent_days: int
    cold_days: int
    unfinished_upload_days: int
    delete_with_data: bool
    s3: bool = True
    tls_only: bool = True


class ObjectStores(pulumi.ComponentResource):
    """Buckets that hold models.

    Attributes
    ----------
    s3_bucket, s3_arn
        Name and ARN of the S3 bucket; None without one.
    gcs_bucket
        Name of the GCS bucket.
    """

    s3_bucket: pulumi.Output[str] | None
    s3_arn: pulumi.Output[str] | None
    gcs_bucket: pulumi.Output[str]

    def __init__(
        self, name: str, args: ObjectStoresArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:ObjectStores", name, None, opts)
        self.s3_bucket, self.s3_arn = None, None
        if args.s3:
            bucket = self._make_s3(name, args)
            self.s3_bucket, self.s3_arn = bucket.bucket, bucket.arn
        self.gcs_bucket = self._make_gcs(name, args).name
        self.register_outputs({"s3_bucket": self.s3_bucket, "gcs_bucket": self.gcs_bucket})

    def _make_s3(self, name: str, args: ObjectStoresArgs) -> s3.Bucket:
        own = pulumi.ResourceOptions(parent=self)
        bucket = s3.Bucket(
            f"{name}-s3", force_destroy=args.delete_with_data, tags={"Name": f"{name}-s3"}, opts=own
        )
        blocked = s3.BucketPublicAccessBlock(
            f"{name}-s3",
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=own,
        )
        s3.BucketOwnershipControls(
            f"{name}-s3",
            bucket=bucket.bucket,
            rule={"object_ownership": "BucketOwnerEnforced"},
            opts=own,
        )
        versioning = s3.BucketVersioning(
            f"{name}-s3",
            bucket=bucket.bucket,
            versioning_configuration={"status": "Enabled"},
            opts=own,
        )
        s3.BucketServerSideEncryptionConfiguration(
            f"{name}-s3",
            bucket=bucket.bucket,
            rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}],
            opts=own,
        )
        s3.BucketLifecycleConfiguration(
            f"{name}-s3",
            bucket=bucket.bucket,
            rules=s3_rules(args),
            # A rule on versions is refused while the bucket does not keep any.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[versioning]),
        )
        if args.tls_only:
            s3.BucketPolicy(
                f"{name}-s3",
                bucket=bucket.bucket,
                policy=bucket.arn.apply(tls_only_policy),
                # S3 refuses two changes of a bucket's access at the same time.
                opts=pulumi.ResourceOptions(parent=self, depends_on=[blocked]),
            )
        return bucket

    def _make_gcs(self, name: str, args: ObjectStoresArgs) -> storage.Bucket:
        # GCS encrypts at rest and speaks TLS only, always.
        return storage.Bucket(
            f"{name}-gcs",
            location=args.gcs_location,
            force_destroy=args.delete_with_data,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            versioning={"enabled": True},
            lifecycle_rules=gcs_rules(args),
            opts=pulumi.ResourceOptions(parent=self),
        )


def s3_rules(args: ObjectStoresArgs) -> list[dict[str, Any]]:
    """What becomes of objects with time, as S3 is told it."""
    rules: list[dict[str, Any]] = [
        {
            "id": "expire-replaced-versions",
            "noncurrent_version_expiration": {"noncurrent_days": args.noncurrent_days},
            "abort_incomplete_multipart_upload": {
                "days_after_initiation": args.unfinished_upload_days
            },
        }
    ]
    if args.cold_days:
        cold = {"days": args.cold_days, "storage_class": COLD_S3}
        rules.append({"id": "move-to-cold", "transitions": [cold]})
    return [{"status": "Enabled", "filter": {"prefix": ""}} | rule for rule in rules]


def gcs_rules(args: ObjectStoresArgs) -> list[dict[str, Any]]:
    """The same as GCS is told it; parts of a large upload are objects until they are composed."""
    rules: list[dict[str, Any]] = [
        {
            "action": {"type": "Delete"},
            "condition": {"days_since_noncurrent_time": args.noncurrent_days},
        },
        {
            "action": {"type": "AbortIncompleteMultipartUpload"},
            "condition": {"age": args.unfinished_upload_days},
        },
        {
            "action": {"type": "Delete"},
            "condition": {
                "age": args.unfinished_upload_days,
                "matches_prefixes": [INCOMING],
            },
        },
    ]
    if args.cold_days:
        rules.append(
            {
                "action": {"type": "SetStorageClass", "storage_class": COLD_GCS},
                "condition": {"age": args.cold_days, "matches_storage_classes": ["STANDARD"]},
            }
        )
    return rules


def tls_only_policy(arn: str) -> str:
    """Bucket policy that refuses every request without TLS, or with one older than 1.2."""
    everything = {"Effect": "Deny", "Principal": "*", "Action": "s3:*"}
    resources = {"Resource": [arn, f"{arn}/*"]}
    statements = [
        {"Sid": "RefusePlainText", "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
        {"Sid": "RefuseOldTls", "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}},
    ]
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [everything | resources | statement for statement in statements],
        }
    )
