"""Options of `hybrid federate`: how sites' updates are combined, and which sites train."""

from __future__ import annotations

from collections.abc import Callable

import click

from cli.options import FiniteRange

# As federation.strategies.make and federation.selection have them; a test compares. Importing them
# would make `--help` wait for NumPy.
STRATEGIES = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "scaffold", "krum",
              "multi-krum", "trimmed-mean", "fedbuff")  # fmt: skip
RULES = ("share", "size", "utility", "speed")

OPTIONS = (
    click.option("--strategy", type=click.Choice(STRATEGIES), default="fedavg", show_default=True),
    click.option("--proximal-mu", type=FiniteRange(0), default=0.0,
                 help="Weight of FedProx's proximal term."),
    click.option("--server-rate", type=FiniteRange(0), default=0.0,
                 help="Server's learning rate with fedadam and fedyogi, such as 0.01."),
    click.option("--server-momentum", type=FiniteRange(0, 1, max_open=True), default=0.0,
                 help="Share of the last round's movement in the next with fedavgm, such as 0.6."),
    click.option("--buffer", type=click.IntRange(0), default=0, metavar="K",
                 help="With fedbuff: as soon as K updates are there, they make a new model; a round "
                      "is one such model."),
    click.option("--wrong-sites", type=click.IntRange(0), default=0,
                 help="So many sites krum, multi-krum and trimmed-mean shall bear."),
    click.option("--by-row", is_flag=True,
                 help="Average an item's row over the sites whose users had it (FedSubAvg)."),
    click.option("--keep-moments/--fresh-moments", default=True, show_default=True,
                 help="Let each site's optimizer go on with its moments from round to round, or begin "
                      "afresh; private training keeps none."),
    click.option("--personal", default="none", show_default=True, metavar="PATTERNS",
                 help="Layers that stay at the sites, such as '*norm*,position_embedding.*'."),
    click.option("--final-rate", type=FiniteRange(0, 1), default=1.0, show_default=True,
                 help="Share of the learning rate that is left in the last round."),
    click.option("--selection", type=click.Choice(RULES), default="share", show_default=True,
                 help="Sites that train in a round: at random, by data, by utility (Oort), or the "
                      "fastest by their last answers."),
    click.option("--fraction", type=FiniteRange(0, 1, min_open=True), default=1.0,
                 show_default=True, help="Share of the sites that train in a round."),
    click.option("--answer-within", type=FiniteRange(0), default=0.0, metavar="SECONDS",
                 help="With --selection speed or utility: slower sites come last; 0 for no limit."),
    click.option("--keep-updates", is_flag=True,
                 help="Keep what each site sent, for hybrid federate contribution."),
)  # fmt: skip


def strategy_options(command: Callable) -> Callable:
    """Add the options to a command, in this order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
