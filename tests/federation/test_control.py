from __future__ import annotations

import datetime
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.certificates import alternatives, leaf, read_key, write_pair
from federation.control import ControlClient, SuperLinkUnreachable
from federation.credentials import Credentials, issue


@pytest.fixture
def expired(tmp_path: Path) -> Iterator[tuple[str, Credentials]]:
    """Address of a server whose certificate ran out a second ago, and the credentials."""
    files = issue(tmp_path / "credentials", ["north"])
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    certificate, key = leaf(
        "server", ExtendedKeyUsageOID.SERVER_AUTH, authority, read_key(files.authority_key),
        datetime.timedelta(seconds=-1), alternatives(["127.0.0.1"]),
    )  # fmt: skip
    write_pair(tmp_path / "old.crt", tmp_path / "old.key", certificate, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "old.crt", tmp_path / "old.key")
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield f"127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()


def test_a_certificate_that_ran_out_is_named_with_what_mends_it(
    expired: tuple[str, Credentials],
) -> None:
    address, files = expired
    sentence = f"The certificate of the SuperLink at {address} has expired: issue .*goes on"
    with ControlClient(address, files.authority) as control:
        with pytest.raises(SuperLinkUnreachable, match=sentence):
            control.sites()
