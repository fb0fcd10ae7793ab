"""IPsec between a site and AWS: the only proposals, and strongSwan's configuration for the site."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Nothing weaker is offered, so that no negotiation can end below it. Groups 20 and 21 are the
# NIST curves of 384 and 521 bits (RFC 5903); GCM authenticates by itself, the hash is IKE's PRF.
ENCRYPTION = ["AES256-GCM-16"]
INTEGRITY = ["SHA2-384", "SHA2-512"]
GROUPS = [20, 21]

# The same in strongSwan's words: what it proposes is what AWS accepts, and the first is the best.
IKE_PROPOSALS = ["aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha512-ecp521"]
ESP_PROPOSALS = ["aes256gcm16-ecp384", "aes256gcm16-ecp521"]

# AWS renegotiates after 8 hours (IKE) and 1 hour (child); the site does so a little before.
IKE_LIFETIME, CHILD_LIFETIME = "7h", "50m"

# What AWS takes as a pre-shared key; the quotes of a configuration file are not among it.
PRESHARED_KEY = re.compile(r"[A-Za-z1-9._][A-Za-z0-9._]{7,63}")


def render_swanctl(
    site: str, public_ip: str, site_cidr: str, vpc_cidr: str, tunnels: Sequence[Mapping[str, str]]
) -> str:
    """swanctl.conf for a site's gateway: both tunnels with their keys, so it must be mode 0600.

    Each tunnel has an XFRM interface of its own (`if_id` 1 and 2), since both carry the same
    networks: the routes of these interfaces decide which one does.

    Parameters
    ----------
    site
        Its name; connections are called ``<site>-1`` and ``<site>-2``.
    public_ip
        Address that AWS knows the gateway by; it may stand before it (NAT).
    site_cidr, vpc_cidr
        The networks on the two sides.
    tunnels
        Outside address and pre-shared key of each, as the stack's output has them.

    Raises
    ------
    ValueError
        A tunnel lacks its address or its key: the connection is not finished yet.
    """
    parts = [
        render_tunnel(site, number, public_ip, site_cidr, vpc_cidr, *_finished(site, number, tunnel))
        for number, tunnel in enumerate(tunnels, start=1)
    ]
    return f"# The link of {site}. It holds keys: nobody but root may read it.\n" + "".join(parts)


def render_tunnel(
    site: str, number: int, public_ip: str, site_cidr: str, vpc_cidr: str, address: str, key: str
) -> str:
    """The part of swanctl.conf for tunnel 1 or 2; files with either part may stand side by side."""
    name = f"{site}-{number}"
    connection = _connection(name, number, public_ip, address, site_cidr, vpc_cidr)
    return (
        f"connections {{\n{connection}}}\n"
        f"secrets {{\n{_secret(name, public_ip, address, key)}}}\n"
    )


def _finished(site: str, number: int, tunnel: Mapping[str, str]) -> tuple[str, str]:
    """Address and key of a tunnel that has both."""
    address, key = tunnel.get("outside_address"), tunnel.get("preshared_key")
    if not address or not key:
        lack = "address" if not address else "key"
        raise ValueError(
            f"tunnel {number} of {site} has no {lack} yet: its VPN connection is half-created; "
            "bring the link up again"
        )
    if not PRESHARED_KEY.fullmatch(key):
        raise ValueError(
            f"the key of tunnel {number} of {site} has characters or a length that AWS does "
            "not allow"
        )
    return address, key


def _connection(
    name: str, number: int, public_ip: str, address: str, site_cidr: str, vpc_cidr: str
) -> str:
    return f"""  {name} {{
    version = 2
    remote_addrs = {address}
    proposals = {", ".join(IKE_PROPOSALS)}
    rekey_time = {IKE_LIFETIME}
    dpd_delay = 10s
    mobike = no
    keyingtries = 0
    unique = replace
    if_id_in = {number}
    if_id_out = {number}
    local {{
      auth = psk
      id = {public_ip}
    }}
    remote {{
      auth = psk
      id = {address}
    }}
    children {{
      {name} {{
        local_ts = {site_cidr}
        remote_ts = {vpc_cidr}
        esp_proposals = {", ".join(ESP_PROPOSALS)}
        rekey_time = {CHILD_LIFETIME}
        start_action = start
        close_action = start
        dpd_action = restart
      }}
    }}
  }}
"""


def _secret(name: str, public_ip: str, address: str, key: str) -> str:
    return f"""  ike-{name} {{
    id-site = {public_ip}
    id-cloud = {address}
    secret = "{key}"
  }}
"""
