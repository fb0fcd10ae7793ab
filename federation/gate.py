"""Whether a model may be promoted: never one that is below the model in production.

Both models rank the same held-out users, and a paired permutation test
(:func:`recsys.significance.paired_permutation`) tells whether chance explains the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

from recsys.report import Comparison


@dataclass(frozen=True)
class Verdict:
    """What the gate says; `reason` is a sentence with the figures that it rests on."""

    passed: bool
    reason: str


def judge(comparison: Comparison) -> Verdict:
    """Judge a model by its comparison with the one in production.

    It is stopped where it is lower in the deciding metric and the test's p value is below 0.05. A
    model that is as good as production but for chance passes: with few users the test cannot
    tell more, and the sentence says how wide the interval is.

    Parameters
    ----------
    comparison : Comparison
        By :func:`recsys.report.compare`, production first: differences are the model's less
        production's.
    """
    found = comparison.deciding
    figures = (
        f"{comparison.metric} {found.second:.4f} against {found.first:.4f} in production on the "
        f"same {comparison.users} users: {found.difference:+.4f} "
        f"({found.low:+.4f} to {found.high:+.4f}, p = {found.p:.3f})"
    )
    if comparison.differs and found.difference < 0:
        return Verdict(False, f"below production: {figures}")
    return Verdict(True, f"not below production: {figures}")
