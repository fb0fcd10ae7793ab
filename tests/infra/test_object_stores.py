"""Buckets: nobody outside gets in, nothing is lost by one mistake."""

from __future__ import annotations

import json

import pytest

from infra.object_stores import ObjectStores, ObjectStoresArgs, tls_only_policy


def stores(*, delete_with_data: bool = False) -> ObjectStores:
    return ObjectStores("stores", ObjectStoresArgs("EUROPE-WEST3", 30, delete_with_data))


def test_the_s3_bucket_is_closed_versioned_and_encrypted(declare):
    _, seen = declare(stores)
    blocked = seen.only("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock")
    assert {key: value for key, value in blocked.items() if key != "bucket"} == {
        "blockPublicAcls": True,
        "blockPublicPolicy": True,
        "ignorePublicAcls": True,
        "restrictPublicBuckets": True,
    }
    versioning = seen.only("aws:s3/bucketVersioning:BucketVersioning")
    assert versioning["versioningConfiguration"] == {"status": "Enabled"}
    ownership = seen.only("aws:s3/bucketOwnershipControls:BucketOwnershipControls")
    assert ownership["rule"] == {"objectOwnership": "BucketOwnerEnforced"}
    encryption = seen.only(
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    )
    (rule,) = encryption["rules"]
    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "AES256"}
    (rule,) = seen.only("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")["rules"]
    assert rule["noncurrentVersionExpiration"] == {"noncurrentDays": 30}


def test_the_gcs_bucket_is_closed_and_versioned(declare):
    _, seen = declare(stores)
    bucket = seen.only("gcp:storage/bucket:Bucket")
    assert bucket["publicAccessPrevention"] == "enforced"
    assert bucket["uniformBucketLevelAccess"] is True
    assert bucket["versioning"] == {"enabled": True}
    assert bucket["lifecycleRules"][0]["condition"] == {"daysSinceNoncurrentTime": 30}


@pytest.mark.parametrize("delete_with_data", [False, True])
def test_data_is_deleted_only_where_the_settings_say_so(declare, delete_with_data):
    _, seen = declare(lambda: stores(delete_with_data=delete_with_data))
    for kind in ("aws:s3/bucket:Bucket", "gcp:storage/bucket:Bucket"):
        assert seen.only(kind)["forceDestroy"] is delete_with_data


def test_the_policy_refuses_plain_text_on_bucket_and_objects():
    statements = json.loads(tls_only_policy("arn:aws:s3:::models"))["Statement"]
    assert {statement["Effect"] for statement in statements} == {"Deny"}
    everything = ["arn:aws:s3:::models", "arn:aws:s3:::models/*"]
    assert all(statement["Resource"] == everything for statement in statements)
    assert {"Bool": {"aws:SecureTransport": "false"}} in [s["Condition"] for s in statements]


def test_a_preview_does_not_know_what_the_cloud_will_say(declare, settled):
    made, seen = declare(stores, preview=True)
    assert settled(made.s3_arn)[1] is False
    assert "policy" not in seen.only("aws:s3/bucketPolicy:BucketPolicy")
