"""A real Redis or Valkey, configured as in `local`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import redis
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from cli.sessions import session_socket, session_store_command, session_store_program


class SessionStore:
    """A server whose files lie in `folder`; it stands at the site ``berlin``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = redis.Redis(unix_socket_path=str(session_socket(folder)))
        self.variables = {
            "HYBRID_SESSIONS": f"unix://{session_socket(folder)}",
            "HYBRID_SESSIONS_SITE": "berlin",
            "HYBRID_SESSIONS_EXPIRY": "3600",
            "HYBRID_SESSIONS_MOST": "5",
            "HYBRID_EVENTS": "anybody",
        }

    def start(self) -> None:
        command = session_store_command(session_store_program(), self.folder, memory_mb=16)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        retry(
            retry=retry_if_exception_type(redis.ConnectionError),
            stop=stop_after_delay(20),
            wait=wait_fixed(0.02),
        )(self.client.ping)()

    def end(self) -> None:
        """Kill it, as a crash does."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        session_socket(self.folder).unlink(missing_ok=True)
