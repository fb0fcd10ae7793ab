"""The link of an environment at work: reach both ends of each site's tunnels, re-key and measure."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.environment import Environment
from cli.errors import CommandError
from cli.files import write_text
from cli.preflight import require_account
from cli.ssh import as_root_by_ssh, why
from cli.state import stack_outputs
from infra.ipsec_link import IpsecCloud, IpsecSite, outside_addresses
from infra.link_rotation import TUNNELS, Link, NotReady, Rotation, again, step
from infra.wireguard import Runner, ends, plan_tunnels

if TYPE_CHECKING:
    from stacks.settings import Site, SiteGateway

PAUSE = 5.0  # seconds between two tries of a step that the link does not allow yet


@contextmanager
def aws_told() -> Iterator[None]:
    """Turn what AWS refuses, and missing credentials, into one sentence."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise CommandError(f"AWS refused: {error}") from None


def chosen_sites(environment: Environment, name: str | None) -> list[tuple[int, Site]]:
    """The named site, or all; with their places. CommandError where there is none of that name."""
    sites = list(enumerate(environment.settings.sites))
    if name is None:
        return sites
    found = [(number, site) for number, site in sites if site.name == name]
    if not found:
        known = ", ".join(site.name for _, site in sites)
        raise CommandError(f"{environment.name} has no site {name!r}: there are {known}.", 2)
    return found


def open_link(environment: Environment, number: int, site: Site) -> Link:
    """Both ends of a site's link, ready to work on.

    Raises
    ------
    CommandError
        The cloud is not AWS, the site's gateway is not in the settings, the layer is not up, or an
        end does not answer.
    LinkError
        The VPN connection is half-created.
    """
    if (cloud := environment.settings.gpu_pool.cloud) != "aws":
        raise CommandError(
            f"{environment.name} has gpu_pool.cloud {cloud!r}, but tunnels are measured and get new "
            "keys on 'aws' only so far: see your gateway, and the cloud's console.",
            2,
        )
    if site.gateway is None:
        raise CommandError(
            f"sites.{number}.gateway is missing, so nobody can reach the VPN gateway of "
            f"{site.name}: name its address and host_key in the settings.",
            2,
        )
    outputs = stack_outputs(environment, "link")
    require_account(environment)
    aws, settings = environment.aws(), environment.settings
    vpc, cidr, public_ip = str(settings.network.vpc_cidr), str(site.cidr), str(site.public_ip)
    at_site = ssh_runner(site.gateway)
    if settings.link.driver == "wireguard":
        at_cloud = ssm_runner(aws("ssm"), _output(outputs, "gateway_id"))
        cloud, own = ends(
            at_cloud,
            at_site,
            plan_tunnels(number),
            (_output(outputs, "gateway_ip"), public_ip),
            (vpc, cidr),
        )
        cloud.start()
        own.start()
        return Link(cloud, own, own.is_up)
    ec2 = aws("ec2")
    connection = _output(outputs, "connections").get(site.name)
    if not connection:
        raise CommandError(f"Site {site.name} has no VPN connection yet: run hybrid up.")
    addresses = outside_addresses(ec2, connection, site.name)
    amazon = IpsecCloud(ec2, connection, addresses)
    echo = str(settings.link.echo) if settings.link.echo else None
    swan = IpsecSite(at_site, site.name, public_ip, cidr, vpc, addresses, echo)
    swan.start()
    return Link(amazon, swan, lambda tunnel: swan.is_up(tunnel) and amazon.is_up(tunnel))


def rotate(
    file: Path, link: Link, patience: float, say: Callable[[str], None], pause: float = PAUSE
) -> int:
    """Give both tunnels of a link new keys; go on where an earlier rotation was cut off.

    Parameters
    ----------
    file
        Where the rotation is kept between runs.
    link
        Both ends.
    patience
        Seconds to wait for a step that the link does not allow yet.
    say
        Told each step.
    pause
        Seconds between two tries.

    Returns
    -------
    int
        The generation that both tunnels have now.
    """
    rotation = _read_rotation(file)
    if rotation.done:
        rotation = Rotation(rotation.generation + 1)
    _save(file, rotation)
    deadline = time.monotonic() + patience
    while not rotation.done:
        try:
            after = step(rotation, link)
        except NotReady as error:
            if time.monotonic() >= deadline:
                _save(file, again(rotation))
                raise CommandError(
                    f"The rotation stopped after {patience:.0f} s: {error}. "
                    "The same command goes on from here."
                ) from None
            time.sleep(pause)
            continue
        say(f"tunnel {rotation.tunnel + 1}: {rotation.phase} done")
        rotation, deadline = after, time.monotonic() + patience
        _save(file, rotation)
    return rotation.generation


def measure(link: Link) -> list[dict[str, Any]]:
    """State, handshake age (s), latency (ms) and throughput (Mbit/s) of each tunnel."""
    from dataclasses import asdict

    return [
        {
            "tunnel": tunnel + 1,
            "up": link.is_up(tunnel),
            **asdict(link.site.measure(tunnel)),
        }
        for tunnel in TUNNELS
    ]


def ssh_runner(gateway: SiteGateway) -> Runner:
    """Run scripts on a site's gateway; its host key must be the one in the settings."""

    def run(script: str, arguments: Sequence[str]) -> str:
        done = as_root_by_ssh(gateway, ["sh", "-s", "--", *arguments], script)
        if done.returncode:
            raise CommandError(
                f"The gateway {gateway.address} could not {arguments[0]} {arguments[1]}: "
                f"{why(done)}"
            )
        return done.stdout

    return run


def ssm_runner(ssm: Any, instance: str) -> Runner:
    """Run scripts on a machine of the VPC through AWS Systems Manager, which needs no open port."""
    from botocore.exceptions import WaiterError

    def run(script: str, arguments: Sequence[str]) -> str:
        sent = ssm.send_command(
            InstanceIds=[instance],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": [f"set -- {shlex.join(arguments)}\n{script}"]},
        )
        this = {"CommandId": sent["Command"]["CommandId"], "InstanceId": instance}
        try:
            ssm.get_waiter("command_executed").wait(**this, WaiterConfig={"Delay": 1})
        except WaiterError:
            told = ssm.get_command_invocation(**this)
            raise CommandError(
                f"The cloud's gateway {instance} could not {arguments[0]} {arguments[1]} "
                f"({told['Status']}): {told.get('StandardErrorContent', '').strip()}"
            ) from None
        return ssm.get_command_invocation(**this)["StandardOutputContent"]

    return run


def _output(outputs: dict[str, Any], name: str) -> Any:
    if name not in outputs:
        raise CommandError(
            f"Layer link has no output {name!r}: run hybrid up first, with this link.driver."
        )
    return outputs[name]


def _read_rotation(file: Path) -> Rotation:
    try:
        return Rotation.from_json(file.read_text())
    except FileNotFoundError:
        return Rotation(generation=1)
    except ValueError as error:
        raise CommandError(f"{file} cannot be used: {error}; remove it to begin anew.") from None


def _save(file: Path, rotation: Rotation) -> None:
    write_text(file, rotation.to_json() + "\n", mode=0o600)
