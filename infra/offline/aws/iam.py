"""IAM: roles, users, their policies and keys, and instance profiles."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from infra.offline.aws.api import (
    MARK_TAG,
    Aws,
    gone_is_done,
    is_missing,
    mark_in,
    observed_tags,
    tag_list,
)
from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType, resource_mark


def claim(request: Request, kind: str, name: str, tags: list[dict[str, str]] | None) -> None:
    """Accept an existing object of a wanted name if this resource made it, else refuse.

    An interrupted run leaves an object with the resource's mark, or without any where the service
    cannot tag at creation.
    """
    mark = mark_in(tags)
    if mark is not None and mark.partition(".")[0] != resource_mark(request.urn):
        raise OfflineError(
            f"the {kind} {name!r} exists already and belongs to another resource: choose another "
            "name, or destroy the stack that made it"
        )


def _document(document: Any) -> str:
    """A policy as JSON text, whatever form botocore gives it."""
    return json.dumps(document) if isinstance(document, dict) else unquote(document)


def _get(call: Any, **parameters: Any) -> Properties | None:
    try:
        return call(**parameters)
    except Exception as error:
        if is_missing(error):
            return None
        raise


def _marked_tags(api: Aws, request: Request) -> list[dict[str, str]]:
    return tag_list(api.tags(request.inputs) | {MARK_TAG: request.mark})


def _create_role(api: Aws, request: Request) -> tuple[str, Properties]:
    iam, inputs = api.client("iam"), request.inputs
    found = _get(iam.get_role, RoleName=inputs["name"])
    if found is not None:
        claim(request, "IAM role", inputs["name"], found["Role"].get("Tags"))
        return inputs["name"], {}
    optional = {
        "path": "Path",
        "description": "Description",
        "maxSessionDuration": "MaxSessionDuration",
        "permissionsBoundary": "PermissionsBoundary",
    }
    iam.create_role(
        RoleName=inputs["name"],
        AssumeRolePolicyDocument=inputs["assumeRolePolicy"],
        Tags=_marked_tags(api, request),
        **{key: inputs[name] for name, key in optional.items() if inputs.get(name) is not None},
    )
    return inputs["name"], {}


def _change_role(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    if not old:
        return
    iam = api.client("iam")
    if new["assumeRolePolicy"] != old.get("assumeRolePolicy"):
        iam.update_assume_role_policy(RoleName=identity, PolicyDocument=new["assumeRolePolicy"])
    if any(new.get(name) != old.get(name) for name in ("description", "maxSessionDuration")):
        iam.update_role(
            RoleName=identity,
            Description=new.get("description", ""),
            MaxSessionDuration=new.get("maxSessionDuration", 3600),
        )
    if new.get("permissionsBoundary") != old.get("permissionsBoundary"):
        if new.get("permissionsBoundary"):
            iam.put_role_permissions_boundary(
                RoleName=identity, PermissionsBoundary=new["permissionsBoundary"]
            )
        else:
            iam.delete_role_permissions_boundary(RoleName=identity)
    wanted, present = api.tags(new), api.tags(old)
    if removed := [key for key in present if key not in wanted]:
        iam.untag_role(RoleName=identity, TagKeys=removed)
    if wanted and wanted != present:
        iam.tag_role(RoleName=identity, Tags=tag_list(wanted))


def _read_role(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _get(api.client("iam").get_role, RoleName=identity)
    if found is None:
        return None
    role = found["Role"]
    return {
        "name": role["RoleName"],
        "arn": role["Arn"],
        "uniqueId": role["RoleId"],
        "path": role["Path"],
        "description": role.get("Description", ""),
        "maxSessionDuration": role.get("MaxSessionDuration", 3600),
        "assumeRolePolicy": _document(role["AssumeRolePolicyDocument"]),
        "createDate": role["CreateDate"].isoformat(),
    } | observed_tags(api, role.get("Tags"))


def _delete_role(api: Aws, identity: str, state: Properties) -> None:
    iam = api.client("iam")
    with gone_is_done():
        if state.get("forceDetachPolicies"):
            # Loads what a plugin's start can do without.
            from infra.removal import strip_policies

            strip_policies(iam, "role", identity)
        iam.delete_role(RoleName=identity)


def _inline_policy(owner: str) -> ResourceType:
    """A policy within a `role` or `user`; its id is ``<owner's name>:<policy's name>``."""
    owner_name = f"{owner.title()}Name"

    def put(api: Aws, identity: str, new: Properties, old: Properties) -> None:
        getattr(api.client("iam"), f"put_{owner}_policy")(
            PolicyName=new["name"], PolicyDocument=new["policy"], **{owner_name: new[owner]}
        )

    def read(api: Aws, identity: str, state: Properties) -> Properties | None:
        holder, _, name = identity.partition(":")
        call = getattr(api.client("iam"), f"get_{owner}_policy")
        found = _get(call, PolicyName=name, **{owner_name: holder})
        if found is None:
            return None
        return {owner: holder, "name": name, "policy": _document(found["PolicyDocument"])}

    def delete(api: Aws, identity: str, state: Properties) -> None:
        holder, _, name = identity.partition(":")
        with gone_is_done():
            call = getattr(api.client("iam"), f"delete_{owner}_policy")
            call(PolicyName=name, **{owner_name: holder})

    return ResourceType(
        create=lambda api, request: (f"{request.inputs[owner]}:{request.inputs['name']}", {}),
        read=read,
        delete=delete,
        configure=put,
        handled=frozenset({"name", owner, "policy"}),
        replace_on=("name", owner),
        name="name",
    )


def _attach(api: Aws, request: Request) -> tuple[str, Properties]:
    role, policy = request.inputs["role"], request.inputs["policyArn"]
    try:
        api.client("iam").attach_role_policy(RoleName=role, PolicyArn=policy)
    except Exception as error:
        if not is_missing(error) or _get(api.client("iam").get_role, RoleName=role) is None:
            raise
        raise OfflineError(
            f"the emulator has no managed policy {policy!r} to attach to {role!r}: start "
            "moto with MOTO_IAM_LOAD_MANAGED_POLICIES=true"
        ) from error
    return f"{role}-{policy.rpartition('/')[2]}", {}


def _read_attachment(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _get(api.client("iam").list_attached_role_policies, RoleName=state["role"])
    attached = {each["PolicyArn"] for each in found["AttachedPolicies"]} if found else set()
    return {} if state["policyArn"] in attached else None


def _detach(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        api.client("iam").detach_role_policy(RoleName=state["role"], PolicyArn=state["policyArn"])


def _create_profile(api: Aws, request: Request) -> tuple[str, Properties]:
    iam, inputs = api.client("iam"), request.inputs
    found = _get(iam.get_instance_profile, InstanceProfileName=inputs["name"])
    if found is not None:
        profile = found["InstanceProfile"]
        claim(request, "IAM instance profile", inputs["name"], profile.get("Tags"))
    else:
        path = {"Path": inputs["path"]} if inputs.get("path") else {}
        iam.create_instance_profile(
            InstanceProfileName=inputs["name"], Tags=_marked_tags(api, request), **path
        )
    return inputs["name"], {}


def _set_profile_role(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    iam = api.client("iam")
    profile = iam.get_instance_profile(InstanceProfileName=identity)["InstanceProfile"]
    present = {role["RoleName"] for role in profile["Roles"]}
    wanted = {new["role"]} if new.get("role") else set()
    for role in present - wanted:
        iam.remove_role_from_instance_profile(InstanceProfileName=identity, RoleName=role)
    for role in wanted - present:
        iam.add_role_to_instance_profile(InstanceProfileName=identity, RoleName=role)
    if old and api.tags(new) != api.tags(old):
        if removed := [key for key in api.tags(old) if key not in api.tags(new)]:
            iam.untag_instance_profile(InstanceProfileName=identity, TagKeys=removed)
        iam.tag_instance_profile(InstanceProfileName=identity, Tags=tag_list(api.tags(new)))


def _read_profile(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _get(api.client("iam").get_instance_profile, InstanceProfileName=identity)
    if found is None:
        return None
    profile = found["InstanceProfile"]
    return {
        "name": profile["InstanceProfileName"],
        "arn": profile["Arn"],
        "uniqueId": profile["InstanceProfileId"],
        "path": profile["Path"],
        "role": profile["Roles"][0]["RoleName"] if profile["Roles"] else "",
        "createDate": profile["CreateDate"].isoformat(),
    } | observed_tags(api, profile.get("Tags"))


def _delete_profile(api: Aws, identity: str, state: Properties) -> None:
    iam = api.client("iam")
    found = _get(iam.get_instance_profile, InstanceProfileName=identity)
    if found is None:
        return
    for role in found["InstanceProfile"]["Roles"]:
        with gone_is_done():
            iam.remove_role_from_instance_profile(
                InstanceProfileName=identity, RoleName=role["RoleName"]
            )
    with gone_is_done():
        iam.delete_instance_profile(InstanceProfileName=identity)


def _create_user(api: Aws, request: Request) -> tuple[str, Properties]:
    iam, inputs = api.client("iam"), request.inputs
    found = _get(iam.get_user, UserName=inputs["name"])
    if found is not None:
        claim(request, "IAM user", inputs["name"], found["User"].get("Tags"))
    else:
        path = {"Path": inputs["path"]} if inputs.get("path") else {}
        iam.create_user(UserName=inputs["name"], Tags=_marked_tags(api, request), **path)
    return inputs["name"], {}


def _change_user(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    wanted, present = api.tags(new), api.tags(old)
    if not old or wanted == present:
        return
    iam = api.client("iam")
    if removed := [key for key in present if key not in wanted]:
        iam.untag_user(UserName=identity, TagKeys=removed)
    iam.tag_user(UserName=identity, Tags=tag_list(wanted))


def _read_user(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _get(api.client("iam").get_user, UserName=identity)
    if found is None:
        return None
    user = found["User"]
    return {
        "name": user["UserName"],
        "arn": user["Arn"],
        "uniqueId": user["UserId"],
        "path": user["Path"],
    } | observed_tags(api, user.get("Tags"))


def _delete_user(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        api.client("iam").delete_user(UserName=identity)


def _keys(api: Aws, user: str) -> list[Properties]:
    found = _get(api.client("iam").list_access_keys, UserName=user)
    return found["AccessKeyMetadata"] if found else []


def _create_key(api: Aws, request: Request) -> tuple[str, Properties]:
    iam, user = api.client("iam"), request.inputs["user"]
    # A key's secret is told once: of a key that an interrupted run made nobody knows it.
    for stray in _keys(api, user):
        iam.delete_access_key(UserName=user, AccessKeyId=stray["AccessKeyId"])
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return key["AccessKeyId"], {"secret": key["SecretAccessKey"]}


def _read_key(api: Aws, identity: str, state: Properties) -> Properties | None:
    for key in _keys(api, state["user"]):
        if key["AccessKeyId"] == identity:
            return {"status": key["Status"], "createDate": key["CreateDate"].isoformat()}
    return None


def _delete_key(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        api.client("iam").delete_access_key(UserName=state["user"], AccessKeyId=identity)


TYPES = {
    "aws:iam/user:User": ResourceType(
        create=_create_user,
        read=_read_user,
        delete=_delete_user,
        configure=_change_user,
        handled=frozenset({"name", "path", "tags"}),
        replace_on=("name", "path"),
        name="name",
    ),
    "aws:iam/userPolicy:UserPolicy": _inline_policy("user"),
    "aws:iam/accessKey:AccessKey": ResourceType(
        create=_create_key,
        read=_read_key,
        delete=_delete_key,
        handled=frozenset({"user"}),
        secrets=("secret",),
    ),
    "aws:iam/role:Role": ResourceType(
        create=_create_role,
        read=_read_role,
        delete=_delete_role,
        configure=_change_role,
        handled=frozenset(
            {
                "name",
                "assumeRolePolicy",
                "description",
                "path",
                "maxSessionDuration",
                "permissionsBoundary",
                "forceDetachPolicies",
                "tags",
            }
        ),
        replace_on=("name", "path"),
        name="name",
    ),
    "aws:iam/rolePolicy:RolePolicy": _inline_policy("role"),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": ResourceType(
        create=_attach, read=_read_attachment, delete=_detach
    ),
    "aws:iam/instanceProfile:InstanceProfile": ResourceType(
        create=_create_profile,
        read=_read_profile,
        delete=_delete_profile,
        configure=_set_profile_role,
        handled=frozenset({"name", "role", "path", "tags"}),
        replace_on=("name", "path"),
        name="name",
    ),
}
