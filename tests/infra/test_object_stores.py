"""Buckets: nobody outside gets in, nothing is lost by one mistake."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from infra.object_stores import (
    INCOMING,
    ObjectStores,
    ObjectStoresArgs,
    gcs_rules,
    s3_rules,
    tls_only_policy,
)
from infra.offline import schema
from model_store.objects import OWN


ARGS = ObjectStoresArgs(
    gcs_location="EUROPE-WEST3",
    noncurrent_days=30,
    cold_days=90,
    unfinished_upload_days=7,
    delete_with_data=False,
)


def stores(**changes: Any) -> ObjectStores:
    return ObjectStores("stores", replace(ARGS, **changes))


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


def test_old_versions_expire_old_objects_get_cheaper_and_lost_parts_go(declare):
    _, seen = declare(stores)
    rules = seen.only("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")["rules"]
    assert all((rule["status"], rule["filter"]) == ("Enabled", {"prefix": ""}) for rule in rules)
    assert rules[0]["noncurrentVersionExpiration"] == {"noncurrentDays": 30}
    assert rules[0]["abortIncompleteMultipartUpload"] == {"daysAfterInitiation": 7}
    assert rules[1]["transitions"] == [{"days": 90, "storageClass": "STANDARD_IA"}]
    rules = seen.only("gcp:storage/bucket:Bucket")["lifecycleRules"]
    assert [(rule["action"]["type"], rule["condition"]) for rule in rules] == [
        ("Delete", {"daysSinceNoncurrentTime": 30}),
        ("AbortIncompleteMultipartUpload", {"age": 7}),
        ("Delete", {"age": 7, "matchesPrefixes": [".hybrid/incoming/"]}),
        ("SetStorageClass", {"age": 90, "matchesStorageClasses": ["STANDARD"]}),
    ]


def test_parts_are_kept_where_the_store_puts_them():
    assert f"{OWN}incoming/" == INCOMING


def test_without_cold_days_nothing_changes_its_class():
    kept = replace(ARGS, cold_days=0)
    assert all("transitions" not in rule for rule in s3_rules(kept))
    assert all(rule["action"]["type"] != "SetStorageClass" for rule in gcs_rules(kept))


def test_the_offline_plugins_accept_every_property(declare):
    _, seen = declare(stores)
    for kind in ("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
                 "gcp:storage/bucket:Bucket"):  # fmt: skip
        # The engine's protocol made numbers of the program's whole numbers.
        sent = json.loads(re.sub(r"\b(\d+)\.0\b", r"\1", json.dumps(seen.only(kind))))
        assert list(schema.validate(sent, schema.input_properties(kind))) == []


def test_the_gcs_bucket_is_closed_and_versioned(declare):
    _, seen = declare(stores)
    bucket = seen.only("gcp:storage/bucket:Bucket")
    assert bucket["publicAccessPrevention"] == "enforced"
    assert bucket["uniformBucketLevelAccess"] is True
    assert bucket["versioning"] == {"enabled": True}


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


def test_an_emulator_that_speaks_plain_http_gets_no_such_policy(declare):
    _, seen = declare(lambda: stores(tls_only=False))
    assert "aws:s3/bucketPolicy:BucketPolicy" not in seen.inputs


def test_a_preview_does_not_know_what_the_cloud_will_say(declare, settled):
    made, seen = declare(stores, preview=True)
    assert settled(made.s3_arn)[1] is False
    assert "policy" not in seen.only("aws:s3/bucketPolicy:BucketPolicy")
