"""What is asked of an account before anything is done in it: is it the right one, can it do this."""

from __future__ import annotations

from cli.environment import Environment
from cli.errors import CommandError
from infra.faults import told


def require_account(environment: Environment) -> None:
    """Refuse credentials of another account than the settings name; asks STS and nobody else.

    Raises
    ------
    CommandError
        Names both accounts.
    CloudError
        The credentials are missing, expired or unknown.
    """
    named = environment.settings.aws.account
    if named is None:
        return
    with told():
        caller = environment.aws()("sts").get_caller_identity()
    if caller["Account"] != named:
        raise CommandError(
            f"The AWS credentials in use are of account {caller['Account']} ({caller['Arn']}), but "
            f"aws.account of {environment.name} is {named}: choose the right AWS_PROFILE. Nothing "
            "was done."
        )


def require_instance_types(environment: Environment) -> None:
    """Refuse zones that offer none of the GPU pool's instance types.

    Raises
    ------
    CommandError
        Names the zones and types, and which zones of the region have some.
    """
    settings = environment.settings
    if settings.aws.account is None:
        return
    types = settings.gpu_pool.instance_types
    with told():
        pages = environment.aws()("ec2").get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": list(types)}],
        )
        offered = {each["Location"] for page in pages for each in page["InstanceTypeOfferings"]}
    lacking = [zone for zone in settings.zones if zone not in offered]
    if lacking:
        raise CommandError(
            f"{_zones(lacking)} none of gpu_pool.instance_types ({', '.join(types)}): of region "
            f"{settings.region}, {', '.join(sorted(offered)) or 'no zone'} does. Change zones or "
            "gpu_pool.instance_types."
        )


def _zones(names: list[str]) -> str:
    if len(names) == 1:
        return f"Zone {names[0]} offers"
    return f"Zones {', '.join(names)} offer"
