"""TorchServe: how to start it, how to speak to it, and how a model gets into service on it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.files import socket_folder, write_text

if TYPE_CHECKING:
    import httpx

    from model_store.store import Store

MODEL = "recommend"
CHANNEL = "production"
SMOKE_ITEMS = 10
UNTOUCHED = "what served before serves on."
Progress = Callable[[int, int, str], None]
# One stream for the supervisor, without the lines that TorchServe writes at every request.
LOGGING = """\
<Configuration status="error">
  <Appenders>
    <Console name="console">
      <PatternLayout pattern="%d{ISO8601} %-5p %c{1} %m%n"/>
      <RegexFilter regex="(?s).*(\\[METRICS\\]|Backend received inference).*" onMatch="DENY"
                   onMismatch="NEUTRAL"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.apache" level="off"/>
    <Logger name="ACCESS_LOG" level="warn"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Root level="info"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"""


class ServingError(Exception):
    """A model cannot be served or asked; the message is one sentence for the user."""

    exit_code = 1


@dataclass(frozen=True)
class ServedVersion:
    """A model that TorchServe holds: its digest, whether it is the default, whether it answers."""

    digest: str
    default: bool
    ready: bool


@dataclass(frozen=True)
class Deployment:
    """What a deployment did.

    Parameters
    ----------
    digest
        The model that serves now.
    previous
        The model that served before; None if none did.
    changed
        False where the model served already and nothing was done.
    """

    digest: str
    previous: str | None
    changed: bool


def find_java() -> str:
    """Path of the Java to run: of JAVA_HOME, else of PATH; ServingError where there is none."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise ServingError(
                f"JAVA_HOME is {home}, but {java} is no program: correct or unset JAVA_HOME."
            )
        return str(java)
    java = shutil.which("java")
    if java is None:
        raise ServingError(
            "TorchServe needs Java 17 and there is none: run `make setup`, install a Java runtime "
            "or set JAVA_HOME."
        )
    return java


def torchserve_command(
    folder: Path, *, inference_port: int, management_port: int
) -> tuple[list[str], dict[str, str]]:
    """Prepare TorchServe and say how to run it in the foreground.

    The JVM itself is the program, not the `torchserve` script: the script keeps one pid file for
    the whole machine, and does not pass on a signal. At SIGTERM the JVM ends its workers; a worker
    whose JVM was killed ends by itself.

    Parameters
    ----------
    folder
        Holds the configuration and archives/; made if absent.
    inference_port, management_port
        TCP ports on 127.0.0.1. gRPC is bound there too, on ports that the system chooses.

    Returns
    -------
    tuple
        Arguments, and variables to set beside those of our own process.

    Raises
    ------
    ServingError
        There is no Java or no TorchServe.
    """
    folder = folder.absolute()
    java = find_java()
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServingError("TorchServe is not installed: run `make setup`.")
    package = Path(spec.origin).parent
    archives = archives_of(folder)
    archives.mkdir(parents=True, exist_ok=True)
    configuration = folder / "config.properties"
    settings = {
        "inference_address": f"http://127.0.0.1:{inference_port}",
        "management_address": f"http://127.0.0.1:{management_port}",
        "metrics_address": f"http://127.0.0.1:{management_port}",
        "grpc_inference_port": 0,
        "grpc_management_port": 0,
        "enable_metrics_api": "false",
        "disable_system_metrics": "true",
        # Only what lies in the archives folder may be registered: no URL matches this.
        "allowed_urls": "nothing",
        "default_workers_per_model": 1,
        "number_of_netty_threads": 2,
        "job_queue_size": 1000,
        "max_request_size": 1_000_000,
        "default_response_timeout": 30,
        "unregister_model_timeout": 30,
        "number_of_gpu": 0,
    }
    write_text(configuration, "".join(f"{key}={value}\n" for key, value in settings.items()))
    write_text(folder / "log4j2.xml", LOGGING)
    temporary = _temporary_folder(folder)
    command = [
        # What a killed TorchServe has unpacked is of no use to the next one.
        "/bin/sh",
        "-c",
        'rm -rf -- "$0"; mkdir -m 700 -- "$0" && exec "$@"',
        str(temporary),
        java,
        "-Xmx512m",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={temporary}",
        f"-Dlog4j.configurationFile={(folder / 'log4j2.xml').as_uri()}",
        "-cp",
        f"{package / 'frontend'}/*",
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "--ts-config-file",
        str(configuration),
        "--model-store",
        str(archives),
        "--no-config-snapshot",
        "--disable-token-auth",
        "--enable-model-api",
    ]
    environment = {
        "TS_CONFIG_FILE": str(configuration),
        # The handler says what is wrong with a body; TorchServe would log a traceback.
        "TS_DECODE_INPUT_REQUEST": "false",
        # Workers must import what their archive carries, not what our own path holds.
        "PYTHONPATH": "",
    }
    return command, environment


def archives_of(folder: Path) -> Path:
    """Folder of the .mar files that TorchServe may register."""
    return folder / "archives"


def _temporary_folder(folder: Path) -> Path:
    """Short path for TorchServe's worker sockets: a Unix socket's path has at most 107 bytes."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return socket_folder() / f"torchserve-{name}"


class ServingClient:
    """Speaks to one TorchServe.

    Parameters
    ----------
    management_url, inference_url
        Addresses of its two APIs, for example ``http://127.0.0.1:8081``.
    """

    def __init__(self, management_url: str, inference_url: str) -> None:
        self.management_url = management_url.rstrip("/")
        self.inference_url = inference_url.rstrip("/")

    def ready(self) -> bool:
        """Whether both APIs answer."""
        import httpx

        try:
            ping = self._http.get(f"{self.inference_url}/ping", timeout=2)
            models = self._http.get(f"{self.management_url}/models", timeout=2)
        except httpx.HTTPError:
            return False
        return ping.status_code == models.status_code == 200

    def versions(self) -> list[ServedVersion]:
        """Models that are registered, ready or not."""
        answer = self._manage("GET", f"/models/{MODEL}/all")
        if answer.status_code == 404:
            return []
        rows = self._expect(answer, "list its models")
        # Only the address without a version tells which one is the default.
        (default,) = self._expect(self._manage("GET", f"/models/{MODEL}"), "name its model")
        return [
            ServedVersion(
                f"sha256:{row['modelVersion']}",
                row["modelVersion"] == default["modelVersion"],
                any(worker["status"] == "READY" for worker in row["workers"]),
            )
            for row in rows
        ]

    def serving(self) -> ServedVersion | None:
        """The model that answers requests without a version; None if there is none."""
        return next((version for version in self.versions() if version.default), None)

    def register(self, archive: str) -> None:
        """Load an archive of the archives folder with one worker; returns when that is ready."""
        parameters = {"url": archive, "initial_workers": "1", "synchronous": "true"}
        answer = self._manage("POST", "/models", parameters, timeout=180)
        self._expect(answer, f"load {archive}")

    def set_default(self, digest: str) -> None:
        """Let this version answer requests without a version."""
        answer = self._manage("PUT", f"{_version_path(digest)}/set-default")
        self._expect(answer, f"make {digest} the default")

    def unregister(self, digest: str) -> None:
        """Remove a version and end its worker; one that is not there is fine."""
        answer = self._manage("DELETE", _version_path(digest), timeout=60)
        if answer.status_code != 404:
            self._expect(answer, f"remove {digest}")

    def recommend(
        self,
        history: list[str],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        digest: str | None = None,
    ) -> dict[str, Any]:
        """Ask for `k` items to a history.

        Parameters
        ----------
        history
            Item ids, oldest first.
        digest
            The version to ask; by default the one in service.

        Returns
        -------
        dict
            ``items``: a list of ``{"item", "score"}``, the best first, and ``model``: the digest.

        Raises
        ------
        ServingError
            No model is served, TorchServe does not answer, or it refuses the request.
        """
        version = f"/{digest.removeprefix('sha256:')}" if digest else ""
        url = f"{self.inference_url}/predictions/{MODEL}{version}"
        body = {"history": history, "k": k, "exclude_seen": exclude_seen}
        # Asking twice does no harm; 503 is a worker that is just being replaced.
        answer = self._send("POST", url, json=body, retry_statuses=(503,))
        if answer.status_code == 404:
            raise ServingError("No model is served yet: run `hybrid deploy`.")
        return self._expect(answer, "recommend")

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        # Local servers are asked directly, whatever proxy the environment names.
        return httpx.Client(trust_env=False)

    def _manage(
        self, method: str, path: str, parameters: dict | None = None, timeout: float = 10
    ) -> httpx.Response:
        return self._send(method, self.management_url + path, params=parameters, timeout=timeout)

    def _send(
        self,
        method: str,
        url: str,
        *,
        retry_statuses: tuple[int, ...] = (),
        timeout: float = 10,
        **request: Any,
    ) -> httpx.Response:
        """Send a request; again where none arrived or its status asks for it."""
        import httpx
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            retry_if_result,
            stop_after_attempt,
            wait_random_exponential,
        )

        attempts = Retrying(
            retry=retry_if_exception_type(httpx.ConnectError)
            | retry_if_result(lambda answer: answer.status_code in retry_statuses),
            stop=stop_after_attempt(4),
            wait=wait_random_exponential(multiplier=0.1, max=1),
            retry_error_callback=lambda state: state.outcome.result(),
        )
        try:
            return attempts(self._http.request, method, url, timeout=timeout, **request)
        except httpx.TimeoutException:
            raise ServingError(
                f"TorchServe at {url} does not answer within {timeout:.0f} s: see `hybrid logs "
                "torchserve`."
            ) from None
        except httpx.TransportError as error:
            raise ServingError(
                f"TorchServe at {url} does not answer ({error}): run `hybrid up`."
            ) from None

    def _expect(self, answer: httpx.Response, action: str) -> Any:
        """Body of a successful answer; ServingError with TorchServe's own words for another."""
        try:
            body = answer.json()
        except ValueError:
            body = {"message": answer.text.strip()[:200] or "no reason given"}
        if answer.is_success:
            return body
        reason = body.get("error") or body.get("message") if isinstance(body, dict) else body
        reason = str(reason).strip().rstrip(".")
        raise ServingError(f"TorchServe refuses to {action} (HTTP {answer.status_code}): {reason}")


def deploy(
    store: Store,
    reference: str,
    *,
    client: ServingClient,
    folder: Path,
    progress: Progress | None = None,
) -> Deployment:
    """Put a model into service, and move the channel `production` to it.

    The new version is loaded and tested beside the old one. Until it has passed and the channel
    is moved, a failure leaves the old version serving and removes the new one.

    Parameters
    ----------
    store, reference
        The model, by digest, unique prefix or channel.
    client, folder
        A running TorchServe, and the folder given to `torchserve_command`.
    progress
        Called with (done, total, text) as the steps begin.

    Raises
    ------
    ServingError
        TorchServe or the model fails; the old version serves on.
    StoreError
        The model is unknown or corrupt, or somebody else moved the channel; the old version
        serves on.
    """
    report = progress or (lambda done, total, text: None)
    digest = store.resolve(reference)
    promoted = store.channels().get(CHANNEL)
    current = client.serving()
    if current is not None and current.digest == digest and current.ready:
        # After a crash between the last two steps only the channel is left to move.
        store.move_channel(CHANNEL, digest, expected=promoted)
        report(5, 5, "it serves already")
        return Deployment(digest, digest, changed=promoted != digest)
    try:
        _introduce(store, digest, client, folder, report)
        report(3, 5, "switching to the new version")
        client.set_default(digest)
        store.move_channel(CHANNEL, digest, expected=promoted)
    except BaseException:
        _withdraw(client, digest, current)
        raise
    report(4, 5, "retiring the old version")
    _retire_others(client, digest, folder)
    report(5, 5, "done")
    return Deployment(digest, current.digest if current else None, changed=True)


def restore(
    store: Store,
    *,
    client: ServingClient,
    folder: Path,
    progress: Progress | None = None,
) -> str | None:
    """Let TorchServe serve what the channel `production` says, as after its restart.

    Returns
    -------
    str or None
        Digest of the model in production; None where none was deployed yet.

    Raises
    ------
    ServingError, StoreError
        As `deploy`; the channel is never moved.
    """
    report = progress or (lambda done, total, text: None)
    digest = store.channels().get(CHANNEL)
    current = client.serving()
    if digest is None or (current is not None and current.digest == digest and current.ready):
        return digest
    try:
        _introduce(store, digest, client, folder, report)
        client.set_default(digest)
    except BaseException:
        _withdraw(client, digest, current)
        raise
    _retire_others(client, digest, folder)
    report(5, 5, "done")
    return digest


def _introduce(
    store: Store, digest: str, client: ServingClient, folder: Path, report: Progress
) -> None:
    """Build, load and test a version; it answers only at its own address then."""
    from handlers.archive import build_archive, version_of

    with tempfile.TemporaryDirectory(prefix="hybrid-deploy-") as private:
        report(0, 5, "fetching the model and building its archive")
        artifact = store.get(digest, Path(private) / "artifact")
        name = f"{MODEL}-{version_of(digest)}.mar"
        build_archive(artifact, digest, archives_of(folder) / name)
        report(1, 5, "loading the new version beside the old one")
        # A deployment that was killed may have left it half loaded.
        client.unregister(digest)
        try:
            client.register(name)
        except ServingError as error:
            raise ServingError(
                f"Model {digest} cannot be loaded: {error}. `hybrid logs torchserve` tells why; "
                f"{UNTOUCHED}"
            ) from None
        report(2, 5, "testing the new version")
        _smoke_test(client, digest, json.loads((artifact / "items.json").read_text()))


def _smoke_test(client: ServingClient, digest: str, items: list[str]) -> None:
    """Ask the version at its own address, for a known and for a new user; ServingError if wrong."""
    for history in (items[:3], []):
        try:
            answer = client.recommend(history, SMOKE_ITEMS, digest=digest)
            problem = _problem(answer, digest, history, items)
        except ServingError as error:
            problem = str(error)
        if problem:
            raise ServingError(
                f"Model {digest} fails its test before service: {problem}; {UNTOUCHED}"
            )


def _problem(
    answer: dict[str, Any], digest: str, history: list[str], items: list[str]
) -> str | None:
    """What is wrong with a version's answer; None if nothing is."""
    got = [row["item"] for row in answer["items"]]
    scores = [row["score"] for row in answer["items"]]
    expected = min(SMOKE_ITEMS, len(items) - len(history))
    if answer["model"] != digest:
        return f"it calls itself {answer['model']}"
    if not len(got) == len(set(got)) == expected:
        return f"it gives {len(set(got))} different items instead of {expected}"
    if not all(map(math.isfinite, scores)) or scores != sorted(scores, reverse=True):
        return "its scores are not finite or not in order"
    if set(got) & set(history) or not set(got) <= set(items):
        return "it gives items that were seen already or that it should not know"
    return None


def _withdraw(client: ServingClient, digest: str, current: ServedVersion | None) -> None:
    """Undo a deployment as far as TorchServe answers; the first failure is the one to tell."""
    try:
        if current is not None and current.digest != digest:
            client.set_default(current.digest)
        client.unregister(digest)
    except ServingError:
        pass


def _retire_others(client: ServingClient, digest: str, folder: Path) -> None:
    """Remove all versions but one, what earlier crashes left included, and their archives."""
    for version in client.versions():
        if version.digest != digest:
            client.unregister(version.digest)
    keep = f"{MODEL}-{digest.removeprefix('sha256:')}.mar"
    for archive in archives_of(folder).glob(f"{MODEL}-*.mar"):
        if archive.name != keep:
            archive.unlink()


def _version_path(digest: str) -> str:
    return f"/models/{MODEL}/{digest.removeprefix('sha256:')}"

