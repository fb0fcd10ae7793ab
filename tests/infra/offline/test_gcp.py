"""Buckets through the real engine on fake-gcs-server."""

from __future__ import annotations

import httpx
import pulumi
import pulumi_gcp as gcp


def test_buckets(run_stack, cloud_storage) -> None:
    settings = {"age": 30, "location": "EU"}

    def program() -> None:
        provider = gcp.Provider(
            "emulated",
            project="test",
            access_token="test",
            storage_custom_endpoint=f"{cloud_storage.url}/storage/v1/",
            default_labels={"environment": "local"},
        )
        bucket = gcp.storage.Bucket(
            "store",
            name="store",
            location=settings["location"],
            force_destroy=True,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            versioning={"enabled": True},
            labels={"layer": "cloud"},
            lifecycle_rules=[
                {
                    "action": {"type": "Delete"},
                    "condition": {"age": settings["age"], "with_state": "ARCHIVED"},
                }
            ],
            opts=pulumi.ResourceOptions(provider=provider),
        )
        pulumi.export("url", bucket.url)

    stack = run_stack(program)
    assert stack.up().outputs["url"].value == "gs://store"
    assert stack.refresh().summary.resource_changes.keys() == {"same"}
    upload = f"{cloud_storage.url}/upload/storage/v1/b/store/o?uploadType=media&name=models/a"
    for content in (b"one", b"two"):
        assert httpx.post(upload, content=content).status_code == 200
    settings["age"] = 60
    assert stack.up().summary.resource_changes["update"] == 1
    settings["location"] = "US"
    assert stack.up().summary.resource_changes["replace"] == 1
    httpx.post(upload, content=b"three")
    stack.destroy()
    listed = httpx.get(f"{cloud_storage.url}/storage/v1/b?project=test").json()
    assert not listed.get("items")
