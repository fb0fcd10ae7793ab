"""Configuration of the nginx in front of a SuperLink: sites reach the Fleet API, and nothing else.

The Control API, which starts runs, takes calls without credentials, and the Runtime API serves the
SuperLink's own processes; both share Flower's one port with the Fleet API.
"""

from __future__ import annotations

from dataclasses import dataclass

FLEET_PATH = "/v1/fleet/"
# A message goes up in objects, a request each: pieces of 5 MiB, or a parcel of 16 MiB and a few texts
# (federation/parcel.py). The SuperLink takes a request into its memory before it looks at it.
MOST_REQUEST_BYTES = 32 << 20


@dataclass(frozen=True)
class FleetProxy:
    """What the proxy needs to know; all paths are absolute.

    Parameters
    ----------
    listen
        Address and port for the sites, as nginx writes them.
    superlink
        Port of the SuperLink on the same machine's loopback.
    folder
        For its process id and temporary files.
    certificate, key
        Its TLS identity.
    trusted
        Who must have signed the SuperLink's certificate.
    sites_authority
        Who must have signed a site's certificate; None asks sites for none.
    revoked
        List of the sites' certificates that are no longer good.
    health
        A second port, without TLS, that tells whether the SuperLink is well: for who has no
        certificate. None for none.
    """

    listen: str
    superlink: int
    folder: str
    certificate: str
    key: str
    trusted: str
    sites_authority: str | None = None
    revoked: str | None = None
    health: int | None = None


def temporary_paths(folder: str) -> str:
    """Where nginx may put what it does not keep in memory: its own places are only root's."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f'    {kind}_temp_path "{folder}/{kind}";\n' for kind in kinds)


def proxy_configuration(proxy: FleetProxy) -> str:
    """Text of nginx.conf."""
    return (
        f'pid "{proxy.folder}/nginx.pid";\n'
        "error_log stderr warn;\n"
        "events {}\n"
        "http {\n"
        f"{temporary_paths(proxy.folder)}"
        f"{_refusal_log(proxy)}"
        f"    client_max_body_size {MOST_REQUEST_BYTES};\n"
        "    upstream superlink {\n"
        f"        server 127.0.0.1:{proxy.superlink};\n"
        "        keepalive 16;\n"
        "    }\n"
        "    server {\n"
        f"        listen {proxy.listen} ssl;\n"
        "        server_tokens off;\n"
        "        ssl_protocols TLSv1.2 TLSv1.3;\n"
        f'        ssl_certificate "{proxy.certificate}";\n'
        f'        ssl_certificate_key "{proxy.key}";\n'
        f"{_site_certificates(proxy)}"
        f"{_upstream(proxy)}"
        "        proxy_request_buffering off;\n"
        "        proxy_buffering off;\n"
        "        proxy_read_timeout 300s;\n"
        f"        location {FLEET_PATH} {{ proxy_pass https://superlink; }}\n"
        "        location = /health { proxy_pass https://superlink; }\n"
        "        location / { return 403; }\n"
        "    }\n"
        f"{_health(proxy)}"
        "}\n"
    )


def _health(proxy: FleetProxy) -> str:
    if proxy.health is None:
        return ""
    return (
        "    server {\n"
        f"        listen {proxy.health};\n"
        "        server_tokens off;\n"
        f"{_upstream(proxy)}"
        "        location = /health { proxy_pass https://superlink; }\n"
        "        location / { return 403; }\n"
        "    }\n"
    )


def _upstream(proxy: FleetProxy) -> str:
    return (
        "        proxy_http_version 1.1;\n"
        '        proxy_set_header Connection "";\n'
        "        proxy_ssl_verify on;\n"
        "        proxy_ssl_name localhost;\n"
        f'        proxy_ssl_trusted_certificate "{proxy.trusted}";\n'
    )


def _refusal_log(proxy: FleetProxy) -> str:
    """Tell which site was refused what, and why its certificate was; calls that pass are not told.

    nginx itself tells of a bad certificate only among all else at level info.
    """
    if proxy.sites_authority is None:
        return "    access_log off;\n"
    return (
        "    log_format refusal '$time_iso8601 refused $request_method $uri of $remote_addr, "
        "certificate $ssl_client_s_dn: $ssl_client_verify, status $status';\n"
        "    map $status $refused { ~^4 1; default 0; }\n"
        "    access_log /dev/stderr refusal if=$refused;\n"
    )


def _site_certificates(proxy: FleetProxy) -> str:
    """Let nobody in without a certificate of the authority that is not on the list.

    A session that is taken up again would not be held against the list: there are none. 401 is what
    a SuperNode ends at; nginx's own 400 it would take for a passing fault.
    """
    if proxy.sites_authority is None:
        return ""
    return (
        f'        ssl_client_certificate "{proxy.sites_authority}";\n'
        f'        ssl_crl "{proxy.revoked}";\n'
        "        ssl_verify_client on;\n"
        "        ssl_session_cache off;\n"
        "        ssl_session_tickets off;\n"
        "        error_page 495 496 = @stranger;\n"
        "        location @stranger { return 401; }\n"
    )
