"""The install script, run by a real shell in a folder that stands for the host's root."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from infra import k3s

INSTALLER = b"#!/bin/sh\nenv > \"$RECORD\"\n"
BINARY = b"#!/bin/sh\nexit 0\n"
TOKEN, AGENTS = "the-token-of-the-cluster", "the-token-of-agents"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(**hashes: str) -> k3s.Release:
    return k3s.release(
        "v1.33.1+k3s1",
        "amd64",
        installer_sha256=hashes.get("installer", sha256(INSTALLER)),
        binary_sha256=hashes.get("binary", sha256(BINARY)),
    )


@pytest.fixture
def host(tmp_path):
    """Runs a script as the host would: `curl` serves the two files, `k3s` says it is ready."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "install.sh").write_bytes(INSTALLER)
    (tmp_path / "k3s").write_bytes(BINARY)
    curl = programs / "curl"
    curl.write_text(
        "#!/bin/sh\n"
        'for word; do case "$before" in --output) target=$word;; esac; before=$word; done\n'
        f'cp "{tmp_path}/$(basename "$before")" "$target"\n'
    )
    (programs / "k3s").write_bytes(BINARY)
    for program in programs.iterdir():
        program.chmod(0o755)

    def run(script: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["sh", "-c", script],
            input=f"{TOKEN}\n{AGENTS}",
            text=True,
            capture_output=True,
            env={
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "RECORD": str(tmp_path / "record"),
            },
        )

    return run


def script(root: Path, release: k3s.Release) -> str:
    config = k3s.configuration("server", address="10.61.0.10", site="berlin", join=None)
    return k3s.install_script("server", release, config, bundled=False, root=str(root))


def test_a_server_is_installed_and_the_token_is_for_root_only(host, tmp_path):
    done = host(script(tmp_path, files()))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "usr/local/bin/k3s").read_bytes() == BINARY
    assert os.access(tmp_path / "usr/local/bin/k3s", os.X_OK)
    for name, text in (("hybrid-token", TOKEN), ("hybrid-agent-token", AGENTS)):
        token = tmp_path / "etc/rancher/k3s" / name
        assert token.read_text() == text
        assert token.stat().st_mode & 0o777 == 0o600
    told = (tmp_path / "record").read_text()
    assert "INSTALL_K3S_SKIP_DOWNLOAD=true" in told and "INSTALL_K3S_EXEC=server" in told


def test_the_token_is_neither_printed_nor_passed_on(host, tmp_path):
    done = host(script(tmp_path, files()))
    for told in (done.stdout + done.stderr, (tmp_path / "record").read_text()):
        assert TOKEN not in told and AGENTS not in told


def test_an_agent_gets_one_token_with_which_it_cannot_become_a_server(host, tmp_path):
    text = k3s.configuration("agent", address="10.61.0.20", site="berlin", join="10.61.0.10")
    done = host(k3s.install_script("agent", files(), text, bundled=False, root=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/rancher/k3s/hybrid-token").read_text() == TOKEN
    assert not (tmp_path / "etc/rancher/k3s/hybrid-agent-token").exists()
    assert "agent-token-file" not in yaml.safe_load(text)
    server = k3s.configuration("server", address="10.61.0.10", site="berlin", join=None)
    assert yaml.safe_load(server)["agent-token-file"] == "/etc/rancher/k3s/hybrid-agent-token"


@pytest.mark.parametrize("name", ["installer", "binary"])
def test_a_file_with_another_hash_stops_everything(host, tmp_path, name):
    done = host(script(tmp_path, files(**{name: "0" * 64})))
    assert done.returncode == 1
    assert f"has not the SHA-256 {'0' * 64}: nothing was installed" in done.stderr
    assert not (tmp_path / "record").exists(), "the installer must not run"
    assert not (tmp_path / "usr/local/bin/k3s").exists()
    assert not list((tmp_path / "var/lib/hybrid-k3s").glob("*.part"))


def test_running_it_again_repairs_what_is_there(host, tmp_path):
    assert host(script(tmp_path, files())).returncode == 0
    (tmp_path / "usr/local/bin/k3s").write_text("broken")
    (tmp_path / "programs/curl").write_text("#!/bin/sh\nexit 9\n")
    assert host(script(tmp_path, files())).returncode == 0, "checked files are not fetched again"
    assert (tmp_path / "usr/local/bin/k3s").read_bytes() == BINARY


UNINSTALLER = "usr/local/bin/k3s-uninstall.sh"


def files_of(root: Path) -> list[str]:
    """What is on the host below the folders that k3s uses."""
    every = [path for top in ("usr", "etc", "var") for path in (root / top).rglob("*")]
    return [str(path.relative_to(root)) for path in every if path.is_file()]


def test_an_installation_that_was_cut_off_after_any_line_is_taken_away(host, tmp_path):
    removal = f"#!/bin/sh\nrm -f {tmp_path}/usr/local/bin/k3s {tmp_path}/{UNINSTALLER}\n"
    installer = (
        f"cat > {tmp_path}/{UNINSTALLER} <<'END'\n{removal}END\n"
        f"chmod 0755 {tmp_path}/{UNINSTALLER}\n"
    )
    (tmp_path / "install.sh").write_text(installer)
    release = files(installer=sha256(installer.encode()))
    lines = script(tmp_path, release).splitlines()
    found = set()
    for number in range(len(lines) + 1):
        host("\n".join(lines[:number]))
        found.update(files_of(tmp_path))
        done = host(k3s.uninstall_script("server", release, root=str(tmp_path)))
        assert done.returncode == 0, done.stderr
        assert files_of(tmp_path) == [], f"after line {number}: {lines[number - 1]}"
    assert {UNINSTALLER, "usr/local/bin/k3s", "etc/rancher/k3s/config.yaml"} <= found


def test_a_k3s_that_was_there_already_stays_where_ours_was_refused(host, tmp_path):
    theirs = [tmp_path / "usr/local/bin/k3s", tmp_path / UNINSTALLER]
    theirs[0].parent.mkdir(parents=True)
    for file in theirs:
        file.write_text("#!/bin/sh\nexit 9\n")
        file.chmod(0o755)
    release = files(binary="0" * 64)
    assert host(script(tmp_path, release)).returncode == 1
    done = host(k3s.uninstall_script("server", release, root=str(tmp_path)))
    assert done.returncode == 0 and sorted(files_of(tmp_path)) == sorted(
        str(file.relative_to(tmp_path)) for file in theirs
    )


def test_the_first_of_several_servers_starts_the_cluster_and_others_join():
    def config(role, join, several):
        text = k3s.configuration(
            role, address="10.0.0.2", site="berlin", join=join, high_availability=several
        )
        return yaml.safe_load(text)

    first = config("server", None, True)
    assert first["cluster-init"] is True and "server" not in first
    assert first["secrets-encryption"] is True
    kept = {key: int(seconds) for key, seconds in (a.split("=") for a in first["kube-apiserver-arg"])}
    assert kept.keys() == {f"default-{s}-toleration-seconds" for s in ("not-ready", "unreachable")}
    assert min(kept.values()) > 600, "a link may be lost for ten minutes"
    assert "cluster-init" not in config("server", None, False)
    second = config("server", "10.0.0.1", True)
    assert second["server"] == "https://10.0.0.1:6443" and "cluster-init" not in second
    agent = config("agent", "10.0.0.1", True)
    assert agent["node-label"] == ["hybrid/pool=private", "hybrid/site=berlin"]
    assert "write-kubeconfig-mode" not in agent
    assert agent["kubelet-arg"] == ["provider-id=aws:///berlin/10-0-0-2"]
    # What the cluster autoscaler takes for an id of AWS, and on Google Cloud for three parts.
    name = k3s.configuration("agent", address="Node.Site.Example", site="berlin", join="10.0.0.1")
    (argument,) = yaml.safe_load(name)["kubelet-arg"]
    assert re.fullmatch("provider-id=aws:///[-0-9a-z]+/[-0-9a-z]+", argument)
    assert len(argument.removeprefix("provider-id=")[6:].split("/")) == 3


def test_an_air_gap_bundle_brings_the_images_along():
    release = k3s.release(
        "v1.33.1+k3s1",
        "arm64",
        installer_sha256="1" * 64,
        binary_sha256="2" * 64,
        images_sha256="3" * 64,
    )
    text = k3s.install_script("agent", release, "", bundled=True)
    assert "curl" not in text
    assert "/var/lib/rancher/k3s/agent/images" in text
    assert [file.name for file in release.files] == [
        "install.sh",
        "k3s-arm64",
        "k3s-airgap-images-arm64.tar.zst",
    ]


def test_users_other_than_root_use_sudo_unasked():
    assert k3s.as_root("echo 'it works'", "root") == "sh -c 'echo '\"'\"'it works'\"'\"''"
    assert k3s.as_root("true", "hybrid").startswith("sudo -n sh -c ")


def test_the_kubeconfig_leads_to_the_server():
    text = "server: https://127.0.0.1:6443"
    assert k3s.reachable(text, "10.61.0.10") == "server: https://10.61.0.10:6443"
