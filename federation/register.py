"""Which sites a federation has and had, and the serial numbers of all certificates they got."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation.errors import FederationError
from federation.files import write_private


class SiteRegister:
    """The register in the file `path`; one process at a time may change it.

    Serial numbers are kept for ever: a certificate that nobody can name cannot be revoked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def sites(self) -> list[str]:
        """Names of the sites that take part, sorted."""
        return sorted(name for name, entry in self._read().items() if not entry["removed"])

    def removed(self) -> set[str]:
        """Names of the sites that were revoked and not enrolled again."""
        return {name for name, entry in self._read().items() if entry["removed"]}

    def revoked(self) -> dict[int, datetime]:
        """Serial numbers that are no longer good, and since when."""
        return {
            int(serial, 16): datetime.fromisoformat(since)
            for entry in self._read().values()
            for serial, since in entry["serials"].items()
            if since is not None
        }

    def note(self, site: str, serial: int) -> None:
        """Note a certificate of a site, which takes part from now on."""
        register = self._read()
        entry = register.setdefault(site, {"removed": False, "serials": {}})
        entry["removed"] = False
        entry["serials"][f"{serial:x}"] = None
        self._write(register)

    def revoke(self, site: str) -> None:
        """Note that a site is removed, and that no certificate it ever got is good any more."""
        register = self._read()
        if site not in register:
            raise FederationError(
                f"There is no site {site!r}: the federation has {', '.join(self.sites()) or 'none'}."
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = register[site]
        entry["removed"] = True
        entry["serials"] = {serial: since or now for serial, since in entry["serials"].items()}
        self._write(register)

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise FederationError(
                f"{self.path} is damaged ({error}): restore it from a backup; without it no "
                "certificate can be revoked."
            ) from error

    def _write(self, register: dict[str, Any]) -> None:
        write_private(self.path, json.dumps(register, indent=2).encode())
