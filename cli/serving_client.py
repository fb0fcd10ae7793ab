"""What is said to a TorchServe: which versions it shall hold, and what users ask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from cli.errors import ServingError
from cli.tracing import trace_headers

if TYPE_CHECKING:
    import urllib3

RECOMMEND = "recommend"
OTHER_KINDS = ("search", "rating", "click")


def channel_of(kind: str) -> str:
    """The channel of the model store that says which model of a kind is in service."""
    return "production" if kind == RECOMMEND else f"production-{kind}"


@dataclass(frozen=True)
class ServedVersion:
    """A model that TorchServe holds: its digest, whether it is the default, whether it answers."""

    digest: str
    default: bool
    ready: bool


class ServingClient:
    """Speaks to one TorchServe about the models of one kind.

    Parameters
    ----------
    management_url, inference_url
        Addresses of its two APIs, for example ``http://127.0.0.1:8081``.
    kind
        What the models do; their name in TorchServe.
    """

    def __init__(self, management_url: str, inference_url: str, kind: str = RECOMMEND) -> None:
        self.management_url = management_url.rstrip("/")
        self.inference_url = inference_url.rstrip("/")
        self.kind = kind

    def ready(self) -> bool:
        """Whether both APIs answer."""
        from urllib3.exceptions import HTTPError

        try:
            answers = [
                self._http.request("GET", url, timeout=2, retries=False)
                for url in (f"{self.inference_url}/ping", f"{self.management_url}/models")
            ]
        except HTTPError:
            return False
        return all(answer.status == 200 for answer in answers)

    def versions(self) -> list[ServedVersion]:
        """Models that are registered, ready or not."""
        answer = self._manage("GET", f"/models/{self.kind}/all")
        if answer.status == 404:
            return []
        rows = self._expect(answer, "list its models")
        # Only the address without a version tells which one is the default.
        (default,) = self._expect(self._manage("GET", f"/models/{self.kind}"), "name its model")
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
        answer = self._manage("POST", "/models", parameters, timeout=660)
        self._expect(answer, f"load {archive}")

    def set_default(self, digest: str) -> None:
        """Let this version answer requests without a version."""
        answer = self._manage("PUT", f"{self._path(digest)}/set-default")
        self._expect(answer, f"make {digest} the default")

    def unregister(self, digest: str) -> None:
        """Remove a version and end its worker; one that is not there is fine."""
        answer = self._manage("DELETE", self._path(digest), timeout=60)
        if answer.status != 404:
            self._expect(answer, f"remove {digest}")

    def recommend(
        self,
        history: list[str],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        digest: str | None = None,
        user: str | None = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        """Ask for `k` items to a history.

        Parameters
        ----------
        history
            Item ids, oldest first.
        digest
            The version to ask; by default the one in service.
        user
            Who asks: the proxy divides users between two versions, and what this one did of late
            counts.
        token
            That lets one ask for the user, where the service wants one.

        Returns
        -------
        dict
            ``items``: a list of ``{"item", "score"}``, the best first, and ``model``: the digest.

        Raises
        ------
        ServingError
            No model is served, TorchServe does not answer, or it refuses the request.
        """
        body = {"history": history, "k": k, "exclude_seen": exclude_seen}
        body |= {"user": user} if user else {}
        return self.predict(body, digest=digest, user=user, token=token)

    def predict(
        self,
        body: dict[str, Any],
        *,
        digest: str | None = None,
        user: str | None = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        """The answer to a request of the client's kind; errors and parameters as `recommend`."""
        version = f"/{digest.removeprefix('sha256:')}" if digest else ""
        url = f"{self.inference_url}/predictions/{self.kind}{version}"
        headers = trace_headers() | ({"X-User": quote(user)} if user else {})
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        # Asking twice does no harm; 503 is a worker that is just being replaced.
        answer = self._send("POST", url, json=body, headers=headers, retry_statuses=(503,))
        if answer.status == 404:
            raise ServingError("No model is served yet: run `hybrid deploy`.")
        return self._expect(answer, self.kind)

    def _path(self, digest: str) -> str:
        return f"/models/{self.kind}/{digest.removeprefix('sha256:')}"

    @cached_property
    def _http(self) -> urllib3.PoolManager:
        # Users wait for a rollback, and httpx takes as long to load as all the rest of it. Local
        # servers are asked directly, whatever proxy the environment names.
        import urllib3

        return urllib3.PoolManager()

    def _manage(
        self, method: str, path: str, parameters: dict | None = None, timeout: float = 10
    ) -> urllib3.BaseHTTPResponse:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return self._send(method, self.management_url + path + query, timeout=timeout)

    def _send(
        self,
        method: str,
        url: str,
        *,
        retry_statuses: tuple[int, ...] = (),
        timeout: float = 10,
        **request: Any,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; again where none arrived or its status asks for it."""
        from urllib3 import Retry
        from urllib3.exceptions import (
            HTTPError,
            MaxRetryError,
            NewConnectionError,
            TimeoutError,
        )

        retries = Retry(
            total=None,
            connect=3,
            status=3,
            status_forcelist=retry_statuses,
            allowed_methods=None,
            read=False,
            redirect=False,
            other=False,
            backoff_factor=0.2,
            raise_on_status=False,
        )
        try:
            return self._http.request(method, url, timeout=timeout, retries=retries, **request)
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) else error
            # A refused connection is called a time-out too.
            if isinstance(reason, TimeoutError) and not isinstance(reason, NewConnectionError):
                raise ServingError(
                    f"TorchServe at {url} does not answer within {timeout:.0f} s: see `hybrid logs "
                    "torchserve`."
                ) from None
            told = str(reason).rpartition(": ")[2]
            raise ServingError(
                f"TorchServe at {url} does not answer ({told}): run `hybrid up`."
            ) from None

    def _expect(self, answer: urllib3.BaseHTTPResponse, action: str) -> Any:
        """Body of a successful answer; ServingError with TorchServe's own words for another."""
        try:
            body = answer.json()
        except ValueError:
            text = answer.data.decode(errors="replace").strip()
            body = {"message": text[:200] or "no reason given"}
        if 200 <= answer.status < 300:
            return body
        reason = body.get("error") or body.get("message") if isinstance(body, dict) else body
        reason = str(reason).strip().rstrip(".")
        raise ServingError(f"TorchServe refuses to {action} (HTTP {answer.status}): {reason}")
