"""Trials of a second version beside the one in production: one file each, written whole."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cli.environment import Environment
from cli.errors import CommandError
from cli.files import write_text
from cli.serving_client import RECOMMEND, channel_of
from infra.serving_proxy import SecondVersion


@dataclass(frozen=True)
class Rules:
    """What decides a trial.

    Parameters
    ----------
    margin
        By how much a rate may be worse for the new version to count as no worse: 0.01 is one in
        a hundred requests.
    slow_after
        Seconds after which an answer counts as slow.
    click_window
        Seconds after its request within which a click counts; a request is judged by clicks once
        they have passed.
    """

    margin: float = 0.01
    slow_after: float = 0.1
    click_window: float = 300.0


@dataclass(frozen=True)
class Trial:
    """A canary, or a shadow where `share` is None.

    Parameters
    ----------
    name
        Names its files; later trials sort after earlier ones.
    model, baseline
        Digests of the new version and of the one in production, which are of one kind.
    share
        Per cent of the users that the new version answers.
    rules
        What decides it.
    ended
        None while it is on, else how it ended: promoted, aborted, changed.
    kind
        What both do, such as `search`; users of other kinds' endpoints notice nothing.
    """

    name: str
    model: str
    baseline: str
    share: float | None
    rules: Rules
    ended: str | None = None
    kind: str = RECOMMEND

    @property
    def channel(self) -> str:
        """Where it goes if it is promoted."""
        return channel_of(self.kind)

    @property
    def sharing(self) -> str:
        """What share of the users it has, in words."""
        return "copies of all requests" if self.share is None else f"{self.share:g} % of users"


def begin(
    environment: Environment,
    model: str,
    baseline: str,
    share: float | None,
    rules: Rules,
    kind: str = RECOMMEND,
) -> Trial:
    """Record that a trial is on."""
    number = max((int(each.name[:4]) for each in trials(environment)), default=0) + 1
    name = f"{number:04d}-{model[7:19]}"
    trial = Trial(name, model, baseline, share, rules, kind=kind)
    _write(environment, trial)
    return trial


def end(environment: Environment, trial: Trial, how: str) -> None:
    """Record that a trial is over."""
    _write(environment, replace(trial, ended=how))


def current(environment: Environment) -> Trial | None:
    """The trial that is on; only the last one can be."""
    found = trials(environment)[-1:]
    return found[0] if found and found[0].ended is None else None


def require_none(environment: Environment, kind: str) -> None:
    """Refuse what would change the model of a kind in production under its trial."""
    trial = current(environment)
    if trial is not None and trial.kind == kind:
        raise CommandError(is_on(trial))


def is_on(trial: Trial) -> str:
    """A sentence for who must decide a trial first."""
    return (
        f"Model {trial.model[7:19]} is on trial for {trial.channel} with {trial.sharing}: "
        "hybrid deploy --promote or hybrid deploy --abort first."
    )


def trials(environment: Environment) -> list[Trial]:
    """All trials, the oldest first.

    Raises
    ------
    CommandError
        A record holds something else.
    """
    return [_read(file) for file in sorted(_folder(environment).glob("*-*.json"))]


def find(environment: Environment, name: str | None) -> Trial:
    """A trial by its name, its first digits included; the last one for None."""
    found = [t for t in trials(environment) if name is None or t.name.startswith(name)]
    if not found:
        known = ", ".join(trial.name for trial in trials(environment)) or "none yet"
        what = "There was no trial" if name is None else f"There is no trial {name!r}"
        raise CommandError(f"{what} ({known}): hybrid deploy MODEL --canary 10% begins one.")
    return found[-1]


def requests_file(environment: Environment, trial: Trial) -> Path:
    """nginx's log of the trial's requests, a line of JSON each."""
    return _folder(environment) / f"{trial.name}.requests.jsonl"


def outcomes_file(environment: Environment, trial: Trial) -> Path:
    """What came of requests, a line of JSON each."""
    return _folder(environment) / f"{trial.name}.outcomes.jsonl"


def record_clicks(environment: Environment, requests: tuple[str, ...]) -> Trial:
    """Note that a user clicked what these requests, by their X-Request-Id, were answered."""
    trial = current(environment)
    if trial is None:
        raise CommandError("No trial is on, so that nothing is recorded.")
    lines = [json.dumps({"id": request, "at": time.time()}) + "\n" for request in requests]
    # One write of so few bytes at the end of a file is not mixed up with another's.
    with outcomes_file(environment, trial).open("a") as file:
        file.write("".join(lines))
    return trial


def second_version(environment: Environment, trial: Trial | None) -> SecondVersion | None:
    """What the proxy needs to know of a trial."""
    if trial is None:
        return None
    log = requests_file(environment, trial)
    return SecondVersion(trial.model.removeprefix("sha256:"), trial.share, str(log), trial.kind)


def _write(environment: Environment, trial: Trial) -> None:
    text = json.dumps(asdict(trial), indent=2) + "\n"
    write_text(_folder(environment) / f"{trial.name}.json", text, mode=0o600)


def _read(file: Path) -> Trial:
    try:
        fields = json.loads(file.read_text())
        return Trial(**fields | {"rules": Rules(**fields["rules"])})
    except (OSError, ValueError, TypeError, KeyError):
        raise CommandError(f"{file} is no record of a trial: move it away.") from None


def _folder(environment: Environment) -> Path:
    return environment.folder / "experiments"
