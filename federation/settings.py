"""Settings of one federated run, and the bundle that carries them to Flower."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from federation.compression import Compression
from federation.errors import FederationError, SettingError
from federation.selection import RULES
from federation.secure.aggregation import FEWEST_SITES, MOST_SITES
from federation.strategies.make import STRATEGIES, USED_BY

# Strategies that change how a site trains.
LOCAL_RULES = ("fedprox", "scaffold")
# Those that the sum of all updates does not do for.
NEED_EACH = ("scaffold", "krum", "multi-krum", "trimmed-mean")
SECURE = ("none", "masks", "ckks")


@dataclass(frozen=True)
class RunSettings:
    """What a run does.

    Attributes
    ----------
    folder : Path
        The run's folder, at the ServerApp.
    sites : tuple of str
        Sites that take part.
    rounds : int
        Number of rounds.
    local_epochs : int
        Passes over its own interactions that a site makes in a round.
    strategy : str
        One of :data:`federation.strategies.make.STRATEGIES`.
    proximal_mu : float
        Weight of FedProx's proximal term; 0 with others.
    server_rate : float
        Learning rate of FedAdam and FedYogi; 0 with others.
    server_momentum : float
        FedAvgM's share of the last round's movement in the next, below 1; 0 with others.
    buffer : int
        Updates that make a version of the model with FedBuff, which takes each for a round; 0 with
        others.
    wrong_sites : int
        So many sites the robust strategies bear; 0 with others.
    keep_moments : bool
        Each site's optimizer goes on, round after round, with what it remembers of its gradients
        (the moments of AdamW, which stay at the site), instead of beginning afresh. Private
        training remembers nothing.
    by_row : bool
        Average each row of a table over the sites that sent it, and let a site send the rows of
        its own items alone (FedSubAvg).
    personal : str
        Layers that stay at the sites: patterns of :func:`federation.strategies.personal
        .personal_names`, with commas between them, or "none".
    final_rate : float
        The sites' learning rate falls linearly to this share of the recipe's, in the last round.
    selection : str
        Which sites train in a round: a rule of :func:`federation.selection.select`.
    fraction : float
        Share of the sites (at least one) that train in a round. All of them evaluate.
    answer_within : float
        The `deadline` of that rule in seconds; 0 for none.
    keep_updates : bool
        Keep every update in the run's folder (:mod:`federation.ledger`).
    seed : int
        Decides which sites train in which round and seeds their training.
    round_timeout : float
        Seconds that a site has for a round. Without its answer the round then goes on, if there
        is a quorum; else it waits as long again, twice at most.
    quorum : float
        Share of the sites asked to train (in the last exchange: to evaluate) of which usable
        answers are needed.
    ask_again : float
        Seconds after which a silent site gets its message a second time; then after twice as
        long, and so on.
    at_once : int
        So many sites at most are at work at a time, the others wait for their turn; 0 for all. One
        that was silent for `ask_again` does not count.
    dp_epsilon, dp_delta : float
        Budget of user-level differential privacy, over all that went into the model; ε of 0 for
        none (see :mod:`federation.privacy.rounds`).
    dp_clip : float
        Largest norm of what one user adds to a step of private training.
    secure : str
        "masks" or "ckks" for sums of which the server learns nothing else (see
        :mod:`federation.secure.aggregation` and :mod:`federation.secure.encrypted`), or "none".
    secure_rows : float
        Share of each table's rows that a secure sum is of, others each round.
    reply_limit : int
        Most bytes that a site may send in a round; 0 for twice the model's and 1 MiB.
    egress_price : float
        US dollars for a GB (10⁹ bytes) that goes to sites, for the rounds' records.
    compression, share
        Of the changes that cross, see :class:`federation.compression.Compression`. With "none"
        the whole model goes down in every round.
    """

    folder: Path
    sites: tuple[str, ...]
    rounds: int = 5
    local_epochs: int = 1
    strategy: str = "fedavg"
    proximal_mu: float = 0.0
    server_rate: float = 0.0
    server_momentum: float = 0.0
    buffer: int = 0
    wrong_sites: int = 0
    by_row: bool = False
    keep_moments: bool = True
    personal: str = "none"
    final_rate: float = 1.0
    selection: str = "share"
    fraction: float = 1.0
    answer_within: float = 0.0
    keep_updates: bool = False
    seed: int = 0
    round_timeout: float = 1800.0
    quorum: float = 0.5
    ask_again: float = 120.0
    at_once: int = 0
    dp_epsilon: float = 0.0
    dp_delta: float = 1e-6
    dp_clip: float = 1.0
    secure: str = "none"
    secure_rows: float = 1.0
    reply_limit: int = 0
    egress_price: float = 0.0
    compression: str = "none"
    share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that no run could follow."""
        _require(len(self.sites) > 0, "sites", self.sites, "name at least one site")
        _require(self.rounds >= 1, "rounds", self.rounds, "use 1 or more")
        _require(self.local_epochs >= 1, "local_epochs", self.local_epochs, "use 1 or more")
        _require(
            self.strategy in STRATEGIES, "strategy", self.strategy,
            f"use one of {', '.join(STRATEGIES)}",
        )
        for name, users in USED_BY.items():
            value = getattr(self, name)
            if self.strategy not in users:
                use = "use" if len(users) > 1 else "uses"
                _require(not value, name, value, f"only {', '.join(users)} {use} it")
            elif name != "by_row":
                _require(0 < value < math.inf, name, value, f"{self.strategy} needs one above 0")
        _require(
            self.server_momentum < 1, "server_momentum", self.server_momentum, "use one below 1"
        )
        _require(0 <= self.final_rate <= 1, "final_rate", self.final_rate, "use one in [0, 1]")
        _require(
            self.selection in RULES, "selection", self.selection, f"use one of {', '.join(RULES)}"
        )
        _require(
            0 <= self.answer_within < math.inf, "answer_within", self.answer_within,
            "use a number of seconds, or 0 for none",
        )
        _require(0 < self.fraction <= 1, "fraction", self.fraction, "use a number in (0, 1]")
        _require(self.seed >= 0, "seed", self.seed, "use 0 or more")
        _require(
            0 < self.round_timeout < math.inf, "round_timeout", self.round_timeout,
            "use a number of seconds above 0",
        )
        _require(0 < self.quorum <= 1, "quorum", self.quorum, "use a number in (0, 1]")
        _require(
            0 < self.ask_again < math.inf, "ask_again", self.ask_again,
            "use a number of seconds above 0",
        )
        _require(self.at_once >= 0, "at_once", self.at_once, "use a number of sites, or 0 for all")
        _require(
            0 <= self.dp_epsilon < math.inf, "dp_epsilon", self.dp_epsilon, "use 0 (none) or more"
        )
        _require(0 < self.dp_delta < 1, "dp_delta", self.dp_delta, "use a number in (0, 1)")
        _require(0 < self.dp_clip < math.inf, "dp_clip", self.dp_clip, "use a number above 0")
        _require(
            not self.dp_epsilon or self.strategy not in LOCAL_RULES, "strategy", self.strategy,
            "differential privacy leaves the site no rule of its own; use fedavg",
        )
        _require(self.secure in SECURE, "secure", self.secure, "use none, masks or ckks")
        _require(
            0 < self.secure_rows <= 1, "secure_rows", self.secure_rows, "use a number in (0, 1]"
        )
        if self.strategy == "fedbuff":
            _require(
                self.buffer <= len(self.sites), "buffer", self.buffer,
                f"{len(self.sites)} sites, each once a version, would never fill it",
            )
            _require(
                self.fraction == 1, "fraction", self.fraction,
                "fedbuff hands its model to every site that is idle; use 1",
            )
            _require(
                self.selection == "share", "selection", self.selection,
                "fedbuff hands its model to every site that is idle; use share",
            )
            _require(
                self.secure == "none", "secure", self.secure,
                "a secure sum is of sites that train one version, and fedbuff's train several",
            )
        if self.secure != "none":
            _require(
                self.strategy not in NEED_EACH, "strategy", self.strategy,
                "it looks at each site's update, which a secure sum hides",
            )
            _require(
                not self.keep_updates, "keep_updates", self.keep_updates,
                "a secure sum has no updates to keep",
            )
            _require(
                not self.by_row, "by_row", self.by_row,
                "a secure sum hides which rows a site has changed",
            )
            _require(
                FEWEST_SITES <= max(1, round(self.fraction * len(self.sites))) <= MOST_SITES,
                "fraction", self.fraction,
                f"a secure sum needs {FEWEST_SITES} to {MOST_SITES} sites in a round",
            )
        _require(self.reply_limit >= 0, "reply_limit", self.reply_limit, "use 0 or more bytes")
        _require(
            0 <= self.egress_price < math.inf, "egress_price", self.egress_price, "use 0 or more"
        )
        self.coding  # noqa: B018  its own checks
        _require(
            not self.keep_updates or self.compression == "none", "compression", self.compression,
            "a replay adds kept updates up exactly; use none, or keep none",
        )

    @property
    def coding(self) -> Compression:
        """How changes are written."""
        return Compression(self.compression, self.share)

    def to_config(self) -> dict[str, str | int | float | bool]:
        """Write the settings as a Flower run configuration (flat, with kebab-case keys)."""
        values = asdict(self) | {"folder": str(self.folder), "sites": ",".join(self.sites)}
        return {name.replace("_", "-"): value for name, value in values.items()}

    @classmethod
    def from_config(cls, config: dict[str, str | int | float | bool]) -> RunSettings:
        """Read the settings back from a Flower run configuration."""
        values = {field.name: config[field.name.replace("_", "-")] for field in fields(cls)}
        values["folder"] = Path(values["folder"])
        values["sites"] = tuple(values["sites"].split(","))
        return cls(**values)


def build_bundle() -> bytes:
    """Build the Flower app bundle (FAB) of a federated run; the same bytes every time.

    The bundle only points at this package. Servers and sites have the toolkit installed, so a
    bundle that carried code would merely let whoever may submit a run bring other code to a site.
    """
    from flwr.cli.build import build_fab_from_files

    defaults = RunSettings(folder=Path("run"), sites=("site",)).to_config()
    # JSON literals of str, int and float are also TOML literals.
    config = "\n".join(f"{name} = {json.dumps(value)}" for name, value in defaults.items())
    project = f"""\
[project]
name = "federation"
version = "1.0.0"
description = "Federated training of a sequential recommender"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "hybrid"

[tool.flwr.app.components]
serverapp = "federation.server_app:app"
clientapp = "federation.client_app:app"

[tool.flwr.app.config]
{config}
"""
    bundle, _ = build_fab_from_files({"pyproject.toml": project.encode()})
    return bundle


def _require(holds: bool, name: str, value: object, advice: str) -> None:
    if not holds:
        raise SettingError(name, value, advice)
