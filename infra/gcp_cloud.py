"""What an environment has on Google Cloud besides its buckets: listed kind by kind, and removed.

Asked over the REST APIs with google-auth, which the client of Cloud Storage brings along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

from infra.cloud_http import keep_trying, reason
from infra.listers import ENVIRONMENT_LABEL, Found
from infra.removal import PATIENCE_SECONDS, RemovalError

COMPUTE = "https://compute.googleapis.com/compute/v1"
IAM = "https://iam.googleapis.com/v1"
SECRETS = "https://secretmanager.googleapis.com/v1"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"

# In the order in which they can be removed: what holds another comes before it. The collections of
# Compute Engine, and whether they are the project's as a whole or of its zones and regions.
COMPUTE_KINDS = (
    ("autoscaler", "autoscalers", False),
    ("instance group", "instanceGroupManagers", False),
    ("instance", "instances", False),
    ("instance template", "instanceTemplates", False),
    ("disk", "disks", False),
    ("vpn tunnel", "vpnTunnels", False),
    ("vpn gateway", "vpnGateways", False),
    ("external vpn gateway", "externalVpnGateways", True),
    ("router", "routers", False),
    ("address", "addresses", False),
    ("firewall", "firewalls", True),
    ("subnetwork", "subnetworks", False),
    ("network", "networks", True),
)
_IN_USE = "resourceInUse"


def described(environment: str) -> str:
    """Description by which what can have no label is known to be an environment's."""
    return f"{ENVIRONMENT_LABEL}={environment}"


@dataclass(frozen=True)
class GoogleCloud:
    """One project, with the credentials of the process environment.

    Parameters
    ----------
    session
        An authorised `requests` session; made when first needed where none is given.
    """

    project: str
    session: Any = None

    def list(self) -> list[Found]:
        """Everything of the kinds that our programs make, in the order in which it can go."""
        return [*self._compute(), *self._secrets(), *self._accounts(), *self._roles()]

    def remove(self, found: Iterable[Found]) -> None:
        """Remove objects, given in the order of `list`; wait for each until it is gone.

        Raises
        ------
        RemovalError
            Google refuses, or something does not go: the sentence names it.
        """
        for each in found:
            address = {"iam": IAM, "secretmanager": SECRETS}.get(each.service, COMPUTE)
            waiting = Retrying(
                retry=retry_if_result(lambda answer: _IN_USE in answer.text),
                wait=wait_exponential(0.5, max=10),
                stop=stop_after_delay(PATIENCE_SECONDS),
                retry_error_callback=lambda state: state.outcome.result(),
            )
            answer = waiting(self._session.delete, f"{address}/{each.identity}")
            if answer.status_code == 404:
                continue
            if not answer.ok:
                raise RemovalError(f"{each} cannot be removed: {reason(answer)}")
            if each.service == "compute":
                self._await(each, answer.json())

    def _await(self, each: Found, operation: Mapping[str, Any]) -> None:
        """Wait for the end of what Compute Engine has begun."""
        while operation["status"] != "DONE":
            answer = self._session.post(f"{operation['selfLink']}/wait")
            answer.raise_for_status()
            operation = answer.json()
        if failed := operation.get("error"):
            told = "; ".join(error.get("message", error["code"]) for error in failed["errors"])
            raise RemovalError(f"{each} cannot be removed: {told}")

    def _compute(self) -> Iterator[Found]:
        for kind, collection, whole in COMPUTE_KINDS:
            path = f"global/{collection}" if whole else f"aggregated/{collection}"
            for page in self._pages(f"{COMPUTE}/projects/{self.project}/{path}"):
                items = page.get("items") or {}
                scopes = [{collection: items}] if whole else items.values()
                for each in (one for scope in scopes for one in scope.get(collection) or ()):
                    yield Found(
                        "compute", kind, _path(each["selfLink"]), each["name"], _owner(each),
                        self._within(each),
                    )  # fmt: skip

    def _within(self, each: Mapping[str, Any]) -> str:
        """The group that made an instance, or the instance that uses a disk."""
        for item in (each.get("metadata") or {}).get("items") or ():
            if item["key"] == "created-by":  # has the project's number in it, not its name
                return re.sub(r"^projects/[^/]+", f"projects/{self.project}", item["value"])
        return next((_path(user) for user in each.get("users") or ()), "")

    def _secrets(self) -> Iterator[Found]:
        for page in self._pages(f"{SECRETS}/projects/{self.project}/secrets"):
            for each in page.get("secrets") or ():
                name = each["name"].rpartition("/")[2]
                identity = f"projects/{self.project}/secrets/{name}"
                yield Found("secretmanager", "secret", identity, name, each.get("labels") or {})

    def _accounts(self) -> Iterator[Found]:
        for page in self._pages(f"{IAM}/projects/{self.project}/serviceAccounts"):
            for each in page.get("accounts") or ():
                yield Found("iam", "service account", each["name"], each["email"], _owner(each))

    def _roles(self) -> Iterator[Found]:
        for page in self._pages(f"{IAM}/projects/{self.project}/roles"):
            for each in page.get("roles") or ():
                name = each["name"].rpartition("/")[2]
                yield Found("iam", "role", each["name"], name, _owner(each))

    def _pages(self, address: str) -> Iterator[Mapping[str, Any]]:
        token: str | None = ""
        while token is not None:
            answer = self._session.get(address, params={"pageToken": token} if token else {})
            answer.raise_for_status()
            page = answer.json()
            token = page.get("nextPageToken") or None
            yield page

    @cached_property
    def _session(self) -> Any:
        if self.session is not None:
            return self.session
        import google.auth
        from google.auth.transport.requests import AuthorizedSession

        credentials, _ = google.auth.default(scopes=[SCOPE])
        return keep_trying(AuthorizedSession(credentials))


def _path(link: str) -> str:
    """``projects/…`` of an object's address, which is its id in the engine's state as well."""
    return link[link.index("projects/") :]


def _owner(each: Mapping[str, Any]) -> Mapping[str, str]:
    """Labels; of what can have none, those that its description names."""
    if labels := each.get("labels") or (each.get("properties") or {}).get("labels"):
        return labels
    key, _, value = (each.get("description") or "").partition("=")
    return {key: value} if key == ENVIRONMENT_LABEL else {}
