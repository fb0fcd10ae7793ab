"""Edge bundles on the hosts of a site: brought there, served by systemd, put back, taken away."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.environment import Environment
from cli.errors import CommandError
from cli.files import write_text
from cli.link import chosen_sites
from cli.ssh import Reachable, as_root_by_ssh, why

if TYPE_CHECKING:
    from stacks.settings import Host

SCRIPT = Path(__file__).parents[1] / "infra" / "edge_end.sh"


@dataclass(frozen=True)
class EdgeHost:
    """What serves on a host: its model and the one before; None for none."""

    address: str
    model: str | None
    previous: str | None
    answers: bool


@dataclass(frozen=True)
class Sent:
    """The bundle of `model` was the last that was sent to a host, which was reached like this."""

    site: str
    model: str
    address: str
    host_key: str
    port: int
    user: str


def install(
    environment: Environment, site: str, file: Path, port: int, say: Callable[[str], None]
) -> str:
    """Serve a bundle on every host of a site; digest of its model.

    All hosts have the bundle, checked, and what it needs, before the first one serves it. Where one
    does not get it to answer, those before it serve again what they had.

    Parameters
    ----------
    file
        What `hybrid deploy --edge` wrote.
    port
        On each host's loopback.

    Raises
    ------
    CommandError
        The bundle is damaged or signed by nobody trusted, the site has no hosts, or one fails.
    """
    hosts = _hosts(environment, site)
    model, sha256 = _checked(environment, file)
    for host in hosts:
        say(f"{host.address}: receives the bundle")
        _note(environment, Sent(site, model, host.address, host.host_key, host.port, host.user))
        with file.open("rb") as content:
            _run(host, "receive", sha256, given=content)
        _run(host, "take", sha256, str(port), model)
    served: list[Host] = []
    for host in hosts:
        say(f"{host.address}: begins to serve it")
        try:
            _run(host, "serve", sha256)
        except CommandError as error:
            raise CommandError(" ".join([str(error), *_put_back(served)])) from None
        served.append(host)
    environment.audit_log().append("edge bundle installed", site=site, model=model)
    return model


def roll_back(environment: Environment, site: str) -> list[EdgeHost]:
    """Serve on every host of a site the bundle before; what serves then."""
    for host in _hosts(environment, site):
        _run(host, "back")
    found = status(environment, site)
    models = sorted({host.model for host in found if host.model})
    environment.audit_log().append("edge bundle rolled back", site=site, models=models)
    return found


def status(environment: Environment, site: str) -> list[EdgeHost]:
    """What serves on each host of a site."""
    found = []
    for host in _hosts(environment, site):
        lines = [line.split() for line in _run(host, "status").splitlines()]
        models = {line[0]: line[2] for line in lines if len(line) == 3}
        found.append(
            EdgeHost(
                host.address, models.get("current"), models.get("previous"), ["answers"] in lines
            )
        )
    return found


def remove(environment: Environment, site: str) -> None:
    """Take bundles, Python and unit away from every host of a site; its histories stay."""
    for host in _hosts(environment, site):
        _run(host, "remove")
        _forget(environment, site, host.address)
    environment.audit_log().append("edge bundle removed", site=site)


def remove_all(
    environment: Environment, leave: bool, say: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """Take away what was sent to any host, whatever the settings name by now.

    Parameters
    ----------
    leave
        Pass over hosts from which nothing can be taken.

    Returns
    -------
    list, list
        The addresses of the hosts that have no bundle any more, and of those passed over.

    Raises
    ------
    CommandError
        Names the hosts from which nothing can be taken, and what was sent there.
    """
    taken: list[str] = []
    kept: dict[str, str] = {}
    for sent in _sent(environment):
        say(f"{sent.address}: gives its edge bundle up")
        try:
            _run(sent, "remove")
        except CommandError as error:
            kept[sent.address] = f"{error} It was sent model {sent.model} (site {sent.site})."
            continue
        _forget(environment, sent.site, sent.address)
        environment.audit_log().append("edge bundle removed", site=sent.site, host=sent.address)
        taken.append(sent.address)
    if kept and not leave:
        raise CommandError(
            f"{' '.join(kept.values())} Nothing else was torn down: mend that and give the command "
            f"again, or leave what is there with hybrid down {environment.name} --leave-bundles."
        )
    return taken, list(kept)


def _hosts(environment: Environment, name: str) -> tuple[Host, ...]:
    ((number, site),) = chosen_sites(environment, name)
    if not site.hosts:
        raise CommandError(
            f"Site {name} of {environment.name} has no hosts: name them under sites.{number}.hosts "
            "in the settings, or start the bundle by hand (docs/edge.md).",
            2,
        )
    return site.hosts


def _checked(environment: Environment, file: Path) -> tuple[str, str]:
    """Model and SHA-256 of a bundle that is whole and that a trusted key signed."""
    from cryptography.exceptions import InvalidSignature

    from handlers.edge import MANIFEST, SIGNATURE, checked

    try:
        model = checked(file)["model"]
        with zipfile.ZipFile(file) as content:
            manifest = content.read(MANIFEST)
            signature = content.read(SIGNATURE) if SIGNATURE in content.namelist() else b""
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise CommandError(
            f"{file} is no edge bundle: {error}; write it with hybrid deploy --edge."
        ) from None
    for key in environment.signing_keys().trusted().values():
        try:
            key.verify(signature, manifest)
            return model, sha256
        except InvalidSignature:
            continue
    raise CommandError(
        f"{file} is signed by no key that {environment.name} trusts (hybrid models key shows them): "
        "write it with hybrid deploy --edge."
    )


def _put_back(served: list[Host]) -> list[str]:
    """Put the bundle before back where the new one serves already; a sentence for each host."""
    told = []
    for host in reversed(served):
        try:
            _run(host, "back")
            told.append(f"{host.address} serves again what it did.")
        except CommandError as error:
            told.append(f"{host.address} serves the new one still: {error}")
    return told


def _record(environment: Environment) -> Path:
    """Lists the hosts that may have a bundle, since this was sent one; from `Sent`."""
    return environment.folder / "edge.json"


def _sent(environment: Environment) -> list[Sent]:
    file = _record(environment)
    try:
        return [Sent(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(
            f"{file}, which lists the hosts with edge bundles, cannot be read ({error}): run hybrid "
            "edge remove for each site that has one, then delete the file."
        ) from None


def _note(environment: Environment, sent: Sent) -> None:
    _forget(environment, sent.site, sent.address, [sent])


def _forget(
    environment: Environment, site: str, address: str, instead: Iterable[Sent] = ()
) -> None:
    rows = _sent(environment)
    others = [row for row in rows if (row.site, row.address) != (site, address)]
    if rows != (now := [*others, *instead]):
        write_text(_record(environment), json.dumps([asdict(row) for row in now], indent=1) + "\n")


def _run(host: Reachable, verb: str, *arguments: str, given: object = "") -> str:
    command = ["sh", "-c", SCRIPT.read_text(encoding="utf-8"), SCRIPT.name, verb, *arguments]
    done = as_root_by_ssh(host, command, given)
    if done.returncode:
        raise CommandError(f"{host.address} could not {verb} the bundle: {why(done)}.")
    return done.stdout
