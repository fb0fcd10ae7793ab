"""S3 buckets and their settings, each its own resource as in the AWS provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from infra.offline.aws.api import (
    MARK_TAG,
    Aws,
    error_code,
    gone_is_done,
    is_missing,
    observed_tags,
    tag_list,
)
from infra.offline.aws.iam import claim
from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType

_HOSTED_ZONE_OF_US_EAST_1 = "Z3AQBSTGFYJSTF"


def _exists(api: Aws, bucket: str) -> bool:
    try:
        api.client("s3").head_bucket(Bucket=bucket)
    except Exception as error:
        if is_missing(error):
            return False
        raise
    return True


def _bucket_tags(api: Aws, bucket: str) -> list[dict[str, str]]:
    try:
        return api.client("s3").get_bucket_tagging(Bucket=bucket)["TagSet"]
    except Exception as error:
        if error_code(error) == "NoSuchTagSet":
            return []
        raise


def _create_bucket(api: Aws, request: Request) -> tuple[str, Properties]:
    s3, inputs, bucket = api.client("s3"), request.inputs, request.inputs["bucket"]
    if _exists(api, bucket):
        claim(request, "S3 bucket", bucket, _bucket_tags(api, bucket))
    else:
        options: Properties = {}
        if api.region != "us-east-1":
            options["CreateBucketConfiguration"] = {"LocationConstraint": api.region}
        if inputs.get("objectLockEnabled"):
            options["ObjectLockEnabledForBucket"] = True
        s3.create_bucket(Bucket=bucket, **options)
    tags = api.tags(inputs) | {MARK_TAG: request.mark}
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tag_list(tags)})
    return bucket, {}


def _configure_bucket(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    if old and api.tags(new) != api.tags(old):
        # The operation replaces the whole set: the mark has to be written again.
        marks = [tag for tag in _bucket_tags(api, identity) if tag["Key"] == MARK_TAG]
        tags = [*tag_list(api.tags(new)), *marks]
        api.client("s3").put_bucket_tagging(Bucket=identity, Tagging={"TagSet": tags})


def _read_bucket(api: Aws, identity: str, state: Properties) -> Properties | None:
    if not _exists(api, identity):
        return None
    domain = f"{identity}.s3.amazonaws.com"
    return {
        "bucket": identity,
        "arn": f"arn:aws:s3:::{identity}",
        "bucketDomainName": domain,
        "bucketRegionalDomainName": f"{identity}.s3.{api.region}.amazonaws.com",
        "bucketRegion": api.region,
        "region": api.region,
        "hostedZoneId": _HOSTED_ZONE_OF_US_EAST_1,
    } | observed_tags(api, _bucket_tags(api, identity))


def _delete_bucket(api: Aws, identity: str, state: Properties) -> None:
    s3 = api.client("s3")
    if not _exists(api, identity):
        return
    if state.get("forceDestroy"):
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=identity):
            versions = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            keys = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in versions]
            if keys:
                s3.delete_objects(Bucket=identity, Delete={"Objects": keys, "Quiet": True})
        for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=identity):
            for upload in page.get("Uploads", ()):
                s3.abort_multipart_upload(
                    Bucket=identity, Key=upload["Key"], UploadId=upload["UploadId"]
                )
    try:
        with gone_is_done():
            s3.delete_bucket(Bucket=identity)
    except Exception as error:
        if error_code(error) == "BucketNotEmpty":
            raise OfflineError(
                f"the S3 bucket {identity!r} still holds objects: delete them, or set forceDestroy "
                "on the bucket to delete them with it"
            ) from error
        raise


def _setting(
    put: Callable[[Any, str, Properties], Any],
    get: Callable[[Any, str], Properties | None],
    delete: Callable[[Any, str], Any],
    handled: frozenset[str],
) -> ResourceType:
    """Entry for a part of a bucket's configuration; its id is the bucket's name."""

    def configure(api: Aws, identity: str, new: Properties, old: Properties) -> None:
        put(api.client("s3"), identity, new)

    def read(api: Aws, identity: str, state: Properties) -> Properties | None:
        try:
            found = get(api.client("s3"), identity)
        except Exception as error:
            if is_missing(error):
                return None
            raise
        return None if found is None else {"bucket": identity} | found

    def remove(api: Aws, identity: str, state: Properties) -> None:
        with gone_is_done():
            delete(api.client("s3"), identity)

    return ResourceType(
        create=lambda api, request: (request.inputs["bucket"], {}),
        read=read,
        delete=remove,
        configure=configure,
        handled=handled | {"bucket", "region"},
        replace_on=("bucket",),
        delete_before_replace=True,
    )


def _put_versioning(s3: Any, bucket: str, inputs: Properties) -> None:
    status = inputs["versioningConfiguration"]["status"]
    if status != "Disabled":  # what a new bucket has; S3 takes only the other two
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def _get_versioning(s3: Any, bucket: str) -> Properties:
    status = s3.get_bucket_versioning(Bucket=bucket).get("Status", "Disabled")
    return {"versioningConfiguration": {"status": status}}


def _suspend_versioning(s3: Any, bucket: str) -> None:
    if s3.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled":
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})


def _put_encryption(s3: Any, bucket: str, inputs: Properties) -> None:
    rules = []
    for rule in inputs["rules"]:
        converted: Properties = {}
        if default := rule.get("applyServerSideEncryptionByDefault"):
            converted["ApplyServerSideEncryptionByDefault"] = {
                "SSEAlgorithm": default["sseAlgorithm"]
            } | (
                {"KMSMasterKeyID": default["kmsMasterKeyId"]}
                if default.get("kmsMasterKeyId")
                else {}
            )
        if rule.get("bucketKeyEnabled") is not None:
            converted["BucketKeyEnabled"] = rule["bucketKeyEnabled"]
        rules.append(converted)
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules})


def _get_encryption(s3: Any, bucket: str) -> Properties:
    answer = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
    rules = []
    for rule in answer["Rules"]:
        default = rule.get("ApplyServerSideEncryptionByDefault", {})
        inner = {"sseAlgorithm": default.get("SSEAlgorithm", "")}
        if default.get("KMSMasterKeyID"):
            inner["kmsMasterKeyId"] = default["KMSMasterKeyID"]
        rules.append(
            {
                "applyServerSideEncryptionByDefault": inner,
                "bucketKeyEnabled": rule.get("BucketKeyEnabled", False),
            }
        )
    return {"rules": rules}


_ACCESS_BLOCKS = {
    "blockPublicAcls": "BlockPublicAcls",
    "blockPublicPolicy": "BlockPublicPolicy",
    "ignorePublicAcls": "IgnorePublicAcls",
    "restrictPublicBuckets": "RestrictPublicBuckets",
}


def _put_access_block(s3: Any, bucket: str, inputs: Properties) -> None:
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            key: bool(inputs.get(name)) for name, key in _ACCESS_BLOCKS.items()
        },
    )


def _get_access_block(s3: Any, bucket: str) -> Properties:
    found = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    return {name: found.get(key, False) for name, key in _ACCESS_BLOCKS.items()}


def _put_ownership(s3: Any, bucket: str, inputs: Properties) -> None:
    rule = {"ObjectOwnership": inputs["rule"]["objectOwnership"]}
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [rule]})


def _get_ownership(s3: Any, bucket: str) -> Properties:
    found = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    return {"rule": {"objectOwnership": found[0]["ObjectOwnership"]}}


# Lifecycle: property to API key, one table for writing and reading; nested tables are pairs.
_DAYS = {"noncurrentDays": "NoncurrentDays", "newerNoncurrentVersions": "NewerNoncurrentVersions"}
_TAG = {"key": "Key", "value": "Value"}
_AND = {
    "prefix": "Prefix",
    "tags": "Tags",
    "objectSizeGreaterThan": "ObjectSizeGreaterThan",
    "objectSizeLessThan": "ObjectSizeLessThan",
}
_RULE: dict[str, Any] = {
    "id": "ID",
    "status": "Status",
    "prefix": "Prefix",
    "filter": (
        "Filter",
        {
            "prefix": "Prefix",
            "tag": ("Tag", _TAG),
            "and": ("And", _AND),
            "objectSizeGreaterThan": "ObjectSizeGreaterThan",
            "objectSizeLessThan": "ObjectSizeLessThan",
        },
    ),
    "expiration": (
        "Expiration",
        {
            "days": "Days",
            "date": "Date",
            "expiredObjectDeleteMarker": "ExpiredObjectDeleteMarker",
        },
    ),
    "transitions": (
        "Transitions",
        {"days": "Days", "date": "Date", "storageClass": "StorageClass"},
    ),
    "noncurrentVersionExpiration": ("NoncurrentVersionExpiration", _DAYS),
    "noncurrentVersionTransitions": (
        "NoncurrentVersionTransitions",
        _DAYS | {"storageClass": "StorageClass"},
    ),
    "abortIncompleteMultipartUpload": (
        "AbortIncompleteMultipartUpload",
        {"daysAfterInitiation": "DaysAfterInitiation"},
    ),
}


def _translate(value: Any, table: dict[str, Any], *, reading: bool = False) -> Any:
    if isinstance(value, list):
        return [_translate(item, table, reading=reading) for item in value]
    translated = {}
    for name, target in table.items():
        key, inner = target if isinstance(target, tuple) else (target, None)
        source, destination = (key, name) if reading else (name, key)
        item = value.get(source)
        if item is not None:
            translated[destination] = _translate(item, inner, reading=reading) if inner else item
    return translated


def _put_lifecycle(s3: Any, bucket: str, inputs: Properties) -> None:
    rules = _translate(inputs["rules"], _RULE)
    for rule in rules:
        if "Prefix" not in rule:
            rule.setdefault("Filter", {"Prefix": ""})
            if not rule["Filter"]:
                rule["Filter"] = {"Prefix": ""}
        tags = rule.get("Filter", {}).get("And", {}).get("Tags")
        if isinstance(tags, dict):
            rule["Filter"]["And"]["Tags"] = tag_list(tags)
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def _get_lifecycle(s3: Any, bucket: str) -> Properties:
    found = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    rules = _translate(found, _RULE, reading=True)
    for rule in rules:
        both = rule.get("filter", {}).get("and", {})
        if "tags" in both:
            both["tags"] = {tag["Key"]: tag["Value"] for tag in both["tags"]}
    return {"rules": rules}


TYPES = {
    "aws:s3/bucket:Bucket": ResourceType(
        create=_create_bucket,
        read=_read_bucket,
        delete=_delete_bucket,
        configure=_configure_bucket,
        handled=frozenset({"bucket", "forceDestroy", "objectLockEnabled", "region", "tags"}),
        replace_on=("bucket", "objectLockEnabled"),
        name="bucket",
    ),
    "aws:s3/bucketVersioning:BucketVersioning": _setting(
        _put_versioning,
        _get_versioning,
        _suspend_versioning,
        frozenset({"versioningConfiguration"}),
    ),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": (
        _setting(
            _put_encryption,
            _get_encryption,
            lambda s3, bucket: s3.delete_bucket_encryption(Bucket=bucket),
            frozenset({"rules"}),
        )
    ),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": _setting(
        _put_access_block,
        _get_access_block,
        lambda s3, bucket: s3.delete_public_access_block(Bucket=bucket),
        frozenset(_ACCESS_BLOCKS),
    ),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": _setting(
        _put_ownership,
        _get_ownership,
        lambda s3, bucket: s3.delete_bucket_ownership_controls(Bucket=bucket),
        frozenset({"rule"}),
    ),
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": _setting(
        _put_lifecycle,
        _get_lifecycle,
        lambda s3, bucket: s3.delete_bucket_lifecycle(Bucket=bucket),
        frozenset({"rules", "transitionDefaultMinimumObjectSize"}),
    ),
    "aws:s3/bucketPolicy:BucketPolicy": _setting(
        lambda s3, bucket, inputs: s3.put_bucket_policy(Bucket=bucket, Policy=inputs["policy"]),
        lambda s3, bucket: {"policy": s3.get_bucket_policy(Bucket=bucket)["Policy"]},
        lambda s3, bucket: s3.delete_bucket_policy(Bucket=bucket),
        frozenset({"policy"}),
    ),
}
