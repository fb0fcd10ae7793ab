"""What a remote site is handed: its keys, the authority's certificate, and how to start."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

from federation.credentials import locate
from federation.deployment import credentials_folder
from federation.errors import FederationError
from federation.files import write_private
from federation.site import SETTINGS

GATEWAY_PORT = 18700
RUNTIME_PORT = 18701

UNIT = """\
[Unit]
Description=Hybrid federation, site {site}
Wants=network-online.target
After=network-online.target

[Service]
# The toolkit lies in /opt/hybrid, this package in /etc/hybrid/{site}, the site's data in
# /var/lib/hybrid/{site}; all belong to the user hybrid.
User=hybrid
ExecStart=/opt/hybrid/.venv/bin/python -m federation.site /etc/hybrid/{site} --data /var/lib/hybrid/{site}
Restart=always
RestartSec=30
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths=/etc/hybrid/{site}

[Install]
WantedBy=multi-user.target
"""

HELP = """\
Site {site} of a Hybrid federation
==================================

The files under credentials/ are secrets of this site: they stay here, readable by one user only.
The proxy of the federation is looked for at {proxy} (`proxy` in {settings}).

By hand, with the toolkit installed:

    python -m federation.site . --data FOLDER

With systemd: unpack into /etc/hybrid/{site}, give it to the user `hybrid`, then

    cp hybrid-site.service /etc/systemd/system/hybrid-{site}.service
    systemctl enable --now hybrid-{site}

FOLDER holds the site's interactions, written with the model's items; nothing else is read, and no
interaction leaves the site. When the keys were rotated, unpack the new package over this one and
restart the service.
"""


def write_package(folder: Path, site: str, file: Path, *, proxy: str) -> None:
    """Write the package of an enrolled site as a .tar.gz that only its owner may read.

    Parameters
    ----------
    folder : Path
        The federation's folder.
    proxy : str
        "host:port" at which the site finds the federation's proxy.

    Raises
    ------
    FederationError
        If the site has no keys here.
    """
    files = locate(credentials_folder(folder), [site])
    keys = files.sites[site]
    settings = {
        "site": site,
        "proxy": proxy,
        "gateway_port": GATEWAY_PORT,
        "runtime_port": RUNTIME_PORT,
    }
    try:
        contents = {
            "README.txt": HELP.format(site=site, proxy=proxy, settings=SETTINGS).encode(),
            "hybrid-site.service": UNIT.format(site=site).encode(),
            SETTINGS: json.dumps(settings, indent=2).encode(),
            "credentials/ca.crt": files.authority.read_bytes(),
        } | {
            f"credentials/sites/{site}/{path.name}": path.read_bytes()
            for path in vars(keys).values()
        }
    except FileNotFoundError as error:
        raise FederationError(
            f"Site {site!r} has no {os.path.basename(error.filename)} here: hybrid site rotate "
            "makes new keys."
        ) from error
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
    write_private(file, packed.getvalue())
