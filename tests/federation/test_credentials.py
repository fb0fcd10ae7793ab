from __future__ import annotations

import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation import credentials
from federation.credentials import issue
from federation.errors import FederationError


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(certificate: Path) -> set[str]:
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    alternatives = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in alternatives}


def shake_hands(files: credentials.Credentials, host: str) -> None:
    """A TLS handshake in memory between a client and the SuperLink's certificate."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.server_certificate, files.server_key)
    client = ssl.create_default_context(cafile=str(files.authority))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(4):
        for side in {near, far} - done:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == {near, far}


def test_only_the_owner_may_read_anything(tmp_path: Path) -> None:
    issue(tmp_path / "credentials", ["north"])
    for path in (tmp_path / "credentials").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_repeating_changes_nothing_and_a_new_site_only_adds(tmp_path: Path) -> None:
    issue(tmp_path, ["north"])
    before = contents(tmp_path)
    issue(tmp_path, ["north"])
    assert contents(tmp_path) == before
    issue(tmp_path, ["north", "south"])
    after = contents(tmp_path)
    assert (before | {"register.json": after["register.json"]}).items() <= after.items()
    names = ("client.crt", "client.key", "gateway.crt", "gateway.key", "node.key", "node.pub",
             "superexec.secret")  # fmt: skip
    assert sorted(after.keys() - before.keys()) == [f"sites/south/{name}" for name in names]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "link.example.com", "10.0.0.7"])
def test_clients_that_trust_the_authority_accept_the_server(tmp_path: Path, host: str) -> None:
    shake_hands(issue(tmp_path, [], names=["link.example.com", "10.0.0.7"]), host)


def test_another_name_is_not_accepted(tmp_path: Path) -> None:
    files = issue(tmp_path, [])
    with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere.example.com"):
        shake_hands(files, "elsewhere.example.com")


def test_new_names_renew_the_server_certificate_under_the_same_authority(tmp_path: Path) -> None:
    files = issue(tmp_path, [])
    authority = files.authority.read_bytes()
    issue(tmp_path, [], names=["link.example.com"])
    assert names(files.server_certificate) == {"127.0.0.1", "localhost", "link.example.com"}
    assert files.authority.read_bytes() == authority
    shake_hands(files, "link.example.com")


def test_an_ending_certificate_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(credentials, "SERVER_LIFETIME", datetime.timedelta(days=29))
        files = issue(tmp_path, ["north"])
    ending = files.server_certificate.read_bytes()
    site_key = files.sites["north"].private_key.read_bytes()
    issue(tmp_path, ["north"])
    assert files.server_certificate.read_bytes() != ending
    assert files.sites["north"].private_key.read_bytes() == site_key
    shake_hands(files, "localhost")


def test_an_ended_authority_takes_its_server_certificate_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(credentials, "AUTHORITY_LIFETIME", datetime.timedelta(hours=-0.5))
        files = issue(tmp_path, [])
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(files, "localhost")
    issue(tmp_path, [])
    shake_hands(files, "localhost")


def test_node_keys_differ_and_match_their_public_half(tmp_path: Path) -> None:
    files = issue(tmp_path, ["north", "south"])
    public = set()
    for site in files.sites.values():
        private = serialization.load_ssh_private_key(site.private_key.read_bytes(), None)
        assert isinstance(private.curve, ec.SECP384R1)
        loaded = serialization.load_ssh_public_key(site.public_key.read_bytes())
        signature = private.sign(b"hello", ec.ECDSA(hashes.SHA256()))
        loaded.verify(signature, b"hello", ec.ECDSA(hashes.SHA256()))
        public.add(site.public_key.read_bytes())
    assert len(public) == 2


@pytest.mark.parametrize("site", ["", "../north", "North", "north site", "-north", "n" * 64])
def test_an_unusable_site_name_is_named(tmp_path: Path, site: str) -> None:
    with pytest.raises(FederationError) as caught:
        issue(tmp_path, [site])
    assert repr(site) in str(caught.value)


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "sites/north/node.key"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    issue(tmp_path, ["north"])
    (tmp_path / name).write_text("not a key")
    with pytest.raises(FederationError, match="damaged: delete it") as caught:
        issue(tmp_path, ["north"])
    assert str(tmp_path / name) in str(caught.value)
