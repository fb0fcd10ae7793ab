"""What the handlers in TorchServe are told by variables, on this machine and on Kubernetes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

PASSWORD = "HYBRID_SESSIONS_PASSWORD"


def session_variables(
    address: Any, site: str | None, expiry_seconds: int, events: int
) -> dict[str, Any]:
    """Of the session store, as `handlers.sessions.open_sessions` takes them.

    Parameters
    ----------
    address
        ``unix:///path`` or ``redis://host:port``: text, or what an engine will know as such.
    site
        At which store and service stand; None if at no site.
    expiry_seconds, events
        For how long an event counts, and how many are kept of a user.
    """
    return {
        "HYBRID_SESSIONS": address,
        "HYBRID_SESSIONS_SITE": site or "",
        "HYBRID_SESSIONS_EXPIRY": str(expiry_seconds),
        "HYBRID_SESSIONS_MOST": str(events),
    }


def token_variables(credential: str, keys: Iterable[str]) -> dict[str, str]:
    """Of who may post and ask for users, as `handlers.tokens.open_tokens` takes them.

    Parameters
    ----------
    credential
        ``token``, or ``none`` where anybody may post and ask for everybody.
    keys
        Public Ed25519 keys that sign tokens, each 32 bytes in base64.
    """
    if credential == "none":
        return {"HYBRID_EVENTS": "anybody"}
    return {"HYBRID_EVENTS": "token", "HYBRID_EVENTS_KEYS": " ".join(keys)}


def tracing_variables(endpoint: str | None, share: float) -> dict[str, str]:
    """Of the collector of traces, by names that OpenTelemetry's SDK knows; none without one."""
    if endpoint is None:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_SERVICE_NAME": "hybrid-handler",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(share),
    }


def collector_beyond_loopback(endpoint: str | None) -> str | None:
    """The collector's address if other machines can mean the same by it, else None."""
    return None if endpoint is None or _is_loopback(_host(endpoint)) else endpoint


def collector_egress(endpoint: str) -> dict[str, Any]:
    """Rule of a network policy that lets a pod reach the collector.

    A policy knows no names: a collector that is named by one is reached wherever its port is.
    """
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    rule: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": port}]}
    try:
        address = ip_address(_host(endpoint))
    except ValueError:
        return rule
    return {"to": [{"ip_block": {"cidr": f"{address}/{address.max_prefixlen}"}}]} | rule


def _host(endpoint: str) -> str:
    return urlsplit(endpoint).hostname or ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
