"""A second version in service beside the one in production: begun, promoted, taken back, mended."""

from __future__ import annotations

import psutil

from cli import deployment, serving_proxy, trials
from cli.application import Progress
from cli.environment import Environment
from cli.errors import CommandError, ServingError
from cli.learning import environment_store, short_digest
from cli.nginx import nginx_program
from cli.processes import Supervisor
from cli.production import Deployed, deployed, serving_client, torchserve_folder
from cli.serving_client import OTHER_KINDS, RECOMMEND, channel_of
from cli.trials import Rules, Trial

# As long as nginx lets a call that is under way last, and a little more.
DRAIN_SECONDS = 70


def start(
    environment: Environment,
    reference: str,
    share: float | None,
    rules: Rules,
    progress: Progress,
) -> Trial:
    """Let a second version answer a share of the users, or get copies of requests for None.

    The version is loaded and tested beside the one of its kind in production, and `canary` moves to
    it. Called again with another share or other rules it goes on with those, and counts anew.

    Raises
    ------
    CommandError
        There is no proxy, nothing of its kind is in production, or another model is on trial.
    ServingError, StoreError
        The model cannot be loaded or fails its test; all users stay where they are.
    """
    pid = _proxy_pid(environment)
    store = environment_store(environment)
    digest = store.resolve(reference)
    kind = deployment.kind_of_model(store, digest)
    client, channel = serving_client(environment, kind), channel_of(kind)
    production = store.channels().get(channel)
    if production is None:
        raise CommandError(f"Nothing is in {channel} to compare with: hybrid deploy MODEL first.")
    if digest == production:
        raise CommandError(f"Model {short_digest(digest)} is in {channel} already.")
    on = trials.current(environment)
    if on is not None and on.model != digest:
        raise CommandError(trials.is_on(on))
    serving = client.serving()
    if serving is None or serving.digest != production or not serving.ready:
        raise CommandError(f"The model in {channel} does not answer: hybrid up.")
    deployment.introduce(
        store, digest, client=client, folder=torchserve_folder(environment), progress=progress
    )
    if on is None or (on.share, on.rules, on.baseline) != (share, rules, production):
        store.move_channel("canary", digest)
        before, on = on, trials.begin(environment, digest, production, share, rules, kind)
        if before is not None:
            trials.end(environment, before, "changed")
    progress(4, 5, "telling the proxy")
    _publish(environment, on, pid)
    progress(5, 5, "done")
    return on


def promote(environment: Environment, progress: Progress) -> Deployed:
    """Put the version on trial into production for everybody; the old one stays loaded."""
    trial = _trial(environment)
    store = environment_store(environment)
    found = store.channels().get(trial.channel)
    if found not in (trial.baseline, trial.model):
        raise CommandError(
            f"Channel {trial.channel} moved to {short_digest(found)} since the trial began, which "
            f"compared with {short_digest(trial.baseline)}: hybrid deploy --abort, then begin anew."
        )
    serving_proxy.require_main_process(environment)
    done = deployment.deploy(
        store,
        trial.model,
        client=serving_client(environment, trial.kind),
        folder=torchserve_folder(environment),
        progress=progress,
    )
    _publish(environment, None, _proxy_pid(environment))
    trials.end(environment, trial, "promoted")
    return deployed(environment, done, trial.kind)


def abort(environment: Environment, progress: Progress) -> Trial:
    """Bring all users back to the version in production, at once; then unload the other one."""
    trial = _trial(environment)
    progress(0, 2, "bringing all users back")
    serving_proxy.require_main_process(environment)
    try:
        leaving = _publish(environment, None, _proxy_pid(environment))
    except CommandError:
        leaving = []  # no proxy runs, and the next one will not know of the trial
    trials.end(environment, trial, "aborted")
    progress(1, 2, "letting calls end, unloading the version")
    # It took its last call; those that are under way end first.
    psutil.wait_procs(leaving, timeout=DRAIN_SECONDS)
    serving_client(environment, trial.kind).unregister(trial.model)
    progress(2, 2, "done")
    return trial


def mend(environment: Environment, progress: Progress) -> list[str]:
    """Let TorchServe and proxy serve what they shall, as after a crash of either.

    Returns
    -------
    list
        Digests of the models, in production and on trial, that TorchServe had to be given again.

    Raises
    ------
    ServingError, StoreError
        A model in production or on trial cannot be loaded.
    """
    trial = trials.current(environment)
    store, folder = environment_store(environment), torchserve_folder(environment)
    channels, restored = store.channels(), []
    for kind in (RECOMMEND, *OTHER_KINDS):
        if channel_of(kind) not in channels:
            continue
        client = serving_client(environment, kind)
        served = {(each.digest, each.default) for each in client.versions() if each.ready}
        canary = trial.model if trial and trial.kind == kind else None
        digest = deployment.restore(
            store, client=client, folder=folder, canary=canary, progress=progress
        )
        shall = [(digest, True), (canary, False)] if canary else [(digest, True)]
        restored += [model for model, default in shall if (model, default) not in served]
    if nginx_program() is not None:
        _publish(environment, trial, _proxy_pid(environment))
    return restored


def state(environment: Environment) -> dict[str, object] | None:
    """The trial that is on, for `hybrid status`; `problem` tells why its users are not served."""
    trial = trials.current(environment)
    if trial is None:
        return None
    return {
        "model": trial.model,
        "kind": trial.kind,
        "channel": trial.channel,
        "share": trial.share,
        "name": trial.name,
        "problem": _problem(environment, trial),
    }


def _problem(environment: Environment, trial: Trial) -> str | None:
    proxy = serving_proxy.serving_proxy(environment, trials.second_version(environment, trial))
    found = serving_proxy.loaded(environment)
    if found is None:
        return "the proxy does not answer"
    if found != serving_proxy.fingerprint(proxy):
        return "the proxy does not divide users by it"
    try:
        versions = serving_client(environment, trial.kind).versions()
    except ServingError:
        return "TorchServe does not answer"
    if not any(version.digest == trial.model and version.ready for version in versions):
        return "TorchServe has not loaded it"
    return None


def _trial(environment: Environment) -> Trial:
    trial = trials.current(environment)
    if trial is None:
        raise CommandError("No trial is on: hybrid deploy MODEL --canary 10% begins one.")
    return trial


def _publish(environment: Environment, trial: Trial | None, pid: int) -> list[psutil.Process]:
    second = trials.second_version(environment, trial)
    return serving_proxy.apply(environment, serving_proxy.serving_proxy(environment, second), pid)


def _proxy_pid(environment: Environment) -> int:
    if nginx_program() is None:
        raise CommandError(
            "A trial needs nginx, which divides the users: sudo apt-get install nginx-light, "
            "then hybrid up."
        )
    for part in Supervisor(environment.folder).states():
        if part.name == serving_proxy.PART and part.state in ("STARTING", "RUNNING"):
            return part.pid
    raise CommandError("The proxy in front of TorchServe does not run: hybrid up.")
