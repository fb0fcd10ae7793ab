"""Rules on who may do what, whose things are, and what they may cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from infra.machine_groups import AZURE_GROUP
from infra.offline.wire import UNKNOWN
from infra.policy.rule import Problem, at, document, listed, of_type, revealed
from infra.resources import PROVIDERS, Declared

MACHINE = "aws:ec2/instance:Instance"
POLICIES = (
    "aws:iam/policy:Policy",
    "aws:iam/rolePolicy:RolePolicy",
    "aws:iam/userPolicy:UserPolicy",
    "aws:iam/groupPolicy:GroupPolicy",
)
# Many of these know no resource to be limited to, and none of them changes anything.
READING = ("Describe", "List", "Get")
# What the SSM agent of a machine calls: these know no resource either.
AGENT = ("ssm:UpdateInstanceInformation", "ssmmessages:", "ec2messages:")
WANTED = {
    f"{PROVIDERS}aws": ("defaultTags", ("hybrid:environment", "hybrid:layer")),
    f"{PROVIDERS}gcp": ("defaultLabels", ("hybrid-environment", "hybrid-layer")),
    # Azure's provider tags nothing by itself. What is in a group goes with it; machines start later.
    "azure:core/resourceGroup:ResourceGroup": ("tags", ("hybrid-environment", "hybrid-layer")),
    AZURE_GROUP: ("tags", ("hybrid-environment", "hybrid-layer")),
}
WIDE_ROLES = ("roles/owner", "roles/editor", "Owner", "Contributor", "User Access Administrator")


def wildcard_iam(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Policies that allow every action of a service, or changes to everything."""
    for policy in of_type(resources, *POLICIES):
        for statement in listed(document(policy.inputs.get("policy")).get("Statement")):
            if statement.get("Effect") != "Allow":
                continue
            actions = [str(action) for action in listed(statement.get("Action"))]
            wild = [a for a in actions if a == "*" or a.partition(":")[2] == "*"]
            if wild or "NotAction" in statement:
                yield Problem(policy, f"it allows {wild[0] if wild else 'all but some actions'}")
            changing = [
                action
                for action in actions
                if not action.partition(":")[2].startswith(READING)
                and not action.startswith(AGENT)
            ]
            everything = "*" in listed(statement.get("Resource"))
            if everything and changing and not statement.get("Condition"):
                yield Problem(policy, f"it allows {changing[0]} on every resource")
    for kind, key in (
        ("gcp:projects/iAMMember:IAMMember", "role"),
        ("azure:authorization/assignment:Assignment", "roleDefinitionName"),
    ):
        for given in of_type(resources, kind):
            if (role := given.inputs.get(key)) in WIDE_ROLES:
                yield Problem(given, f"it gives {role}, which allows nearly everything")
    for role in of_type(resources, "azure:authorization/roleDefinition:RoleDefinition"):
        for permission in listed(role.inputs.get("permissions")):
            actions = [*listed(at(permission, "actions")), *listed(at(permission, "dataActions"))]
            wild = [a for a in map(str, actions) if a.endswith("*")]
            if wild:
                yield Problem(role, f"it allows {wild[0]}")


def missing_tags(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Things of which nobody could tell whose they are: bills and `hybrid orphans` go by tags."""
    for provider in of_type(resources, *WANTED):
        place, keys = WANTED[provider.type]
        value = revealed(provider.inputs.get(place))
        tags = document(value)
        missing = [key for key in keys if key not in (tags.get("tags") or tags)]
        if value is not UNKNOWN and missing:
            yield Problem(provider, f"its {place} lack {', '.join(missing)}")
    wanted = set(WANTED[f"{PROVIDERS}aws"][1])
    single = [machine.sources.get("launchTemplate", ()) for machine in of_type(resources, MACHINE)]
    # The provider's tags reach a machine that is declared, but not its volumes, nor what a group
    # starts later.
    for template in of_type(resources, "aws:ec2/launchTemplate:LaunchTemplate"):
        declared = any(template.urn in sources for sources in single)
        for kind in ("volume",) if declared else ("instance", "volume"):
            found = [
                set(at(s, "tags") or ())
                for s in listed(template.inputs.get("tagSpecifications"))
                if at(s, "resourceType") == kind
            ]
            missing = wanted - set().union(*found)
            if missing:
                yield Problem(template, f"a new {kind} lacks {', '.join(sorted(missing))}")


def no_budget(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """A real environment without a limit to what it may cost."""
    if settings.kind == "cloud" and settings.budget is None:
        yield Problem(None, "the settings have no budget.monthly_usd")
