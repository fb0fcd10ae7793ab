"""What `local` runs as its Kubernetes API: credentials, ports, and which of the two it is."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from cli.environment import Environment
from cli.errors import CommandError
from cli.kubernetes import kubernetes_parts
from infra.offline import kubernetes_server
from stacks.settings import SHIPPED, load_settings


@pytest.fixture
def local(tmp_path: Path) -> Environment:
    return Environment("local", load_settings("local", [SHIPPED]), tmp_path / "local")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with files in the place of the programs."""
    folder = tmp_path / "cache" / "hybrid" / "kubernetes" / "bin"
    folder.mkdir(parents=True)
    for name in kubernetes_server.PROGRAMS:
        (folder / name).touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def wanting(environment: Environment, kubernetes: str) -> Environment:
    settings = environment.settings.model_copy(update={"kubernetes": kubernetes})
    return replace(environment, settings=settings)


def test_credentials_are_ours_alone_and_the_authority_can_sign_no_more(tmp_path):
    file = kubernetes_server.prepare(tmp_path / "kubernetes", 18630)
    files = {each.name: each for each in file.parent.iterdir()}
    assert {stat.S_IMODE(each.stat().st_mode) for each in files.values()} == {0o600}
    assert "ca.key" not in files
    certificate = x509.load_pem_x509_certificate(files["client.crt"].read_bytes())
    assert "O=system:masters" in certificate.subject.rfc4514_string()
    (cluster,) = yaml.safe_load(file.read_text())["clusters"]
    assert cluster["cluster"]["server"] == "https://127.0.0.1:18630"


def test_what_is_valid_stays_and_another_port_or_a_broken_file_renews_all_but_the_signing_key(
    tmp_path,
):
    file = kubernetes_server.prepare(tmp_path, 18630)
    before = {name: (tmp_path / name).read_bytes() for name in ("kubeconfig", "accounts.key")}
    kubernetes_server.prepare(tmp_path, 18630)
    assert file.read_bytes() == before["kubeconfig"]
    for renew in (lambda: file.write_text("kind: nothing\n"), lambda: None):
        renew()
        kubernetes_server.prepare(tmp_path, 18700)
        assert file.read_bytes() != before["kubeconfig"]
        assert (tmp_path / "accounts.key").read_bytes() == before["accounts.key"]


def test_everything_listens_on_this_machine_and_asks_for_a_certificate(tmp_path):
    programs = {name: Path(name) for name in kubernetes_server.PROGRAMS}
    etcd, api, controllers = kubernetes_server.commands(programs, tmp_path, 18630)
    assert (etcd.ports, api.ports, controllers.ports) == ((18631, 18632), (18630,), ())
    for program in (etcd, api):
        addresses = [word for word in program.command if "://" in word]
        assert all("https://127.0.0.1:" in word for word in addresses)
    assert {"--client-cert-auth", "--peer-client-cert-auth"} <= set(etcd.command)
    assert {"--anonymous-auth=false", "--bind-address=127.0.0.1"} <= set(api.command)
    assert "--secure-port=0" in controllers.command


def test_a_real_api_that_is_not_built_is_told_how_to_build(local, built):
    (built / "etcd").unlink()
    with pytest.raises(CommandError, match="run make kubernetes, or set kubernetes: recorded"):
        kubernetes_parts(wanting(local, "real"))
    assert [part.name for part in kubernetes_parts(local)] == ["kubernetes"]


def test_each_has_its_servers_and_the_same_place_for_its_kubeconfig(local, built):
    real = kubernetes_parts(wanting(local, "real"))
    assert [part.name for part in real] == ["etcd", "kubernetes", "controllers"]
    assert real[0].ports == {"ports.kubernetes (+1)": 18631, "ports.kubernetes (+2)": 18632}
    file = local.folder / "kubernetes" / "kubeconfig"
    assert "https://127.0.0.1:18630" in file.read_text()
    (recorded,) = kubernetes_parts(local)
    assert recorded.ports == {"ports.kubernetes": 18630}
    assert "http://127.0.0.1:18630" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
