"""hybrid offpolicy"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import FiniteRange, json_option


@click.command()
@click.argument("log")
@click.option("--policy", metavar="FILE",
              help="New policy: a table with item, position and probability.")
@click.option("--policy-log", metavar="FILE",
              help="New policy: the one that wrote this log, to check the estimates by its clicks.")
@click.option("--uniform", is_flag=True, help="New policy: every item with the same probability.")
@click.option("--confidence", default=0.95, show_default=True,
              type=FiniteRange(0, 1, min_open=True, max_open=True),
              help="Of the intervals.")
@click.option("--resamples", default=1000, show_default=True, type=click.IntRange(2),
              help="Resamples of the bootstrap.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0),
              help="Of the bootstrap and the folds.")
@json_option
@click.pass_obj
def offpolicy(
    app: Application,
    log: str,
    policy: str | None,
    policy_log: str | None,
    uniform: bool,
    confidence: float,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Estimate the click rate of a new policy from the LOG of another, without serving it.

    LOG is a table of impressions as in the Open Bandit Dataset: time, item, position, click and
    propensity, the probability with which the item was shown there.
    """
    from dataclasses import asdict, replace

    from recsys.offpolicy import (
        evaluate_policy,
        load_log,
        load_policy,
        logging_policy,
        observed_rate,
        uniform_policy,
    )

    if sum([policy is not None, policy_log is not None, uniform]) != 1:
        raise click.UsageError("Give one new policy: --policy, --policy-log or --uniform.")
    logged = load_log(log)
    observed = [replace(observed_rate(logged, confidence=confidence), estimator="old, observed")]
    if policy_log is not None:
        own = load_log(policy_log)
        new = logging_policy(own)
        observed.append(
            replace(observed_rate(own, confidence=confidence), estimator="new, observed")
        )
    else:
        new = uniform_policy(logged) if policy is None else load_policy(policy)
    result = evaluate_policy(
        logged, new, resamples=resamples, confidence=confidence, seed=seed
    )
    if as_json:
        app.show_json(asdict(result) | {"observed": [asdict(rate) for rate in observed]})
        return
    app.show_table(
        ["click rate of the new policy", "value", "standard error", f"{confidence:.0%} interval"],
        [
            [
                row.estimator,
                f"{row.value:.5f}",
                f"{row.standard_error:.5f}",
                f"{row.low:.5f} to {row.high:.5f}",
            ]
            for row in [*result.estimates, *observed]
        ],
    )
    click.echo(
        f"The {result.rounds} rounds of the log tell as much as {result.effective_rounds:.0f} of "
        f"the new policy would; the largest weight is {result.largest_weight:.1f}."
    )
    if result.unsupported:
        click.echo(
            f"The new policy spends {result.unsupported:.1%} of its choices on items that the log "
            "never shows in that position: of these the estimates know nothing."
        )
