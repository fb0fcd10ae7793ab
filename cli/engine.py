"""The Pulumi engine: preview, up and down of an environment's layers, by the Automation API."""

from __future__ import annotations

import json
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import psutil
from pulumi.automation import (
    EngineEvent,
    LocalWorkspace,
    PulumiCommand,
)
from pulumi.automation.errors import CommandError as EngineFailure
from pulumi.automation.errors import ConcurrentUpdateError

from cli.application import PROJECT, Progress
from cli.changes import CHANGING, Change, LayerResult
from cli.checkpoint import recorded_names
from cli.environment import Environment, engine_root
from cli.errors import CommandError
from cli.files import write_text
from cli.layers import LAYERS, WAVES
from cli.state import resource_counts
from infra.faults import with_advice


class Engine:
    """The stacks ``<environment>.<layer>`` of one environment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.project = environment.project
        self.unfinished = environment.folder / "unfinished"

    @cached_property
    def command(self) -> PulumiCommand:
        """The engine's program; CommandError where `make setup` has not put it in place."""
        if not (engine_root() / "bin" / "pulumi").exists():
            raise CommandError("The Pulumi engine is not installed: run make setup.")
        return PulumiCommand(root=str(engine_root()))

    def prepare(self) -> None:
        """Make what the engine needs, where it is missing: passphrase, plugins, stacks."""
        folder = self.environment.folder
        folder.mkdir(parents=True, exist_ok=True)
        # The engine keeps the salt of a stack's passphrase beside Pulumi.yaml: this copy of the
        # project file gives each home its own place for it.
        project_file = (PROJECT / "Pulumi.yaml").read_text()
        stacks = PROJECT / "stacks"
        write_text(
            self.project / "Pulumi.yaml",
            re.sub(r"(?m)^main:.*$", f"main: {json.dumps(str(stacks))}", project_file),
        )
        # Where the state is kept unless another backend is named; the engine does not make it.
        (folder / "state").mkdir(exist_ok=True)
        if self.environment.is_local:
            self._prepare_local()
        known = resource_counts(self.environment)
        for layer in LAYERS:
            if layer not in known:
                self._workspace().create_stack(self._stack_name(layer))

    def preview(self, progress: Progress) -> list[LayerResult]:
        """Plan every layer, all at once, and change nothing."""
        return self._run([LAYERS], progress, ["preview"])

    def up(self, progress: Progress, *, refresh: bool = False) -> list[LayerResult]:
        """Bring every layer to what its program says.

        Parameters
        ----------
        refresh
            First compare the state with what really is there.
        """
        with self._marked_unfinished("up") as unfinished:
            if unfinished:
                self._settle_pending(progress)
                # A teardown empties groups before it takes anything out of the state.
                refresh = refresh or unfinished == "down"
            elif not refresh and all(resource_counts(self.environment).values()):
                # A plan looks at all layers at once; only a change needs their order.
                plan = self.preview(progress)
                if not any(layer.changes for layer in plan):
                    return plan
            return self._bring_up(progress, refresh)

    def drift(self, progress: Progress) -> list[LayerResult]:
        """Compare every layer's state with what really is there, and change nothing."""
        return self._run([LAYERS], progress, ["refresh", "--preview-only"])

    def down(
        self, progress: Progress, before: Callable[[frozenset[str]], None]
    ) -> list[LayerResult]:
        """Destroy every layer's resources, in the reverse of the order of `up`.

        Parameters
        ----------
        before
            Called after an interruption, with the ids of all that the state has: a creation that
            was cut off left an object without a record, and what it lies in cannot go before it.
        """
        with self._marked_unfinished("down") as unfinished:
            if unfinished:
                self._settle_pending(progress)
                before(recorded_names(self.environment))
            return self._run(WAVES[::-1], progress, ["destroy", "--yes", "--skip-preview"])

    def _prepare_local(self) -> None:
        from infra.offline.install import install

        passphrase = self.environment.passphrase_file
        if not passphrase.exists():
            write_text(passphrase, secrets.token_urlsafe(32) + "\n", mode=0o600)
        home = self.environment.folder / "pulumi"
        install(Path(self.command.command), home)
        self._break_stale_locks()

    def _bring_up(self, progress: Progress, refresh: bool) -> list[LayerResult]:
        arguments = ["up", "--yes", "--skip-preview", *(["--refresh"] if refresh else [])]
        return self._run(WAVES, progress, arguments)

    def _run(
        self, waves: Iterable[tuple[str, ...]], progress: Progress, arguments: list[str]
    ) -> list[LayerResult]:
        """Do one operation on every layer, wave by wave; stop after the wave that fails."""
        results: list[LayerResult] = []
        for wave in waves:
            with ThreadPoolExecutor(len(wave)) as pool:
                futures = [pool.submit(self._run_layer, layer, arguments) for layer in wave]
            results += [future.result() for future in futures]
            progress(len(results), len(LAYERS), f"{' and '.join(wave)} done")
        return sorted(results, key=lambda result: LAYERS.index(result.layer))

    def _run_layer(self, layer: str, arguments: list[str]) -> LayerResult:
        """One operation on one layer.

        `Stack.up` and its like would start the engine four more times to collect what the events
        already tell, which doubles the time of an `up` that has nothing to do.
        """
        result = LayerResult(layer)
        refreshing = arguments[0] == "refresh"
        errors: list[str] = []
        name = self._stack_name(layer)
        with tempfile.TemporaryDirectory(prefix="hybrid-engine-") as scratch:
            log = Path(scratch) / "events"
            try:
                try:
                    self._engine([*arguments, "--event-log", str(log)], layer)
                except ConcurrentUpdateError as error:
                    self._break_dead_lock(str(error), layer)
                    self._engine([*arguments, "--event-log", str(log)], layer)
            except EngineFailure as error:
                for event in _events(log):
                    diagnostic = event.diagnostic_event
                    if diagnostic is not None and diagnostic.severity == "error":
                        errors.append(_plain(diagnostic.message))
                told = "\n".join(dict.fromkeys(errors)) or _plain(_stderr(str(error)))
                if re.search(r"\b(update|preview|destroy|refresh) canceled\b", told):
                    # Ctrl-C reached the engine, and may have passed this process by.
                    raise KeyboardInterrupt from None
                raise CommandError(with_advice(f"Layer {layer} failed: {told}")) from None
            for event in _events(log):
                if event.resource_pre_event is not None:
                    if not refreshing:
                        self._note_step(result, event.resource_pre_event.metadata)
                elif event.res_outputs_event is not None:
                    step = event.res_outputs_event.metadata
                    if refreshing:
                        # Only once a resource was read it is known how it differs.
                        self._note_step(result, step, refreshing=True)
                    if step.type == "pulumi:pulumi:Stack" and step.new is not None:
                        result.outputs = step.new.outputs or {}
        return result

    def _engine(self, arguments: list[str], layer: str) -> str:
        """Run the engine on a layer's stack; return what it printed."""
        done = self.command.run(
            [*arguments, "--stack", self._stack_name(layer)],
            cwd=str(self.project),
            # The event log is among the engine's options for tools.
            additional_env=self.environment.engine_variables() | {"PULUMI_DEBUG_COMMANDS": "true"},
        )
        return done.stdout

    def _note_step(self, result: LayerResult, step: Any, *, refreshing: bool = False) -> None:
        # A replacement comes as several steps of one resource: the logical one names them all.
        # A refresh has none of these.
        if step.type == "pulumi:pulumi:Stack" or not (step.logical or refreshing):
            return
        result.resources += 1
        operation = "replace" if "replace" in step.op.value else step.op.value
        if operation not in CHANGING:
            return
        properties = sorted((step.detailed_diff or {}) or step.diffs or [])
        name = step.urn.split("::")[-1]
        detailed = (step.detailed_diff or {}).items()
        replacing = sorted(path for path, found in detailed if "replace" in found.diff_kind.value)
        change = Change(result.layer, operation, step.type, name, properties, replacing)
        if change not in result.changes:
            result.changes.append(change)

    def _settle_pending(self, progress: Progress) -> None:
        """After an interruption: compare each layer with what is there, and drop what never came."""
        for layer in LAYERS:
            pending = self._deployment(layer).get("pending_operations") or []
            if pending:
                names = ", ".join(p["resource"]["urn"].split("::")[-1] for p in pending)
                progress(0, len(LAYERS), f"{layer}: settling what an interruption cut off: {names}")
                self._engine(
                    ["refresh", "--yes", "--skip-preview", "--clear-pending-creates"], layer
                )

    def _deployment(self, layer: str) -> dict[str, Any]:
        """The state of a layer's stack; secrets stay encrypted."""
        try:
            exported = self._engine(["stack", "export"], layer)
        except EngineFailure as error:
            told = f"The state of layer {layer} cannot be read: {_plain(_stderr(str(error)))}"
            raise CommandError(with_advice(told)) from None
        return json.loads(exported)["deployment"] or {}

    def _break_dead_lock(self, failure: str, layer: str) -> None:
        """Break the backend's lock where its owner was on this host and is dead.

        Raises
        ------
        CommandError
            The owner lives, or is elsewhere: the sentence names it.
        """
        name = self._stack_name(layer)
        owner = re.search(r"created by (\S+)@(\S+) \(pid (\d+)\)", failure)
        if owner and owner[2] == socket.gethostname() and not psutil.pid_exists(int(owner[3])):
            _say_broken(name, owner[3])
            self._engine(["cancel", "--yes"], layer)
            return
        raise CommandError(
            f"Stack {name} is locked by another operation: {_lock_holder(failure)}. "
            f"Wait for it; if it is dead, run: pulumi cancel --stack {name}"
        ) from None

    def _break_stale_locks(self) -> None:
        """Remove the file backend's locks whose process is gone; wait for one that still works.

        The caller holds the environment's own lock, so a living holder is either an engine whose
        `hybrid` was killed, which soon ends, or somebody's `pulumi` in a shell.
        """
        locks = self.environment.folder / "state" / ".pulumi" / "locks"
        for lock in locks.rglob("*.json"):
            try:
                holder = json.loads(lock.read_text())
            except (OSError, ValueError):
                continue
            if holder.get("hostname") != socket.gethostname():
                continue
            try:
                process = psutil.Process(holder["pid"])
                if "pulumi" in process.name():
                    process.wait(timeout=60)
            except psutil.NoSuchProcess:
                _say_broken(lock.parent.name, holder["pid"])
            except psutil.TimeoutExpired:
                raise CommandError(
                    f"Stack {lock.parent.name} is being changed by process {holder['pid']} of "
                    f"{holder.get('username')}: wait for it to end."
                ) from None
            lock.unlink(missing_ok=True)

    @contextmanager
    def _marked_unfinished(self, operation: str) -> Iterator[str]:
        """Leave a mark while an operation runs; tell which earlier one was cut off, if any."""
        earlier = (self.unfinished.read_text() or "up") if self.unfinished.exists() else ""
        write_text(self.unfinished, operation)
        yield earlier
        self.unfinished.unlink(missing_ok=True)

    def _workspace(self) -> LocalWorkspace:
        return LocalWorkspace(
            work_dir=str(self.project),
            pulumi_command=self.command,
            env_vars=self.environment.engine_variables(),
        )

    def _stack_name(self, layer: str) -> str:
        return f"{self.environment.name}.{layer}"


def _events(log: Path) -> Iterator[EngineEvent]:
    """What the engine told of one operation."""
    if log.exists():
        with log.open() as lines:
            for line in lines:
                yield EngineEvent.from_json(json.loads(line))


def _plain(text: str) -> str:
    """Engine text without its colour marks, ends trimmed."""
    return re.sub(r"<\{%.*?%\}>", "", text).strip()


def _stderr(failure: str) -> str:
    """The part of an Automation API failure that a person needs."""
    _, _, told = failure.partition("stderr: ")
    return told or failure


def _say_broken(stack: str, pid: int | str) -> None:
    click.echo(f"The lock of stack {stack} is broken: its owner, process {pid}, is dead.", err=True)


def _lock_holder(failure: str) -> str:
    """Who the file backend says holds the lock, for example `created by me@host (pid 7)`."""
    found = re.search(r"created by .*", failure)
    return found.group(0).strip() if found else "the backend does not say by whom"
