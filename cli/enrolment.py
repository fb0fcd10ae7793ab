"""What the audit log tells of sites' enrolment."""

from __future__ import annotations

from cli.environment import Environment
from federation.enrolment import identity

ADDED, ROTATED, REMOVED = "site added", "site rotated", "site removed"


def note_enrolment(environment: Environment, site: str, event: str = ADDED) -> None:
    """Record a site's present keys, unless the log's last word on it has them already."""
    audit = environment.audit_log()
    present = identity(environment.federation, site)
    told = [record for record in audit.records() if record.get("site") == site]
    if not told or any(told[-1].get(name) != value for name, value in present.items()):
        audit.append(event, site=site, **present)
