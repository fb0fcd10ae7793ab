"""What the APIs of Google Cloud and Azure have in common when they are asked over HTTP."""

from __future__ import annotations

from typing import Any

from infra.clients import ATTEMPTS


def keep_trying(session: Any) -> Any:
    """Let a `requests` session ask again where a service is busy; the session itself."""
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    busy = Retry(ATTEMPTS, backoff_factor=0.5, status_forcelist=(429, 503),
                 allowed_methods=None, raise_on_status=False)  # fmt: skip
    session.mount("https://", HTTPAdapter(max_retries=busy))
    return session


def reason(answer: Any) -> str:
    """Why a call was refused, in the service's own words where it has some."""
    try:
        return answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason}"
