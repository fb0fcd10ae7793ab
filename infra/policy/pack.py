"""The rules as a pack for the engine's analyzer, which calls them with a stack's resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from infra.offline.wire import UNKNOWN
from infra.policy.review import Finding, review
from infra.policy.rules import RULES
from infra.resources import Declared
from stacks.settings import load_settings


def start() -> None:
    """Serve the pack to the engine that started this process."""
    policies = [
        StackValidationPolicy(
            name=rule.name,
            description=rule.meaning,
            # What is reported is only what blocks; severities and waivers are the settings'.
            enforcement_level=EnforcementLevel.MANDATORY,
            validate=_validator(rule.name),
        )
        for rule in RULES
    ]
    PolicyPack("hybrid", policies, enforcement_level=EnforcementLevel.MANDATORY)


def _validator(name: str) -> Any:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        resources = [declared(resource) for resource in args.resources]
        for finding in blocking(resources):
            if finding.rule == name:
                urn = next((r.urn for r in resources if r.name == finding.resource), "")
                report(finding.told, urn)

    return validate


def blocking(resources: Sequence[Declared]) -> list[Finding]:
    """What stops the stack that these resources are of."""
    if not resources:
        return []
    environment = resources[0].urn.split("::")[0].removeprefix("urn:pulumi:").partition(".")[0]
    found = review(resources, load_settings(environment), date.today())
    return [finding for finding in found if finding.blocks]


def declared(resource: Any) -> Declared:
    """A resource of the analyzer as the rules read it; `resource` is a ``PolicyResource``."""
    sources = {
        name: frozenset(other.urn for other in others)
        for name, others in resource.property_dependencies.items()
    }
    inputs = _plain(resource.props)
    layer = resource.urn.split("::")[0].rpartition(".")[2]
    return Declared(
        layer, resource.resource_type, resource.name, resource.urn, True, inputs, sources
    )


def _plain(value: Any) -> Any:
    """The analyzer's value without its guard, which raises where something is not known yet."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: _part(value, key) for key in value}
    if isinstance(value, Sequence):
        return [_part(value, number) for number in range(len(value))]
    return value


def _part(value: Any, key: Any) -> Any:
    try:
        return _plain(value[key])
    except UnknownValueError:
        return UNKNOWN
