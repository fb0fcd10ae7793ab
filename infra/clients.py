"""Connections of our own to AWS and Google Cloud, beside those of the engine's providers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ATTEMPTS = 8


@dataclass(frozen=True)
class Aws:
    """Clients of AWS services in one region, made when first asked for.

    Parameters
    ----------
    region
        For example ``eu-central-1``.
    endpoint
        An emulator's address; None for AWS itself with the credentials of the process environment.
    """

    region: str
    endpoint: str | None = None
    _made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, service: str) -> Any:
        """Client of a service such as ``ec2``; it retries what is throttled, waiting ever longer."""
        if service not in self._made:
            self._made[service] = self._new(service)
        return self._made[service]

    def _new(self, service: str) -> Any:
        # botocore itself: boto3 adds a second to the first call.
        import botocore.session
        from botocore.config import Config

        if "session" not in self._made:
            self._made["session"] = botocore.session.Session()
        emulated: dict[str, Any] = {}
        if self.endpoint:
            emulated = {
                "endpoint_url": self.endpoint,
                "aws_access_key_id": "test",
                "aws_secret_access_key": "test",
            }
        return self._made["session"].create_client(
            service,
            region_name=self.region,
            config=Config(
                connect_timeout=10,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                s3={"addressing_style": "path" if self.endpoint else "auto"},
            ),
            **emulated,
        )


@dataclass(frozen=True)
class Gcs:
    """Buckets of one Google Cloud project; `endpoint` as for `Aws`."""

    project: str
    endpoint: str | None = None

    def client(self) -> Any:
        """A client of Cloud Storage."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        if self.endpoint is None:
            return storage.Client(project=self.project)
        return storage.Client(
            project=self.project,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.endpoint},
        )
