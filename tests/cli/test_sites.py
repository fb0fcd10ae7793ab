"""`hybrid site` where no server runs; tests/federation/test_sites.py has the servers."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from cli.enrolment import ROTATED, note_enrolment
from cli.environment import Environment
from cli.local import LocalServers
from federation import deployment
from federation.credentials import issue, locate, revoke
from federation.errors import FederationError
from federation.site import site_commands
from federation.site_package import write_package
from tests.cli.ended import ends


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def environment(home: Path) -> Environment:
    return Environment.load("local", home)


def test_a_package_holds_what_a_site_needs_and_nobody_elses_secrets(tmp_path: Path) -> None:
    folder, package = tmp_path / "federation", tmp_path / "north.tar.gz"
    issue(deployment.credentials_folder(folder), ["north", "south"])
    write_package(folder, "north", package, proxy="proxy.example.com:8443")
    assert stat.S_IMODE(package.stat().st_mode) == 0o600
    with tarfile.open(package) as archive:
        assert {member.mode for member in archive} == {0o600}
        archive.extractall(tmp_path / "site", filter="data")
    there = tmp_path / "site"
    keys = locate(there / "credentials", ["north"])
    assert all(path.exists() for path in [keys.authority, *vars(keys.sites["north"]).values()])
    assert not list(there.rglob("*south*")) and not list(there.rglob("ca.key"))
    assert "/etc/hybrid/north --data" in (there / "hybrid-site.service").read_text()
    gateway, node, apps = [argv for argv, _ in site_commands(there, tmp_path)]
    assert gateway[gateway.index("--proxy") + 1] == "proxy.example.com:8443"
    assert node[node.index("--superlink") + 1] == f"127.0.0.1:{gateway[gateway.index('--port') + 1]}"
    assert node[node.index("--root-certificates") + 1] == str(
        keys.sites["north"].gateway_certificate
    )
    assert apps[apps.index("federation.executor") + 1] == "clientapp"


def test_what_a_site_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="holds no usable site.json"):
        site_commands(tmp_path, tmp_path)
    (tmp_path / "site.json").write_text(
        json.dumps({"site": "n", "proxy": "x:1", "gateway_port": 1, "runtime_port": 2})
    )
    with pytest.raises(FederationError, match="nothing does not exist: name the folder"):
        site_commands(tmp_path, tmp_path / "nothing")
    with pytest.raises(FederationError, match="'north' has no .* here: hybrid site rotate"):
        write_package(tmp_path, "north", tmp_path / "x.tar.gz", proxy="x:1")


def test_a_removed_site_is_not_started_again(environment: Environment) -> None:
    issue(deployment.credentials_folder(environment.federation), ["site-berlin", "site-lyon"])
    revoke(deployment.credentials_folder(environment.federation), "site-lyon")
    names = [part.name for part in LocalServers(environment).site_nodes]
    assert "site-berlin-node" in names and "site-lyon-node" not in names
    assert not (environment.federation / "credentials/sites/site-lyon").exists()


def test_keys_are_recorded_once_until_they_change(environment: Environment) -> None:
    folder = deployment.credentials_folder(environment.federation)
    for _ in range(2):
        issue(folder, ["north"])
        note_enrolment(environment, "north")
    revoke(folder, "north")
    issue(folder, ["north"])
    note_enrolment(environment, "north", ROTATED)
    added, rotated = environment.audit_log().records()
    assert (added["event"], rotated["event"]) == ("site added", "site rotated")
    assert added["certificate"] != rotated["certificate"] and added["key"] != rotated["key"]
    assert locate(folder).register.revoked().keys() == {int(added["certificate"], 16)}


def test_audit_shows_checks_and_names_the_broken_record(environment, capsys):
    log = environment.audit_log()
    for number in range(3):
        log.append("round", run="federate-1", round=number)
    code, text, _ = ends(capsys, "site", "audit")
    assert code == 0 and "federate-1" in text
    assert len(json.loads(ends(capsys, "site", "audit", "--json")[1])) == 3
    code, text, _ = ends(capsys, "site", "audit", "--verify")
    assert code == 0 and "All 3 records hold" in text
    assert ends(capsys, "site", "audit", "--verify", "--noted", "0123")[0] == 1
    assert ends(capsys, "site", "audit", "--noted", "0123")[0] == 2
    log.path.write_text(log.path.read_text().replace('"round":1', '"round":7'))
    code, text, _ = ends(capsys, "site", "audit", "--verify")
    assert code == 1 and "broken: Record 2 was changed" in text
    assert json.loads(ends(capsys, "site", "audit", "--verify", "--json")[1])["records"] == 1


@pytest.mark.parametrize("proxy", ["example.com", ":1", "x:0", "x:65536", "x:y"])
def test_a_proxy_address_is_checked(home, capsys, proxy):
    code, _, error = ends(capsys, "site", "add", "north", "--proxy", proxy)
    assert code == 2 and repr(proxy) in error and "HOST:PORT" in error


def test_without_servers_each_command_ends_with_a_sentence(environment, home, capsys):
    code, _, error = ends(capsys, "site", "add", "north")
    assert code == 1 and "issue the federation's credentials first" in error
    code, _, error = ends(capsys, "site", "remove", "North/")
    assert code == 1 and "Site name 'North/' is not usable" in error
    issue(deployment.credentials_folder(environment.federation), ["north"])
    code, _, error = ends(capsys, "site", "rotate", "south")
    assert code == 1 and "no site 'south': it has north" in error
    assert not list(home.glob("*.tar.gz"))
