"""Connection of the AWS tables to the endpoints in the provider's configuration."""

from __future__ import annotations

import threading
from typing import Any

from infra.offline.errors import OfflineError
from infra.offline.resource import Properties

MARK_TAG = "hybrid:offline"
"""Tag that tells which creation made an object; kept out of what the engine sees."""

ACCOUNT = "123456789012"


class Aws:
    """Clients of the services, made when first used.

    Parameters
    ----------
    configuration
        Inputs of ``pulumi_aws.Provider``; ``region``, ``endpoints``, ``accessKey``, ``secretKey``,
        ``token``, ``s3UsePathStyle`` and ``defaultTags`` are used.
    """

    def __init__(self, configuration: Properties) -> None:
        self.region: str = configuration.get("region") or "us-east-1"
        self.default_tags: dict[str, str] = (configuration.get("defaultTags") or {}).get("tags", {})
        self._endpoints: dict[str, str] = {}
        for entry in configuration.get("endpoints") or ():
            self._endpoints |= {name: url for name, url in entry.items() if url}
        self._credentials = {
            "aws_access_key_id": configuration.get("accessKey") or "offline",
            "aws_secret_access_key": configuration.get("secretKey") or "offline",
            "aws_session_token": configuration.get("token"),
        }
        self._path_style = bool(configuration.get("s3UsePathStyle"))
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def client(self, service: str) -> Any:
        """Client of a service, such as ``ec2``.

        Raises
        ------
        OfflineError
            No endpoint is configured: an offline plugin never calls the real AWS.
        """
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._new_client(service)
            return self._clients[service]

    def _new_client(self, service: str) -> Any:
        endpoint = self._endpoints.get(service)
        if endpoint is None:
            raise OfflineError(
                f"the aws provider has no endpoint for {service!r}: add it to the provider's "
                "`endpoints`, for the offline plugin never calls the real AWS"
            )
        import botocore.config
        import botocore.session

        if self._session is None:
            # botocore itself: boto3 would only add a second to the first call.
            self._session = botocore.session.Session()
        return self._session.create_client(
            service,
            region_name=self.region,
            endpoint_url=endpoint,
            config=botocore.config.Config(
                s3={"addressing_style": "path" if self._path_style else "auto"},
                retries={"mode": "standard", "max_attempts": 4},
                max_pool_connections=16,
            ),
            **self._credentials,
        )

    def tags(self, inputs: Properties) -> dict[str, str]:
        """All tags of an object: the provider's defaults, overridden by the resource's own."""
        return self.default_tags | (inputs.get("tags") or {})

    def arn(self, service: str, path: str, *, account: str = ACCOUNT) -> str:
        """Amazon resource name in this region."""
        return f"arn:aws:{service}:{self.region}:{account}:{path}"


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags as most services take them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag_map(tags: list[dict[str, str]] | None) -> dict[str, str]:
    """Tags as Pulumi has them, without the mark and without AWS's own."""
    return {
        tag["Key"]: tag.get("Value", "")
        for tag in tags or ()
        if tag["Key"] != MARK_TAG and not tag["Key"].startswith("aws:")
    }


def mark_in(tags: list[dict[str, str]] | None) -> str | None:
    """The mark among an object's tags, if there is one."""
    return next((tag["Value"] for tag in tags or () if tag["Key"] == MARK_TAG), None)


def observed_tags(api: Aws, tags: list[dict[str, str]] | None) -> Properties:
    """``tags`` (without the provider's defaults) and ``tagsAll`` of an object."""
    everything = tag_map(tags)
    own = {key: value for key, value in everything.items() if api.default_tags.get(key) != value}
    return {"tags": own, "tagsAll": everything}


def error_code(error: Exception) -> str:
    """Code such as ``InvalidVpcID.NotFound`` of a service's error; empty for other exceptions."""
    return getattr(error, "response", {}).get("Error", {}).get("Code", "")


def is_missing(error: Exception) -> bool:
    """Whether a service says that the object does not exist."""
    code = error_code(error)
    return code.endswith((".NotFound", "NotFoundException")) or code in {
        "404",
        "NoSuchBucket",
        "NoSuchBucketPolicy",
        "NoSuchEntity",
        "NoSuchLifecycleConfiguration",
        "NoSuchPublicAccessBlockConfiguration",
        "NotFound",
        "OwnershipControlsNotFoundError",
        "ServerSideEncryptionConfigurationNotFoundError",
    }


class gone_is_done:
    """Context that passes over the error for an object that does not exist."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        return isinstance(error, Exception) and is_missing(error)
