"""Secrets Manager: secrets and their versions."""

from __future__ import annotations

import base64
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
from infra.offline.resource import Properties, Request, ResourceType


def _describe(api: Aws, identity: str) -> Properties | None:
    try:
        return api.client("secretsmanager").describe_secret(SecretId=identity)
    except Exception as error:
        if is_missing(error) or error_code(error) == "ResourceNotFoundException":
            return None
        raise


def _create(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs, manager = request.inputs, api.client("secretsmanager")
    found = _describe(api, inputs["name"])
    if found is not None:
        claim(request, "secret", inputs["name"], found.get("Tags"))
        if found.get("DeletedDate"):
            manager.restore_secret(SecretId=found["ARN"])
        return found["ARN"], {}
    optional = {"description": "Description", "kmsKeyId": "KmsKeyId"}
    answer = manager.create_secret(
        Name=inputs["name"],
        Tags=tag_list(api.tags(inputs) | {MARK_TAG: request.mark}),
        **{key: inputs[name] for name, key in optional.items() if inputs.get(name)},
    )
    return answer["ARN"], {}


def _configure(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    manager = api.client("secretsmanager")
    if old:
        if any(new.get(name) != old.get(name) for name in ("description", "kmsKeyId")):
            key = {"KmsKeyId": new["kmsKeyId"]} if new.get("kmsKeyId") else {}
            manager.update_secret(SecretId=identity, Description=new.get("description", ""), **key)
        wanted, present = api.tags(new), api.tags(old)
        if removed := [key for key in present if key not in wanted]:
            manager.untag_resource(SecretId=identity, TagKeys=removed)
        if wanted and wanted != present:
            manager.tag_resource(SecretId=identity, Tags=tag_list(wanted))
    if new.get("policy") != old.get("policy"):
        if new.get("policy"):
            manager.put_resource_policy(SecretId=identity, ResourcePolicy=new["policy"])
        else:
            manager.delete_resource_policy(SecretId=identity)


def _read(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _describe(api, identity)
    if found is None or found.get("DeletedDate"):
        return None
    return {
        "arn": found["ARN"],
        "name": found["Name"],
        "description": found.get("Description", ""),
    } | observed_tags(api, found.get("Tags"))


def _delete(api: Aws, identity: str, state: Properties) -> None:
    window = state.get("recoveryWindowInDays", 30)
    how: Properties = (
        {"RecoveryWindowInDays": window} if window else {"ForceDeleteWithoutRecovery": True}
    )
    with gone_is_done():
        if _read(api, identity, state) is not None:
            api.client("secretsmanager").delete_secret(SecretId=identity, **how)


def _value(inputs: Properties) -> Properties:
    if inputs.get("secretString") is not None:
        return {"SecretString": inputs["secretString"]}
    return {"SecretBinary": base64.b64decode(inputs.get("secretBinary") or "")}


def _current(api: Aws, **query: Any) -> Properties | None:
    try:
        return api.client("secretsmanager").get_secret_value(**query)
    except Exception as error:
        if is_missing(error) or error_code(error) in (
            "ResourceNotFoundException",
            "InvalidRequestException",  # the secret itself is scheduled for deletion
        ):
            return None
        raise


def _create_version(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs, secret = request.inputs, request.inputs["secretId"]
    found = _current(api, SecretId=secret)
    if found is None or any(found.get(key) != value for key, value in _value(inputs).items()):
        stages = {"VersionStages": inputs["versionStages"]} if inputs.get("versionStages") else {}
        found = api.client("secretsmanager").put_secret_value(
            SecretId=secret, **_value(inputs), **stages
        )
    return f"{secret}|{found['VersionId']}", {}


def _read_version(api: Aws, identity: str, state: Properties) -> Properties | None:
    secret, _, version = identity.rpartition("|")
    found = _current(api, SecretId=secret, VersionId=version)
    if found is None:
        return None
    observed = {
        "arn": found["ARN"],
        "versionId": version,
        "versionStages": found.get("VersionStages") or [],
        "hasSecretStringWo": False,
    }
    if "SecretString" in found:
        observed["secretString"] = found["SecretString"]
    else:
        observed["secretBinary"] = base64.b64encode(found["SecretBinary"]).decode()
    return observed


TYPES = {
    "aws:secretsmanager/secret:Secret": ResourceType(
        create=_create,
        read=_read,
        delete=_delete,
        configure=_configure,
        handled=frozenset(
            {
                "name",
                "description",
                "kmsKeyId",
                "policy",
                "recoveryWindowInDays",
                "forceOverwriteReplicaSecret",
                "tags",
                "region",
            }
        ),
        replace_on=("name",),
        name="name",
    ),
    "aws:secretsmanager/secretVersion:SecretVersion": ResourceType(
        create=_create_version,
        read=_read_version,
        delete=lambda api, identity, state: None,  # a version goes with its secret
        handled=frozenset({"secretId", "secretString", "secretBinary", "versionStages", "region"}),
        secrets=("secretString", "secretBinary"),
    ),
}
