"""Resources held against the rules, with the severities and waivers of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from infra.policy.rule import Severity
from infra.policy.rules import RULES
from infra.resources import Declared

if TYPE_CHECKING:
    from stacks.settings import Settings


@dataclass(frozen=True)
class Finding:
    """A violation as people read it.

    Attributes
    ----------
    layer, resource, type
        Where; "settings" and nothing where it is in the settings.
    waived_until, expired
        Last day of a waiver that covers it, or of one that no longer does; ISO dates.
    """

    rule: str
    severity: Severity
    layer: str
    resource: str
    type: str
    sentence: str
    waived_until: str | None = None
    expired: str | None = None

    @property
    def blocks(self) -> bool:
        """Whether `up` must not go on."""
        return self.severity == "mandatory" and self.waived_until is None

    @property
    def told(self) -> str:
        """The violation with what became of its waiver."""
        if self.expired:
            return f"{self.sentence} (its waiver expired on {self.expired})"
        return self.sentence + (f" (waived until {self.waived_until})" if self.waived_until else "")

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.rule} ({self.severity}): {self.resource}: {self.told}"


def review(resources: Sequence[Declared], settings: Settings, today: date) -> list[Finding]:
    """All violations, those that block first.

    A waiver covers its rule on the resources whose name its pattern matches, up to and including
    its last day.
    """
    findings = []
    for rule in RULES:
        severity = settings.policy.severity.get(rule.name, rule.severity)
        if severity == "off":
            continue
        for problem in rule.check(resources, settings):
            where = problem.resource
            name = where.name if where else "settings"
            last_days = [
                waiver.until
                for waiver in settings.policy.waivers
                if waiver.rule == rule.name and fnmatchcase(name, waiver.resource)
            ]
            until = max(last_days, default=None)
            current = until is not None and until >= today
            findings.append(
                Finding(
                    rule.name,
                    severity,
                    where.layer if where else "settings",
                    name,
                    where.type if where else "",
                    problem.sentence,
                    until.isoformat() if until and current else None,
                    until.isoformat() if until and not current else None,
                )
            )
    return sorted(findings, key=lambda finding: (not finding.blocks, finding.severity))
