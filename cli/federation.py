"""Training across the sites; what comes out goes to the model store."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.application import Progress
from cli.environment import Environment
from cli.errors import CommandError
from cli.federation_plan import Planned, Wish, plan_run
from cli.files import write_text
from cli.learning import (
    SYNTHETIC,
    Trained,
    code_version,
    environment_store,
    lineage_of,
    load_data,
    store_model,
)
from cli.promotion import promote
from cli.rounds import Observe, figures_of
from cli.steps import recorded
from cli.stores import require_not_private
from federation import deployment
from federation.audit import AuditLog
from federation.checkpoint import read_records
from federation.credentials import locate
from federation.errors import FederationError, SettingError
from federation.history import find_run, past_runs

if TYPE_CHECKING:
    from recsys.data.interactions import Interactions
    from recsys.tracking import Tracker

# Settings of a run that tell what it will take.
PLANNED_BY = ("rounds", "local_epochs", "buffer", "at_once", "keep_moments")


@recorded("federate")
def federate(
    environment: Environment,
    reference: str,
    how: dict[str, Any],
    progress: Progress,
    *,
    wish: Wish | None = None,
    announce: Callable[[Planned], None] | None = None,
    observe: Observe | None = None,
    wandb_project: str | None = None,
    sites: list[str] | None = None,
) -> Trained:
    """Train a stored model further where the sites' users are.

    `candidate` then points to it, unless it is below the model in production.

    Each site gets the users that fall to it by a hash of their name, in a folder of its own, and
    only what Flower carries ever leaves it. The same call goes on with a run that was interrupted.

    Parameters
    ----------
    how
        Settings of the run that differ from the defaults of `federation.run.federate`.
    wish
        What is asked of the run's traffic; by default what `how` says of compression.
    announce
        Told what a new run will take, before it starts.
    observe
        Told of each round's record.
    wandb_project
        Report to Weights & Biases too.
    sites
        Sites that take part; by default all that are enrolled, if they run elsewhere and connected.
    """
    environment.require_local("Federation")
    wish = wish or Wish(how.get("compression", "none"), how.get("share", 0.1))
    store = environment_store(environment)
    parent = store.resolve(reference)
    sites = participants(environment) if sites is None else sites
    asked = how | wish.settings()
    key = sha256(repr((parent, sites, sorted(asked.items()))).encode()).hexdigest()
    run = runs_folder(environment) / f"federate-{key[:12]}"
    # What was picked to meet a budget stays: rounds since then would let another plan win.
    interactions = None
    if not (run / "request.json").exists():
        interactions = _data(environment, parent, sites)
        planned = plan(environment, reference, how, wish, sites, interactions)
        if announce:
            announce(planned)
        chosen = planned.chosen
        picked = how | {
            "rounds": chosen.rounds,
            "local_epochs": chosen.local_epochs,
            "compression": chosen.compression.method,
            "share": chosen.compression.share,
            "egress_price": planned.price,
        }
        request = {
            "parent": parent,
            "how": picked,
            "sites": list(chosen.sites),
            "wandb_project": wandb_project,
        }
        write_text(run / "request.json", json.dumps(request))
    return _run(environment, run, progress, observe, interactions)


def plan(
    environment: Environment,
    reference: str,
    how: dict[str, Any],
    wish: Wish,
    sites: list[str] | None = None,
    interactions: Interactions | None = None,
) -> Planned:
    """What a run would take; see :func:`federate` for the arguments.

    `interactions` are those of the model, where they have been read already.
    """
    store = environment_store(environment)
    parent = store.resolve(reference)
    sites = participants(environment) if sites is None else sites
    _check(how, wish, sites)
    shares = shared_out(environment, interactions or _data(environment, parent, sites))
    with tempfile.TemporaryDirectory(prefix="hybrid-federate-") as scratch:
        return plan_run(
            store.get(parent, Path(scratch) / "model"),
            {site: shares.get(site) for site in sites},
            runs_folder(environment),
            wish,
            **{name: how[name] for name in PLANNED_BY if name in how},
        )


def _check(how: dict[str, Any], wish: Wish, sites: list[str]) -> None:
    """Refuse settings that no run could follow, before anything of a run is there."""
    from federation.settings import RunSettings

    coding = {"compression": wish.compression, "share": wish.share}
    try:
        RunSettings(
            folder=Path(), sites=tuple(sites), **how | ({} if wish.compression == "auto" else coding)
        )
    except SettingError as error:
        option = error.name.replace("_", "-")
        raise CommandError(f"--{option} is {error.value}: {error.advice}.", exit_code=2) from None


@recorded("federate")
def resume(
    environment: Environment,
    name: str | None,
    progress: Progress,
    *,
    observe: Observe | None = None,
) -> Trained:
    """Go on with a run that was interrupted; without a name, with the newest that was.

    Raises
    ------
    CommandError
        No run was interrupted, or it was not started by `hybrid federate`.
    """
    environment.require_local("Federation")
    folder = runs_folder(environment)
    if name is None:
        open_runs = [run.name for run in past_runs(folder) if run.state != "finished"]
        if not open_runs:
            raise CommandError("Nothing to resume: every federated run has ended.")
        name = open_runs[0]
    return _run(environment, folder / find_run(folder, name).name, progress, observe)


def _run(
    environment: Environment,
    run: Path,
    progress: Progress,
    observe: Observe | None,
    interactions: Interactions | None = None,
) -> Trained:
    """Begin the run of a folder's request, or go on with it, and store its model."""
    from federation.run import federate as run_federation
    from recsys.tracking import Tracker

    try:
        request = json.loads((run / "request.json").read_text())
        parent, how, sites = request["parent"], request["how"], request["sites"]
        wandb_project = request["wandb_project"]
    except (OSError, ValueError, KeyError):
        raise CommandError(
            f"{run.name} does not tell how it was started: repeat the command that started it."
        ) from None
    store = environment_store(environment)
    hand_out(environment, interactions or _data(environment, parent, sites))
    # Written anew from the records: a caller that was killed may have missed rounds.
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    audit = environment.audit_log()
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="hybrid-federate-") as scratch,
        Tracker(run, {"parent": parent, **how}, wandb_project) as tracker,
        _audited(audit, run.name, parent=parent, sites=sites, settings=how),
    ):
        follower = _Follower(run, tracker, audit, progress, observe)
        result = run_federation(
            environment.federation,
            store.get(parent, Path(scratch) / "model"),
            run,
            address=f"127.0.0.1:{environment.settings.ports.superlink}",
            sites=sites,
            progress=follower.advance,
            **how,
        )
        follower.catch_up()
    lineage = {
        "made_by": "federate",
        "parent": parent,
        "data": lineage_of(store, parent, "data"),
        "sites": sites,
        "run": run.name,
        "stages": [{"stage": "federate", "rounds": len(result.rounds), "sites": sites}],
        "settings": how,
        "baseline": result.baseline,
        "rounds": result.rounds,
        "metrics": result.metrics,
        "code": code_version(),
    }
    digest = store_model(environment, result.artifact, lineage)
    audit.append("run ended", run=run.name, model=digest)
    try:
        gate = promote(environment, digest, progress)
    except CommandError as error:
        audit.append("not promoted", model=digest, why=str(error))
        raise
    audit.append("candidate", model=digest, why=gate)
    return Trained(digest, result.metrics, time.monotonic() - start, result.rounds, gate)


def _data(environment: Environment, parent: str, sites: list[str]) -> Interactions:
    """What the model was trained on, unless it must not leave the site where it lies."""
    address = lineage_of(environment_store(environment), parent, "data")["address"]
    if address != SYNTHETIC:
        require_not_private(address, f"the sites {', '.join(sites)}")
    return load_data(environment, address)


def forget(
    environment: Environment,
    site: str,
    name: str | None,
    progress: Progress,
    *,
    observe: Observe | None = None,
) -> Trained:
    """Repeat a run without a site, from the model that it started from.

    Raises
    ------
    CommandError
        The site is in that model already: by an earlier federation.
    """
    from federation.unlearning import without

    folder = runs_folder(environment)
    run = folder / find_run(folder, name).name
    sites, _ = without(run, site)
    request = json.loads((run / "request.json").read_text())
    lineage = environment_store(environment).manifest(request["parent"]).lineage
    if site in lineage.get("sites", ()):
        raise CommandError(
            f"Site {site!r} took part in the model that {run.name} started from, too: forget it in "
            f"{lineage['run']} first, and federate from the model that comes of it."
        )
    return federate(
        environment,
        request["parent"],
        request["how"],
        progress,
        observe=observe,
        wandb_project=request["wandb_project"],
        sites=sites,
    )


def contribution(environment: Environment, name: str | None) -> list[dict[str, float]]:
    """What each round of a run would have lost without each site, in NDCG@10 of validation."""
    import torch

    from federation.contribution import contributions
    from federation.ledger import load_updates, rounds_kept
    from federation.metrics import average_metrics
    from federation.settings import RunSettings
    from federation.strategies.make import make_strategy
    from recsys.artifact import load_model, model_of
    from recsys.data.interactions import load_interactions
    from recsys.data.split import leave_one_out
    from recsys.evaluate import evaluate

    folder = runs_folder(environment)
    run = folder / find_run(folder, name).name
    load_updates(run, 1)  # refuses a run that kept none
    stored = json.loads((run / "settings.json").read_text())
    stored.pop("initial")
    settings = RunSettings(**stored | {"folder": run, "sites": tuple(stored["sites"])})
    initial = load_model(run / "initial")
    held = {site: load_interactions(environment.folder / "sites" / site) for site in settings.sites}
    splits = {site: leave_one_out(interactions) for site, interactions in held.items()}

    def quality(weights: dict[str, Any]) -> float:
        tensors = {key: torch.from_numpy(array) for key, array in weights.items()}
        model = model_of(tensors, len(initial.items), initial.recipe)
        figures = {
            site: evaluate(model, interactions, splits[site], part="validation")
            for site, interactions in held.items()
        }
        return average_metrics(figures)["NDCG@10"]

    weights = {key: tensor.numpy().copy() for key, tensor in initial.model.state_dict().items()}
    return contributions(weights, rounds_kept(run), make_strategy(settings), quality)


def runs_folder(environment: Environment) -> Path:
    """Folder of the environment's runs, federated and not."""
    return environment.folder / "runs"


@contextmanager
def _audited(audit: AuditLog, run: str, **what: Any) -> Iterator[None]:
    """Record the start of a run, and its stop or failure."""
    audit.append("run started", run=run, **what)
    try:
        yield
    except KeyboardInterrupt:
        audit.append("run stopped", run=run)
        raise
    except FederationError as error:
        audit.append("run failed", run=run, why=str(error))
        raise


class _Follower:
    """Hears of progress, and passes every round's record on once it is published."""

    def __init__(
        self,
        run: Path,
        tracker: Tracker,
        audit: AuditLog,
        progress: Progress,
        observe: Observe | None,
    ) -> None:
        self._run = run
        self._tracker = tracker
        self._audit = audit
        # Those that an earlier call has heard of.
        self._recorded = {
            record["round"]
            for record in audit.records()
            if record["event"] == "round" and record["run"] == run.name
        }
        self._progress = progress
        self._observe = observe
        self._seen = 0

    def advance(self, done: int, total: int, text: str) -> None:
        self.catch_up()
        self._progress(done, total, text)

    def catch_up(self) -> None:
        for record in read_records(self._run)[self._seen :]:
            self._seen += 1
            self._tracker.log("federate", record["round"], figures_of(record))
            if record["round"] > 0 and record["round"] not in self._recorded:
                self._audit.append("round", run=self._run.name, **audited_round(record))
            if self._observe is not None:
                self._observe(record)


def audited_round(record: dict[str, Any]) -> dict[str, Any]:
    """What the audit log keeps of a round.

    Who was asked to train, whose answer counts, whose was refused or is missing and why, and the
    hash of the model's arrays.
    """
    return {
        "round": record["round"],
        "asked": record["asked"],
        "answered": sorted(record["trained"]),
        "refused": record["refused"],
        "model": record["model"],
    }


def participants(environment: Environment) -> list[str]:
    """The settings' sites that were not removed, and others that are connected now."""
    folder = deployment.credentials_folder(environment.federation)
    register = locate(folder).register
    own = [site.name for site in environment.settings.sites]
    elsewhere = set(register.sites()) - set(own)
    if elsewhere:
        address = f"127.0.0.1:{environment.settings.ports.superlink}"
        known = deployment.sites(environment.federation, address=address)
        elsewhere &= {name for name, site in known.items() if site.status == "online"}
    return [name for name in own if name not in register.removed()] + sorted(elsewhere)


def hand_out(environment: Environment, interactions: Interactions) -> None:
    """Write the users of each of the settings' sites into its folder.

    A site that is removed keeps its users: they do not fall to others.
    """
    from recsys.data.interactions import write_interactions

    for site, own in shared_out(environment, interactions).items():
        write_interactions(own, environment.folder / "sites" / site)


def shared_out(environment: Environment, interactions: Interactions) -> dict[str, Interactions]:
    """The users of each of the settings' sites."""
    sites = [site.name for site in environment.settings.sites]
    homes = [site_of(user, len(sites)) for user in interactions.users]
    return {
        site: interactions.select([index for index, home in enumerate(homes) if home == number])
        for number, site in enumerate(sites)
    }


def site_of(user: str, count: int) -> int:
    """Number of the site a user belongs to; the same on every machine and in every run."""
    return int.from_bytes(sha256(user.encode()).digest()[:8]) % count
