"""Standing an environment up and tearing it down: the servers of `local` and the engine's layers."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field

from cli.application import Progress
from cli.canary import mend
from cli.changes import LayerResult
from cli.edge_sites import remove_all
from cli.engine import Engine
from cli.environment import Environment
from cli.errors import CommandError
from cli.files import write_text
from cli.kubernetes import kubernetes_folder
from cli.local import LocalServers
from cli.planning import require_policies
from cli.preflight import require_account, require_instance_types
from cli.processes import Supervisor
from cli.state import resource_counts
from cli.steps import recorded
from cli.teardown import STEPS, Teardown
from infra.policy.review import Finding


@dataclass(frozen=True)
class Provisioned:
    """What `up` or `down` did.

    Parameters
    ----------
    layers
        What the engine did, layer by layer.
    servers
        Local servers that were started or ended.
    restored
        Models in production and on trial that TorchServe had to be given again.
    seconds
        Wall time.
    findings
        Violations of rules that did not stop `up`: advisory or waived.
    bundles, bundles_left
        Hosts from which `down` took an edge bundle, and those on which one stays.
    """

    layers: list[LayerResult]
    servers: list[str]
    restored: list[str]
    seconds: float
    findings: list[Finding] = field(default_factory=list)
    bundles: list[str] = field(default_factory=list)
    bundles_left: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was done at all."""
        done = self.servers or self.restored or self.bundles or self.bundles_left
        return bool(done) or any(layer.changes for layer in self.layers)


@recorded("up")
def up(environment: Environment, progress: Progress, *, refresh: bool = False) -> Provisioned:
    """Bring an environment to what its settings say; the caller holds its lock.

    Parameters
    ----------
    environment, progress
        What is brought up, and who is told how far it is.
    refresh
        First compare the state with what really is there, which mends what drifted.

    Raises
    ------
    CommandError
        A mandatory rule is broken: nothing was done. Or a server does not start, or a layer fails;
        what is done stays, the next call goes on.
    """
    start = time.monotonic()
    findings = require_policies(environment)  # asks no cloud
    require_account(environment)
    require_instance_types(environment)
    engine = Engine(environment)
    if not environment.is_local:
        engine.prepare()
        layers = engine.up(progress, refresh=refresh)
        return Provisioned(layers, [], [], time.monotonic() - start, findings)
    supervisor = Supervisor(environment.folder)
    servers = LocalServers(environment)
    supervisor.configure(servers.all)
    # TorchServe and the SuperLink need a while: they start while the engine works.
    started = supervisor.start([*servers.emulators, *servers.services])
    engine.prepare()
    supervisor.wait(servers.emulators)
    refresh = refresh or _emulators_lost_their_memory(environment, supervisor, servers)
    layers = engine.up(progress, refresh=refresh)
    _note_emulators(environment, supervisor, servers)
    supervisor.wait(servers.services)
    started += servers.start_sites(supervisor)
    supervisor.wait(servers.all)
    restored = mend(environment, progress)
    return Provisioned(layers, started, restored, time.monotonic() - start, findings)


def drift(environment: Environment, progress: Progress) -> list[LayerResult]:
    """What is not as the state records it; the caller holds the environment's lock.

    Raises
    ------
    CommandError
        The environment is not up, its emulators are not running, or the account is another one.
    """
    require_account(environment)
    if not any(resource_counts(environment).values()):
        raise CommandError(f"{environment.name} is not up: hybrid up {environment.name}.")
    require_emulators(environment)
    engine = Engine(environment)
    engine.prepare()
    return engine.drift(progress)


def require_emulators(environment: Environment) -> None:
    """Refuse to ask emulators that do not run; an environment without any passes.

    Raises
    ------
    CommandError
        Names them.
    """
    if not environment.is_local:
        return
    alive = Supervisor(environment.folder).alive()
    silent = [p.name for p in LocalServers(environment).emulators if p.name not in alive]
    if silent:
        raise CommandError(
            f"{', '.join(silent)} of {environment.name} do not run, and what they held is lost: "
            f"hybrid up {environment.name} makes it again."
        )


def down(
    environment: Environment,
    progress: Progress,
    *,
    purge: bool,
    delete_data: bool,
    leave_bundles: bool = False,
) -> Provisioned:
    """Destroy every layer, end every local server; with `purge`, forget the environment's files.

    Edge bundles go from the sites' hosts first, which may be reached through a layer only.

    Raises
    ------
    CommandError
        The stores hold data and `delete_data` was not given: nothing was done. Or a host keeps its
        edge bundle and `leave_bundles` was not given; no layer was touched. Or a layer cannot
        be destroyed, or something is left; the servers then stay, so that the next call can go on.
    """
    start = time.monotonic()
    require_account(environment)
    engine = Engine(environment)
    supervisor = Supervisor(environment.folder)
    layers: list[LayerResult] = []
    teardown = None
    if any(resource_counts(environment).values()) or engine.unfinished.exists():
        engine.prepare()
        if environment.is_local:
            servers = LocalServers(environment)
            supervisor.configure(servers.all)
            supervisor.start(servers.emulators)
            supervisor.wait(servers.emulators)
        teardown = Teardown.of(environment, progress)
        teardown.protect_data(delete_data)
    bundles, left = remove_all(environment, leave_bundles, lambda text: progress(0, STEPS, text))
    if teardown:
        teardown.drain_groups()
        layers = engine.down(progress, teardown.remove_unrecorded)
        teardown.require_nothing_left()
    ended = [state.name for state in supervisor.states() if state.pid]
    supervisor.stop()
    _emulators_file(environment).unlink(missing_ok=True)
    shutil.rmtree(kubernetes_folder(environment), ignore_errors=True)
    if purge:
        shutil.rmtree(environment.folder)
    seconds = time.monotonic() - start
    return Provisioned(layers, ended, [], seconds, bundles=bundles, bundles_left=left)


def _emulators_lost_their_memory(
    environment: Environment, supervisor: Supervisor, servers: LocalServers
) -> bool:
    """Whether an emulator was restarted since the layers were made: it forgets everything then."""
    file = _emulators_file(environment)
    if not file.exists():
        _note_emulators(environment, supervisor, servers)
        return False
    return json.loads(file.read_text()) != _identities(supervisor, servers)


def _note_emulators(
    environment: Environment, supervisor: Supervisor, servers: LocalServers
) -> None:
    write_text(_emulators_file(environment), json.dumps(_identities(supervisor, servers)))


def _identities(supervisor: Supervisor, servers: LocalServers) -> dict[str, list[int]]:
    names = {part.name for part in servers.emulators}
    return {s.name: [s.pid, s.started] for s in supervisor.states() if s.name in names}


def _emulators_file(environment: Environment):
    return environment.folder / "emulators.json"
