"""The operator's side of a running SuperLink: enrol sites, submit runs, follow and stop them.

A thin client of Flower's Control API over TLS. Nothing here needs a Flower home or settings file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from federation.credentials import Credentials
from federation.errors import FederationError

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo
    from google.protobuf.message import Message

# Longest wait for the end of a run that was told to stop.
STOP_SECONDS = 60
# How OpenSSL says it.
EXPIRED = "certificate has expired"


@dataclass(frozen=True)
class Site:
    """A site as the SuperLink knows it.

    Attributes
    ----------
    node : int
        Flower's node id; a site keeps it until its key is rotated.
    status : str
        "registered" (never seen), "online" or "offline".
    public_key : bytes
        PEM form of the key that it was enrolled with.
    seen : str
        In ISO 8601: now for a site that is online, else when it went offline; empty if never seen.
    """

    node: int
    status: str
    public_key: bytes
    seen: str = field(compare=False)


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes
    ----------
    phase : str
        "pending", "starting", "running" or "finished".
    outcome : str
        Once finished: "completed", "failed" or "stopped".
    details : str
        Why it failed.
    """

    phase: str
    outcome: str
    details: str


class ControlClient:
    """Calls the Control API of the SuperLink at `address`.

    Parameters
    ----------
    address : str
        "host:port" of the SuperLink.
    authority : Path
        Certificate of the authority that signed the SuperLink's certificate.

    Raises
    ------
    FederationError
        From every method, if the SuperLink does not answer or refuses the call.
    """

    def __init__(self, address: str, authority: Path) -> None:
        # Flower takes 1.5 s to import: only commands that really talk to a SuperLink pay for it.
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        if not authority.exists():
            raise FederationError(
                f"{authority} does not exist: issue the federation's credentials first."
            )
        self._address = address
        self._client = ControlHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="hybrid")],
        )

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def sites(self) -> dict[str, Site]:
        """List the enrolled sites by name."""
        from flwr.proto.control_pb2 import ListNodesRequest

        response = self._call("ListNodes", ListNodesRequest())
        return {
            node.name: Site(node.node_id, node.status, node.public_key, _seen(node))
            for node in response.nodes_info
            if node.name and node.status != "unregistered"
        }

    def enrol(self, credentials: Credentials) -> dict[str, Site]:
        """Let the SuperNodes of `credentials.sites` connect.

        A site that is enrolled with its present key is left alone; one whose key was rotated
        loses the old registration first, so that the old key stops working at once.

        Returns
        -------
        dict of str to Site
            The sites of `credentials`, by name.
        """
        from flwr.proto.control_pb2 import RegisterNodeRequest, UnregisterNodeRequest

        enrolled = self.sites()
        for name, files in credentials.sites.items():
            public_key = _public_key(files.public_key)
            present = enrolled.get(name)
            if present is not None and present.public_key == public_key:
                continue
            if present is not None:
                self._call("UnregisterNode", UnregisterNodeRequest(node_id=present.node))
            self._call("RegisterNode", RegisterNodeRequest(public_key=public_key, name=name))
        enrolled = self.sites()
        return {name: enrolled[name] for name in credentials.sites}

    def remove(self, site: str) -> bool:
        """Refuse every further call of a site's SuperNode; tell whether it was enrolled."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        present = self.sites().get(site)
        if present is not None:
            self._call("UnregisterNode", UnregisterNodeRequest(node_id=present.node))
        return present is not None

    def start(self, bundle: bytes, config: dict[str, str | int | float | bool]) -> int:
        """Submit a run of the app in `bundle` with its settings overridden by `config`.

        Returns
        -------
        int
            The run's id.
        """
        import hashlib

        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        response = self._call(
            "StartRun",
            StartRunRequest(
                fab=fab_to_proto(fab), override_config=user_config_to_proto(config)
            ),
        )
        return response.run_id

    def status(self, run: int) -> RunStatus | None:
        """Tell where a run stands; None if this SuperLink does not know it."""
        from flwr.proto.control_pb2 import ListRunsRequest

        try:
            response = self._call("ListRuns", ListRunsRequest(run_id=run))
        except _UnknownRun:
            return None
        status = response.run_dict[run].status
        return RunStatus(status.status, status.sub_status, status.details)

    def stop(self, run: int) -> None:
        """Stop a run and wait for its end; one that has ended already is left alone."""
        from flwr.proto.control_pb2 import StopRunRequest

        if self._has_ended(run):
            return
        self._call("StopRun", StopRunRequest(run_id=run))
        # The SuperLink answers before the run has ended.
        Retrying(
            retry=retry_if_result(lambda ended: not ended),
            wait=wait_fixed(0.1),
            stop=stop_after_delay(STOP_SECONDS),
            retry_error_callback=lambda _: None,
        )(self._has_ended, run)

    def _has_ended(self, run: int) -> bool:
        status = self.status(run)
        return status is None or status.phase == "finished"

    def _call(self, method: str, request: Message) -> Message:
        import httpx

        try:
            return getattr(self._client, method)(request)
        except httpx.TransportError as error:
            if EXPIRED in str(error):
                raise CertificateExpiredError(
                    f"The certificate of the SuperLink at {self._address} has expired: issue the "
                    "federation's credentials again (hybrid up), which restarts it, and call "
                    "again; the run goes on after the last finished round."
                ) from error
            raise SuperLinkUnreachable(
                f"The SuperLink at {self._address} does not answer ({error}): start it, and read "
                "its log if it is running."
            ) from error
        except httpx.HTTPStatusError as error:
            code, reason = _refusal(error.response)
            if code == _RUN_ID_NOT_FOUND:
                raise _UnknownRun(reason) from error
            raise FederationError(
                f"The SuperLink at {self._address} refused {method}: {reason}"
            ) from error


def _seen(node: NodeInfo) -> str:
    """The SuperLink keeps no time of each heartbeat, only when they began and ceased."""
    if node.status == "online":
        return datetime.now(UTC).isoformat(timespec="seconds")
    return node.last_deactivated_at or node.last_activated_at


class SuperLinkUnreachable(FederationError):
    """The SuperLink does not answer; it may come back."""


class CertificateExpiredError(SuperLinkUnreachable):
    """The SuperLink's certificate has run out: it will not come back with this one."""


class _UnknownRun(FederationError):
    """The SuperLink knows no run of that id."""


_RUN_ID_NOT_FOUND = 16  # flwr.supercore.error.ApiErrorCode.RUN_ID_NOT_FOUND


def _refusal(response: object) -> tuple[int, str]:
    """Code and sentence of a refusal in Flower's JSON form (or the bare body)."""
    try:
        body = json.loads(response.text)
        return int(body["code"]), ". ".join(
            str(body[key]) for key in ("detail", "extra") if body.get(key)
        )
    except (ValueError, KeyError, TypeError):
        return 0, f"HTTP {response.status_code} {response.text[:200]}"


def _public_key(path: Path) -> bytes:
    """PEM form (as Flower keeps it) of an OpenSSH public key file."""
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FederationError(
            f"{path} is not a readable public key: issue the site's credentials again."
        ) from error
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
