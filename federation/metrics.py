"""Metrics of several sites as one."""

from __future__ import annotations

from typing import Any

from federation.errors import FederationError

# Up to here doubles count in ones; sums of more may overflow.
MOST = 2**53


def is_figure(value: Any) -> bool:
    """Whether a figure that a site sent can be reckoned with: one number, neither NaN nor endless."""
    return isinstance(value, int | float) and abs(value) <= MOST


def check_metrics(site: str, metrics: dict[str, float]) -> None:
    """Refuse metrics that cannot be averaged with the other sites'.

    Raises
    ------
    FederationError
        If the figures named in the records are missing, or one is no finite number.
    """
    wanted = {"HR@10", "NDCG@10", "users"}
    usable = all(map(is_figure, metrics.values()))
    if not wanted <= metrics.keys() or not usable or metrics["users"] < 0:
        raise FederationError(f"Site {site!r} sent no usable metrics: {metrics}.")


def average_metrics(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average the sites' metrics, each counted by its number of evaluated users.

    Parameters
    ----------
    metrics : dict of str to dict
        By site; averaged are the names that all have. Among them "users".

    Returns
    -------
    dict of str to float
        The averages, and under "users" the sum.
    """
    users = sum(values["users"] for values in metrics.values())
    names = set.intersection(*(set(values) for values in metrics.values())) - {"users"}
    averages = {
        name: sum(metrics[site][name] * metrics[site]["users"] for site in sorted(metrics))
        / max(users, 1)
        for name in sorted(names)
    }
    return averages | {"users": int(users)}
