"""Sites before a real SuperLink behind a real proxy: what they reach, and when they no longer do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from flwr.app import RecordDict
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from cli.fleet_proxy import proxy_command
from cli.nginx import nginx_program, reload_nginx
from federation import credentials, deployment
from federation.credentials import Credentials, SiteCredentials, issue, locate
from federation.enrolment import (
    Enrolled,
    add_site,
    identity,
    list_sites,
    remove_site,
    rotate_site,
)
from federation.errors import FederationError
from federation.parcel import MOST_BYTES, packed
from federation.protocol import write_model
from federation.site import site_commands
from federation.site_package import write_package
from infra.fleet_proxy import MOST_REQUEST_BYTES
from tests.federation.servers import Servers, free_port, until

pytestmark = pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed")

FLEET = "/v1/fleet/pull-messages"
CONTROL = "/v1/control/list-nodes"
RUNTIME = "/v1/runtime/acquire-task"


@dataclass
class Federation(Servers):
    """A SuperLink that sites reach through the proxy only."""

    proxy_port: int = 0

    @property
    def proxy(self) -> str:
        return f"127.0.0.1:{self.proxy_port}"

    def files(self, *sites: str) -> Credentials:
        return locate(deployment.credentials_folder(self.folder), sites)

    def reload(self) -> None:
        reload_nginx(self.processes["proxy"].pid, "fleet")

    def connect(self, site: str | SiteCredentials | None) -> http.client.HTTPSConnection:
        """A connection to the proxy with a site's certificate, or with none."""
        context = ssl.create_default_context(cafile=str(self.authority))
        files = self.files(site).sites[site] if isinstance(site, str) else site
        if files is not None:
            context.load_cert_chain(files.client_certificate, files.client_key)
        return http.client.HTTPSConnection(
            "127.0.0.1", self.proxy_port, context=context, timeout=30
        )

    def logs(self, told: str) -> None:
        """The proxy logs this, which it does after it has answered."""
        until(lambda: told in self.log("proxy"), f"the proxy's log to say {told!r}")

    def asks(self, site: str | None, path: str, method: str = "POST") -> int:
        """Status of one call of a site; 0 where the connection is refused."""
        with contextlib.closing(self.connect(site)) as connection:
            return answer(connection, path, method)


def answer(connection: http.client.HTTPSConnection, path: str, method: str = "POST") -> int:
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
    except (ssl.SSLError, OSError, http.client.HTTPException):
        return 0
    return response.status


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    up = Federation(tmp_path_factory.mktemp("federation"), {}, proxy_port=free_port())
    try:
        issue(deployment.credentials_folder(up.folder), [])
        up.start("superlink", deployment.superlink_command(up.folder, port=up.port))
        command = proxy_command(
            nginx_program(), up.folder / "proxy", up.files(),
            host="127.0.0.1", port=up.proxy_port, superlink=up.port,
        )  # fmt: skip
        up.start("proxy", (command, {}))
        up.await_superlink()
        for site in ("north", "south"):
            add_site(up.folder, site, address=up.address)
        up.reload()
        yield up
    finally:
        up.stop()


def test_a_site_reaches_the_fleet_api_and_nothing_else(federation: Federation) -> None:
    direct = http.client.HTTPSConnection(
        "127.0.0.1", federation.port,
        context=ssl.create_default_context(cafile=str(federation.authority)),
    )  # fmt: skip
    # The SuperLink itself would look at the Control call; it refuses the body, not the caller.
    assert answer(direct, CONTROL) not in (0, 401, 403, 404)
    assert federation.asks("north", "/health", "GET") == 200
    assert federation.asks("north", FLEET) == answer(direct, FLEET) != 403
    for path in (CONTROL, RUNTIME, "/", "/v1/fleet/../control/list-nodes", "/docs",
                 "/v1/fleet/%2e%2e/control/list-nodes", "//v1/control/list-nodes"):  # fmt: skip
        assert federation.asks("north", path) == 403, path
    federation.logs(f"refused POST {CONTROL} of 127.0.0.1, certificate CN=north")


def test_a_huge_request_ends_at_the_proxy_and_the_largest_part_of_a_message_does_not(
    federation: Federation,
) -> None:
    def status(path: str, body: bytes | Iterator[bytes], length: int | None = None) -> int:
        headers = {} if length is None else {"Content-Length": str(length)}
        with contextlib.closing(federation.connect("north")) as connection:
            connection.request("POST", path, body, headers)
            return connection.getresponse().status

    path = "/v1/fleet/push-object"
    # What is announced is refused before any of it is sent, what is not is cut off.
    assert status(path, b"", MOST_REQUEST_BYTES + 1) == 413
    assert status(path, (bytes(1 << 20) for _ in range(1 + (MOST_REQUEST_BYTES >> 20)))) == 413
    federation.logs(f"refused POST {path} of 127.0.0.1, certificate CN=north: SUCCESS, status 413")
    for size in (MOST_BYTES, 3 * MOST_BYTES):
        # As a parcel, and in Flower's pieces: of a message that nobody may send, but not as too large.
        content = RecordDict({"delta": write_model({"bytes": bytes(size)})})
        parts = [each.deflate() for each in get_all_nested_objects(packed(content)).values()]
        largest = PushObjectRequest(object_content=max(parts, key=len)).SerializeToString()
        assert len(largest) > 5_000_000
        assert status(path, largest) == status(path, b"") != 413


def test_without_a_certificate_of_the_federation_nothing_passes(
    federation: Federation, tmp_path: Path
) -> None:
    assert federation.asks(None, FLEET) in (0, 401)
    assert federation.asks(None, "/health", "GET") in (0, 401)
    strange = issue(tmp_path, ["north"]).sites["north"]
    assert answer(federation.connect(strange), FLEET) in (0, 401)


def test_an_expired_certificate_is_refused_and_named_in_the_log(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(credentials, "CLIENT_LIFETIME", timedelta(minutes=-1))
        issue(deployment.credentials_folder(federation.folder), ["late"])
    assert federation.asks("late", FLEET) in (0, 401)
    federation.logs("CN=late: FAILED:certificate has expired, status 401")
    # Issuing again is enough: the site was not cut off.
    issue(deployment.credentials_folder(federation.folder), ["late"])
    assert federation.asks("late", "/health", "GET") == 200


def test_rotation_cuts_off_the_old_keys_also_on_an_open_connection(
    federation: Federation,
) -> None:
    before = identity(federation.folder, "south")
    opened = federation.connect("south")
    assert answer(opened, "/health", "GET") == 200
    after = rotate_site(
        federation.folder, "south", address=federation.address, reload=federation.reload
    )
    assert before["certificate"] != after["certificate"] and before["key"] != after["key"]
    opened.auto_open = False  # the connection as it stands, not a new one
    assert answer(opened, "/health", "GET") in (0, 401)
    assert federation.asks("south", "/health", "GET") == 200
    assert federation.asks("north", "/health", "GET") == 200


def start_site(federation: Federation, site: str, there: Path) -> subprocess.Popen[bytes]:
    """Unpack a site's package as on a machine of its own; start its gateway and its SuperNode."""
    package = there.with_suffix(".tar.gz")
    write_package(federation.folder, site, package, proxy=federation.proxy)
    with tarfile.open(package) as archive:
        archive.extractall(there, filter="data")
    settings = json.loads((there / "site.json").read_text())
    settings |= {"gateway_port": free_port(), "runtime_port": free_port()}
    (there / "site.json").write_text(json.dumps(settings))
    gateway, node, _ = site_commands(there, there)
    federation.start(f"gateway-{site}", gateway)
    federation.start(f"supernode-{site}", node)
    return federation.processes[f"supernode-{site}"]


def test_a_removed_site_ends_and_stays_out(federation: Federation, tmp_path: Path) -> None:
    """A SuperNode through its gateway: it joins, and its next call after the removal is refused."""

    def status(site: str) -> str:
        found = list_sites(federation.folder, address=federation.address)
        return next(each.status for each in found if each.name == site)

    add_site(federation.folder, "west", address=federation.address)
    assert status("west") == "registered"
    there = tmp_path / "west"
    node = start_site(federation, "west", there)
    until(lambda: status("west") == "online", "the SuperNode")
    opened = federation.connect("west")
    assert answer(opened, "/health", "GET") == 200

    remove_site(federation.folder, "west", address=federation.address, reload=federation.reload)
    assert status("west") == "removed"
    opened.auto_open = False
    assert answer(opened, "/health", "GET") in (0, 401)
    node.wait(120)  # it ends by itself
    # The keys that the site still has open nothing.
    kept = locate(there / "credentials", ["west"]).sites["west"]
    assert answer(federation.connect(kept), FLEET) in (0, 401)
    federation.logs("CN=west: FAILED:certificate revoked, status 401")
    remove_site(federation.folder, "west", address=federation.address, reload=federation.reload)


def test_list_names_status_certificate_and_last_sight(federation: Federation) -> None:
    def look(address: str) -> Enrolled:
        found = list_sites(federation.folder, address=address)
        return next(each for each in found if each.name == "north")

    north = look(federation.address)
    assert (north.status, north.seen) == ("registered", "")
    assert north.certificate_ends[:4].isdigit()
    assert look("127.0.0.1:1").status == "unknown"


def test_what_cannot_be_done_is_a_sentence(federation: Federation) -> None:
    with pytest.raises(FederationError, match="already: hybrid site rotate"):
        add_site(federation.folder, "north", address=federation.address)
    for work in (remove_site, rotate_site):
        with pytest.raises(FederationError, match="no site 'nowhere': it has .*north, south"):
            work(federation.folder, "nowhere", address=federation.address, reload=lambda: None)


def test_nobody_else_may_read_the_keys(federation: Federation) -> None:
    for path in deployment.credentials_folder(federation.folder).rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert os.stat(federation.folder / "proxy" / "nginx.conf").st_mode & 0o077 == 0
