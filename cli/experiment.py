"""What a trial has shown: errors, slow answers and clicks of both versions, with intervals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli import canary, trials
from cli.environment import Environment
from cli.learning import short_digest
from cli.lock import InUse, environment_lock
from cli.production import Deployed
from cli.trials import Trial

if TYPE_CHECKING:
    import polars as pl

# The chance that any interval of a trial, at any time, misses.
ERROR = 0.05
ARMS = ("production", "canary")
POLL_SECONDS = 2.0
PROMOTE, ABORT, OPEN = "promote", "abort", "open"
# Columns of the two logs and the polars types that they are read as.
REQUEST = {"id": "String", "at": "Float64", "arm": "String", "status": "Int64",
           "seconds": "Float64", "cause": "String"}  # fmt: skip
CLICK = {"id": "String", "at": "Float64"}


@dataclass(frozen=True)
class Rate:
    """How often something happened in a version's requests, and between what bounds it lies."""

    requests: int
    rate: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """One rate of both versions.

    Parameters
    ----------
    name
        errors, slow or clicks.
    production, canary
        The rate of each.
    low, high
        By how much the new version's rate is higher, at least and at most.
    finding
        ``worse`` for users, ``no worse`` by more than the margin, or ``open``.
    """

    name: str
    production: Rate
    canary: Rate
    low: float
    high: float
    finding: str


def compare(environment: Environment, trial: Trial, now: float | None = None) -> list[Compared]:
    """What the trial's log and recorded clicks say.

    Clicks are left out until one is recorded, and in a shadow, whose answers nobody sees.
    """
    rules = trial.rules
    requests = _read(trials.requests_file(environment, trial), REQUEST)
    # What neither version can help, such as that there is no session store, tells nothing of them.
    requests = requests.filter(requests["cause"] == "")
    clicks = _read(trials.outcomes_file(environment, trial), CLICK)
    measured = {
        "errors": (requests, requests["status"] >= 500),
        "slow": (requests, requests["seconds"] > rules.slow_after),
    }
    if len(clicks) and trial.share is not None:
        old = requests.filter(requests["at"] + rules.click_window <= (now or time.time()))
        measured["clicks"] = (old, _clicked(old, clicks, rules.click_window))
    error = ERROR / (len(measured) * len(ARMS))
    found = []
    for name, (rows, happened) in measured.items():
        production, new = (
            _rate(happened.filter(rows["arm"] == arm).cast(float).to_numpy(), error)
            for arm in ARMS
        )
        low, high = new.low - production.high, new.high - production.low
        harm = (-high, -low) if name == "clicks" else (low, high)
        found.append(Compared(name, production, new, low, high, _finding(*harm, rules.margin)))
    return found


def stray_clicks(environment: Environment, trial: Trial) -> int:
    """How many recorded clicks are of requests that the trial has not seen: they count nowhere."""
    requests = _read(trials.requests_file(environment, trial), REQUEST)
    clicks = _read(trials.outcomes_file(environment, trial), CLICK)
    return clicks.join(requests, on="id", how="anti").height


def verdict(found: list[Compared]) -> str:
    """`PROMOTE`, `ABORT` or `OPEN`."""
    findings = {each.finding for each in found}
    if "worse" in findings:
        return ABORT
    return PROMOTE if findings == {"no worse"} else OPEN


def in_words(each: Compared) -> str:
    """One line for people."""
    return (
        f"{each.name}: {_percent(each.canary.rate)} of {each.canary.requests:,} requests, "
        f"production {_percent(each.production.rate)} of {each.production.requests:,}, "
        f"difference {each.low:+.2%} to {each.high:+.2%}: {each.finding}"
    )


def watch(
    environment: Environment,
    trial: Trial,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Deployed | None:
    """Look at a trial until it is decided, and carry the decision out.

    Nothing is kept in memory: after an interruption the next call goes on from the files. Of a
    shadow it only tells, since users may still find another version worse.

    Returns
    -------
    Deployed or None
        The new version, if it was promoted; None if it was taken back, or somebody else decided.
    """
    told: list[str] = []
    while (now := trials.current(environment)) == trial:
        found = compare(environment, trial)
        lines = [in_words(each) for each in found]
        for line in lines:
            if line not in told:
                say(line)
        told = lines
        decision = verdict(found)
        if decision != OPEN and trial.share is None:
            say("A shadow decides nothing: hybrid deploy MODEL --canary 10% goes on.")
            return None
        if decision != OPEN:
            # While another command holds the environment, which may be deciding, look again.
            with suppress(InUse), environment_lock(environment.folder, "hybrid deploy"):
                if trials.current(environment) == trial:
                    return _carry_out(environment, trial, decision, say)
        sleep(POLL_SECONDS)
    how = "begun anew" if now else trials.find(environment, trial.name).ended
    say(f"The trial of {short_digest(trial.model)} was {how} by another command.")
    return None


def _carry_out(
    environment: Environment,
    trial: Trial,
    decision: str,
    say: Callable[[str], None],
) -> Deployed | None:
    def progress(done: int, total: int, text: str) -> None:
        say(text)

    if decision == PROMOTE:
        say(f"No worse by more than {trial.rules.margin:.2%}: promoting.")
        return canary.promote(environment, progress)
    say("Worse: taking it back.")
    canary.abort(environment, progress)
    return None


def _rate(values, error: float) -> Rate:
    from recsys.sequential import confidence_sequence

    if not len(values):
        return Rate(0, None, 0.0, 1.0)
    low, high = confidence_sequence(values, error)
    return Rate(len(values), float(values.mean()), float(low[-1]), float(high[-1]))


def _finding(low: float, high: float, margin: float) -> str:
    """What bounds of the harm say; harm that is surely there but within the margin is no worse."""
    if high < margin:
        return "no worse"
    return "worse" if low > 0 else "open"


def _read(file: Path, columns: dict[str, str]) -> pl.DataFrame:
    """Whole lines of a log that may be written to just now; one that is torn counts as none."""
    import polars as pl

    schema = {name: getattr(pl, kind) for name, kind in columns.items()}
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        text = b""
    lines = text[: text.rfind(b"\n") + 1]
    try:
        rows = pl.read_ndjson(lines, schema=schema) if lines else pl.DataFrame(schema=schema)
    except pl.exceptions.ComputeError:
        whole = b"\n".join(line for line in lines.splitlines() if _is_json(line))
        rows = pl.read_ndjson(whole, schema=schema)
    # Lines from before there was a cause have none.
    return rows.with_columns(pl.col(n).fill_null("") for n in columns if n == "cause").drop_nulls()


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _clicked(requests: pl.DataFrame, clicks: pl.DataFrame, window: float) -> pl.Series:
    """bool[requests]: whether a click followed in time."""
    first = clicks.sort("at").unique("id", keep="first").rename({"at": "clicked"})
    joined = requests.join(first, on="id", how="left", maintain_order="left")
    return (joined["clicked"] - joined["at"] <= window).fill_null(False)


def _percent(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.2%}"
