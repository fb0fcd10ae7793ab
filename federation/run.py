"""Run a federation through a running SuperLink: submit, follow, collect."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from federation.checkpoint import read_records
from federation.control import (
    EXPIRED,
    CertificateExpiredError,
    ControlClient,
    RunStatus,
    SuperLinkUnreachable,
)
from federation.credentials import locate
from federation.deployment import credentials_folder
from federation.errors import FederationError
from federation.files import new_folder, write_private
from federation.settings import RunSettings, build_bundle

Progress = Callable[[int, int, str], None]

POLL_SECONDS = 1.0
# SuperNodes that were just started need some seconds to connect.
JOIN_SECONDS = 60.0
# An executor that is there takes a run within a second or two. But Flower gives a ServerApp only
# 30 s to import everything, and has it started again and again on a machine that is too busy.
START_SECONDS = 180.0
# A SuperLink that crashed is given this long to be started again.
RECOVERY_SECONDS = 60.0
# A ServerApp that dies as often as this within one round dies of the run itself.
MOST_DEATHS = 5
# How Flower begins the details of a run whose ServerApp raised an exception; one that was killed
# has other details.
_RAISED = "ServerApp failed with exception: "


@dataclass(frozen=True)
class FederatedResult:
    """What a federation made.

    Attributes
    ----------
    artifact : Path
        Folder of the resulting model, in the form of :mod:`recsys.artifact`; its metrics are
        those on the sites' test items.
    metrics : dict of str to float
        The same metrics: averages over all sites' users, and their number under "users".
    baseline : dict of str to float
        Validation metrics of the model that the federation started from.
    rounds : list of dict
        One a round: "round", "loss" (mean training loss), "metrics" (validation metrics of the
        round's global model), "bytes_down", "bytes_up", "seconds", "sites" (metrics by site),
        "trained" (examples and loss by site), "refused" (sentence by site that did not count).
    """

    artifact: Path
    metrics: dict[str, float]
    baseline: dict[str, float]
    rounds: list[dict[str, Any]]


def federate(
    folder: Path,
    initial: Path,
    run: Path,
    *,
    address: str,
    sites: Iterable[str],
    progress: Progress | None = None,
    **how: Any,
) -> FederatedResult:
    """Train a model on the sites' data without moving the data.

    A run that was broken off goes on after its last finished round when this is called again with
    the same `run` folder and the same settings; one that has ended just gives its result. If a
    previous caller went away while its run went on, this one follows that run.

    Parameters
    ----------
    folder : Path
        The federation's folder (see :mod:`federation.deployment`).
    initial : Path
        Artefact of the model to start from.
    run : Path
        Folder of this run; the ServerApp must see it under the same path.
    address : str
        "host:port" of the SuperLink.
    sites : iterable of str
        Names of the sites that take part; all must be enrolled, and a quorum connected.
    progress : callable, optional
        Called with the finished rounds, all rounds and a text, at every change.
    how
        The other settings: see :class:`federation.settings.RunSettings`.

    Raises
    ------
    FederationError
        If a setting is not usable, the folder holds another run, the SuperLink does not answer,
        or too few sites give a usable answer.
    KeyboardInterrupt
        On Ctrl-C, after the run was stopped on the SuperLink.
    """
    settings = RunSettings(folder=Path(run).absolute(), sites=tuple(sorted(sites)), **how)
    report = _Report(settings, progress)
    prepare(settings, Path(initial))
    if not _artifact(settings).exists():
        authority = locate(credentials_folder(folder)).authority
        with ControlClient(address, authority) as control:
            _run(control, settings, report)
    report.update()
    return result_of(settings)


class _Report:
    """Tells the caller about rounds as their records appear."""

    def __init__(self, settings: RunSettings, progress: Progress | None) -> None:
        self._settings = settings
        self._progress = progress
        self._reported = -1

    @property
    def done(self) -> int:
        """Rounds that were reported so far."""
        return max(self._reported, 0)

    def say(self, text: str) -> None:
        if self._progress is not None:
            self._progress(self.done, self._settings.rounds, text)

    def update(self) -> None:
        for record in read_records(self._settings.folder)[self._reported + 1 :]:
            self._reported = record["round"]
            self.say(_describe(record, self._settings.rounds))


def _describe(record: dict[str, Any], rounds: int) -> str:
    quality = f"HR@10 {record['metrics']['HR@10']:.4f}, NDCG@10 {record['metrics']['NDCG@10']:.4f}"
    if record["round"] == 0:
        return f"start: {quality}"
    megabytes = (record["bytes_down"] + record["bytes_up"]) / 1e6
    text = (
        f"round {record['round']} of {rounds}: loss {record['loss']:.4f}, {quality}, "
        f"{len(record['trained'])} sites, {megabytes:.1f} MB, {record['seconds']:.1f} s"
    )
    if record.get("epsilon") is not None:
        text += f", ε {record['epsilon']:.3f}"
    if record.get("cost") is not None:
        text += f", {record['cost']:.4f} USD"
    told = [f"Without: {why}" for why in record["refused"].values()]
    return " ".join([f"{text}.", *told, *record.get("suspects", {}).values()])


def _artifact(settings: RunSettings) -> Path:
    return settings.folder / "artifact"


def _note(settings: RunSettings) -> Path:
    """File with the number under which the SuperLink knows the run."""
    return settings.folder / "flower-run"


def result_of(settings: RunSettings) -> FederatedResult:
    """What a run that has ended made."""
    baseline, *records = read_records(settings.folder)
    metrics = json.loads((_artifact(settings) / "metrics.json").read_text())
    return FederatedResult(_artifact(settings), metrics, baseline["metrics"], records)


def prepare(settings: RunSettings, initial: Path) -> None:
    """Make the run's folder; once the run was submitted, check that it is the same run."""
    if not (initial / "weights.safetensors").exists():
        raise FederationError(f"{initial} is not a model's artefact: train a model first.")
    run = settings.folder
    run.mkdir(parents=True, exist_ok=True)
    # The folder may have moved as a whole, and its own path does not change a run.
    wanted = asdict(replace(settings, folder=Path())) | {"initial": _digest(initial)}
    wanted = json.loads(json.dumps(wanted, default=str))
    path = run / "settings.json"
    if _note(settings).exists():
        present = json.loads(path.read_text())
        for name, value in wanted.items():
            if present.get(name) != value:
                raise FederationError(
                    f"{run} holds a run with {name} {present.get(name)!r}, not {value!r}: repeat "
                    "its settings or use another folder."
                )
        return
    shutil.rmtree(run / "initial", ignore_errors=True)
    with new_folder(run / "initial") as copy:
        shutil.copytree(initial, copy, dirs_exist_ok=True)
    write_private(path, json.dumps(wanted, indent=2).encode())


def _digest(artifact: Path) -> str:
    with (artifact / "weights.safetensors").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _run(control: ControlClient, settings: RunSettings, report: _Report) -> None:
    """Submit the run, unless it is under way, and follow it to its end.

    A ServerApp that was killed takes nothing along: the run is submitted again and goes on after
    its last finished round.
    """
    note = _note(settings)
    number = int(note.read_text()) if note.exists() else None
    status = control.status(number) if number is not None else None
    if status is None or status.phase == "finished":
        report.say("waiting for the sites")
        _await_sites(control, settings)
        number = _submit(control, settings)
    deaths = 0
    while True:
        done = report.done
        try:
            report.say(f"run {number} on {', '.join(settings.sites)}")
            status = _follow(control, number, settings, report)
        except KeyboardInterrupt:
            with contextlib.suppress(FederationError):
                control.stop(number)
            raise
        if status.outcome == "completed":
            return
        if status.outcome == "stopped":
            raise FederationError(
                f"Run {number} was stopped: call again to go on after the last finished round."
            )
        # The certificate is not the run's fault, and by now it is another one.
        if status.details.startswith(_RAISED) and EXPIRED not in status.details:
            sentence = status.details.removeprefix(_RAISED)
            raise FederationError(f"{sentence} (Log: {settings.folder / 'server.log'})")
        deaths = 1 if report.done > done else deaths + 1
        if deaths > MOST_DEATHS:
            raise FederationError(
                f"The ServerApp died {deaths} times without finishing a round "
                f"({status.details}): read the log of the server executor (serverapps)."
            )
        report.say(f"the ServerApp has died ({status.details}): the run is taken up again")
        number = _submit(control, settings)


def _submit(control: ControlClient, settings: RunSettings) -> int:
    number = control.start(build_bundle(), settings.to_config())
    write_private(_note(settings), str(number).encode())
    return number


def _await_sites(control: ControlClient, settings: RunSettings) -> None:
    """Wait until all sites are there, or for a while until there are enough."""
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        known = control.sites()
        if strange := [site for site in settings.sites if site not in known]:
            raise FederationError(
                f"Not enrolled with the SuperLink: {', '.join(strange)}. Enrol the site first."
            )
        offline = [site for site in settings.sites if known[site].status != "online"]
        if not offline:
            return
        if time.monotonic() > deadline:
            if len(settings.sites) - len(offline) >= settings.quorum * len(settings.sites):
                return
            raise FederationError(
                f"Not connected: {', '.join(offline)}. Start the SuperNode there, set its clock, "
                "or read its log."
            )
        time.sleep(POLL_SECONDS)


def _follow(
    control: ControlClient, number: int, settings: RunSettings, report: _Report
) -> RunStatus:
    """Report on a submitted run until it has ended, and tell how."""
    submitted = answered = time.monotonic()
    while True:
        try:
            status = control.status(number)
            answered = time.monotonic()
        except CertificateExpiredError:
            raise
        except SuperLinkUnreachable:
            if time.monotonic() > answered + RECOVERY_SECONDS:
                raise
            time.sleep(POLL_SECONDS)
            continue
        report.update()
        if status is None:
            return RunStatus("finished", "failed", f"the SuperLink has lost run {number}")
        if status.phase == "finished":
            return status
        if status.phase == "pending" and time.monotonic() > submitted + START_SECONDS:
            control.stop(number)
            raise FederationError(
                "Nothing takes up the run: start the server executor (serverapps), or read its log."
            )
        time.sleep(POLL_SECONDS)
