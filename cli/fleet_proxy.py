"""The nginx through which sites reach an environment's SuperLink on this machine."""

from __future__ import annotations

from pathlib import Path

from cli.files import write_text
from cli.nginx import nginx_command
from federation.credentials import Credentials
from infra.fleet_proxy import FleetProxy, proxy_configuration


def proxy_command(
    program: str, folder: Path, files: Credentials, *, host: str, port: int, superlink: int
) -> list[str]:
    """Write the proxy's configuration into `folder`; the command that runs it in the foreground."""
    configuration = proxy_configuration(
        FleetProxy(
            listen=f"{host}:{port}",
            superlink=superlink,
            folder=str(folder),
            certificate=str(files.server_certificate),
            key=str(files.server_key),
            trusted=str(files.authority),
            sites_authority=str(files.authority),
            revoked=str(files.revoked),
        )
    )
    write_text(folder / "nginx.conf", configuration, mode=0o600)
    return nginx_command(program, folder / "nginx.conf")
