"""Metrics of several sites as one."""

from __future__ import annotations


def average_metrics(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average the sites' metrics, each counted by its number of evaluated users.

    Parameters
    ----------
    metrics : dict of str to dict
        By site: the same names everywhere, among them "users".

    Returns
    -------
    dict of str to float
        The averages, and under "users" the sum.
    """
    users = sum(values["users"] for values in metrics.values())
    names = next(iter(metrics.values())).keys() - {"users"}
    averages = {
        name: sum(metrics[site][name] * metrics[site]["users"] for site in sorted(metrics))
        / max(users, 1)
        for name in sorted(names)
    }
    return averages | {"users": int(users)}
