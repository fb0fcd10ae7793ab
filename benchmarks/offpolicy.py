"""Off-policy estimates on the Open Bandit Dataset, checked against what really happened.

    python -m benchmarks.offpolicy [--data FOLDER] [--resamples 1000]

The shop ran two policies in the same week: uniformly random, and Bernoulli Thompson sampling (bts).
From the log of each the click rate of the other is estimated and set beside the rate that the other
had in its own log, with its interval; a gap is counted in standard errors of the difference. The
plain rate of the log stands first: what one would say without off-policy evaluation.

What a policy shows is taken from its own log, as the harmonic mean of the logged propensities for
each item and position (`recsys.offpolicy.logging_policy`); the Open Bandit Pipeline simulates bts
from its priors instead. Rounds are taken as independent, though a page shows three positions.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recsys.offpolicy import Estimate, evaluate_policy, load_log, logging_policy, observed_rate

OPEN_BANDIT = Path(__file__).resolve().parents[1] / "../shared/data/open_bandit"


def report(data: Path, resamples: int) -> None:
    """Print the table: both campaigns, both directions."""
    table = Table(title="click rates in percent, with 95% intervals")
    for heading in ("campaign", "log", "new policy", "by", "estimate", "observed", "gap (se)"):
        table.add_column(heading)
    notes = []
    for campaign in ("men", "women"):
        logs = {name: load_log(data / f"{name}_{campaign}.csv.gz") for name in ("random", "bts")}
        for source, target in (("random", "bts"), ("bts", "random")):
            began = time.perf_counter()
            result = evaluate_policy(
                logs[source], logging_policy(logs[target]), resamples=resamples
            )
            seconds = time.perf_counter() - began
            observed = observed_rate(logs[target])
            for row in (observed_rate(logs[source]), *result.estimates):
                gap = (row.value - observed.value) / math.hypot(
                    row.standard_error, observed.standard_error
                )
                name = "rate of the log" if row.estimator == "observed" else row.estimator
                table.add_row(
                    campaign, source, target, name, shown(row), shown(observed), f"{gap:+.1f}"
                )
            table.add_section()
            notes.append(
                f"{campaign}, {source} to {target}: {result.rounds} rounds count as "
                f"{result.effective_rounds:.0f}, largest weight {result.largest_weight:.1f}, "
                f"{result.unsupported:.1%} of the new policy unsupported, {seconds:.1f} s"
            )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False)


def shown(rate: Estimate) -> str:
    return f"{100 * rate.value:.2f} ({100 * rate.low:.2f} to {100 * rate.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=OPEN_BANDIT)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"no data at {options.data}: give a folder with --data")
    report(options.data, options.resamples)


if __name__ == "__main__":
    main()
