"""The store of users' sessions on this machine: Redis or Valkey behind a socket of ours alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from cli.environment import Environment
from cli.files import short_path, write_text
from infra.handler_variables import session_variables
from infra.session_pod import volatile

PART = "sessions"
LACK = (
    "this machine has neither redis-server nor valkey-server: sudo apt-get install redis-server, "
    "then hybrid up"
)


def session_store_program() -> str | None:
    """redis-server or valkey-server; None where there is neither."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


def session_store_command(program: str, folder: Path, *, memory_mb: int) -> list[str]:
    """Write the store's configuration; the command that runs it in the foreground.

    It opens no port: only its own user may open the socket. Nothing is written to a disk. Beyond
    `memory_mb` the sessions that were not asked for longest are dropped.
    """
    file = folder / "redis.conf"
    write_text(
        file,
        "port 0\n"
        f'unixsocket "{session_socket(folder)}"\n'
        "unixsocketperm 700\n"
        "daemonize no\n"
        # Its title would be written over the variable by which a survivor is found.
        "set-proc-title no\n"
        f'dir "{folder}"\n{volatile(memory_mb)}',
        mode=0o600,
    )
    return [program, str(file)]


def session_socket(folder: Path) -> Path:
    """The store's socket."""
    return short_path(folder, "sessions")


def sessions_folder(environment: Environment) -> Path:
    """Folder of the store's configuration."""
    return environment.folder / "sessions"


def handler_variables(environment: Environment) -> dict[str, str]:
    """What TorchServe's workers are told of the store; see `handlers.sessions.open_sessions`."""
    settings = environment.settings
    if session_store_program() is None:
        return {}
    return session_variables(
        f"unix://{session_socket(sessions_folder(environment))}",
        settings.serving_site,
        settings.sessions.expiry_seconds,
        settings.sessions.events,
    )


def answers(environment: Environment) -> bool:
    """Whether the store answers now."""
    import redis

    client = redis.Redis(
        unix_socket_path=str(session_socket(sessions_folder(environment))), socket_timeout=2
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def problem(environment: Environment) -> str | None:
    """Why answers do not know what users did of late; None where they do."""
    if session_store_program() is None:
        return LACK
    if not answers(environment):
        return "the session store does not answer: hybrid up"
    return None
