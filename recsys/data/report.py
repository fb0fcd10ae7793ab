"""What was found in data, and what was done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes
    ----------
    problem
        What is the matter, for example ``rating is not a number``.
    rows
        How many events (or rows of another table) it concerns.
    action
        What was done: ``dropped``, ``sorted``, ``kept``, …
    example
        Where the first one is, or an id; empty where there is nothing to point at.
    """

    problem: str
    rows: int
    action: str
    example: str = ""


@dataclass
class Report:
    """Findings in the order in which they were made; loaders and filters add to it."""

    findings: list[Finding] = field(default_factory=list)

    def note(self, problem: str, rows: int, action: str, examples: Sequence[str] = ()) -> None:
        """Add a finding, unless it concerns no rows; of the examples the first is kept."""
        if rows:
            self.findings.append(Finding(problem, rows, action, examples[0] if examples else ""))

    @property
    def dropped(self) -> int:
        """Rows that were left out, over all findings."""
        return sum(finding.rows for finding in self.findings if finding.action == "dropped")
