"""`hybrid edge`: real bundles on stand-ins of a site's hosts, each a folder with a loopback address."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from moto import mock_aws

from cli.environment import Environment
from handlers.bundle import build_bundle
from stacks.settings import SHIPPED
from tests.cli.ended import ends
from tests.handlers.small_models import small_recommender

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
# Does a remote command here, as root of the folder of the host that it is for.
SSH = """\
#!/bin/sh
for each; do host=${last#*@}; last=$each; done
[ ! -e FOLDER/$host/unplugged ] || { echo "ssh: no route to $host" >&2; exit 255; }
export ROOT=FOLDER/$host PATH=FOLDER/programs:$PATH LOOPBACK=127.0.1.${host##*.}
[ ! -e $ROOT/broken ] || export HYBRID_EDGE_SECONDS=1
exec sh -c "$last"
"""
# Python's part: a venv without a download, and a server at the host's own address.
PYTHON = """\
#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
"-m pip") echo "$*" >>$ROOT/pip ;;
"- "*) shift; sed "s/127.0.0.1/$LOOPBACK/" | REAL - "$@" ;;
*"/bundle.pyz "*) [ ! -e $ROOT/broken ] && exec REAL "$@" --host $LOOPBACK ;;
*) exec REAL "$@" ;;
esac
"""
SYSTEMCTL = """\
#!/bin/sh
unit=$ROOT/etc/systemd/system/hybrid-edge.service
stop() {
    [ -e $ROOT/pid ] || return 0
    pid=$(cat $ROOT/pid)
    kill $pid 2>/dev/null
    # As systemd, it waits for the end; a process that has ended has no arguments any more.
    while grep -q . /proc/$pid/cmdline 2>/dev/null; do sleep 0.01; done
    rm -f $ROOT/pid
}
case $1 in
restart)
    stop
    file=$(sed -n 's/^EnvironmentFile=//p' $unit)
    start="$(sed -n 's/^ExecStart=\\(.*\\) $OPTIONS$/\\1/p' $unit) $(sed 's/^OPTIONS=//' $file)"
    setsid $start >$ROOT/log 2>&1 </dev/null &
    echo $! >$ROOT/pid
    ;;
disable) stop ;;
esac
"""
NOTHING = "#!/bin/sh\nexit 0\n"


@dataclass
class Host:
    """A stand-in: the files of one host, and where its server listens."""

    root: Path
    loopback: str

    @property
    def folder(self) -> Path:
        return self.root / "opt" / "hybrid-edge"

    def answered_by(self, port: int) -> str | None:
        """The model that answers there; None where nobody does."""
        try:
            answer = httpx.post(
                f"http://{self.loopback}:{port}/predictions/recommend", json={"history": []}
            )
        except httpx.TransportError:
            return None
        return answer.json()["model"]

    def releases(self) -> set[str]:
        names = {path.name for path in self.folder.iterdir() if not path.is_symlink()}
        return names - {"incoming"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of two models by digest, unsigned."""
    folder = tmp_path_factory.mktemp("bundles")
    artifact = small_recommender(folder / "artifact")
    return {d: build_bundle(artifact, d, folder / f"{d[7]}.pyz") for d in (OLD, NEW)}


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Host]]:
    """The two hosts of site-berlin of the environment `shop`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {
        "ssh": SSH, "sudo": '#!/bin/sh\nshift; exec "$@"\n', "python3": PYTHON, "systemctl": SYSTEMCTL,
        "journalctl": NOTHING, "id": NOTHING, "chown": NOTHING, "userdel": NOTHING,
    }.items():  # fmt: skip
        (programs / name).write_text(
            text.replace("FOLDER", str(tmp_path)).replace("REAL", sys.executable)
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    settings = yaml.safe_load((SHIPPED / "production.yaml").read_text())
    site = settings["sites"][0]
    site["hosts"] = [site["hosts"][0], site["hosts"][-1]]
    settings["sites"][1].pop("hosts")
    file = tmp_path / "home" / "environments" / "shop.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(settings))
    addresses = [host["address"] for host in site["hosts"]]
    made = [Host(tmp_path / a, f"127.0.1.{a.rpartition('.')[2]}") for a in addresses]
    for host in made:
        host.root.mkdir()
    yield made
    for host in made:
        if (host.root / "pid").exists():
            os.kill(int((host.root / "pid").read_text()), signal.SIGTERM)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def signed(bundle: Path, folder: Path) -> Path:
    """The same bundle, signed by the environment's key."""
    keys = Environment.load("shop", folder / "home").signing_keys()
    target = folder / bundle.name
    shutil.copyfile(bundle, target)
    with zipfile.ZipFile(target, "a") as content:
        content.writestr("manifest.sig", keys.sign_document(content.read("manifest.json")))
    return target


def edge(capsys, *arguments: str) -> tuple[int, str, str]:
    return ends(capsys, "edge", *arguments, "--site", "site-berlin", "--environment", "shop")


def told(capsys) -> list[tuple[str | None, str | None, bool]]:
    code, out, error = edge(capsys, "status", "--json")
    assert code == 0, error
    return [(row["model"], row["previous"], row["answers"]) for row in json.loads(out)]


def test_bundles_are_brought_served_put_back_and_taken_away(
    hosts, bundles, port, tmp_path, capsys
) -> None:
    for model in (OLD, NEW):
        code, out, error = edge(
            capsys, "install", str(signed(bundles[model], tmp_path)), "--port", str(port)
        )
        assert code == 0, error
        assert out.startswith(f"Model {model} answers on the hosts of site-berlin")
        assert [host.answered_by(port) for host in hosts] == [model, model]
    assert told(capsys) == [(NEW, OLD, True)] * 2
    for host in hosts:
        assert len(host.releases()) == 2
        assert "--requirement" in (host.root / "pip").read_text()
        unit = (host.root / "etc/systemd/system/hybrid-edge.service").read_text()
        assert "User=hybrid-edge" in unit and "NoNewPrivileges=yes" in unit
        # The ledger's folder is the one that the server may write to.
        (options,) = host.folder.glob("current/options")
        assert "StateDirectory=hybrid-edge/told\n" in unit
        assert "/var/lib/hybrid-edge/told/ledger.sqlite" in options.read_text()
    code, out, error = edge(capsys, "rollback", "--json")
    assert code == 0, error
    assert {(row["model"], row["previous"]) for row in json.loads(out)} == {(OLD, NEW)}
    assert [host.answered_by(port) for host in hosts] == [OLD, OLD]
    assert edge(capsys, "remove")[0] == 0
    assert told(capsys) == [(None, None, False)] * 2
    for host in hosts:
        assert host.answered_by(port) is None
        assert not host.folder.exists() and not list(host.root.rglob("*.service"))
    code, _, error = edge(capsys, "rollback")
    assert code == 1 and "there is no bundle before" in error


def test_where_one_host_fails_all_serve_what_they_had(
    hosts, bundles, port, tmp_path, capsys
) -> None:
    assert edge(capsys, "install", str(signed(bundles[OLD], tmp_path)), "--port", str(port))[0] == 0
    new = str(signed(bundles[NEW], tmp_path))
    (hosts[1].root / "broken").touch()
    code, _, error = edge(capsys, "install", new, "--port", str(port))
    assert code == 1
    assert f"{hosts[1].root.name} could not serve the bundle: it did not answer within 1 s" in error
    assert f"{hosts[0].root.name} serves again what it did." in error
    (hosts[1].root / "broken").unlink()
    assert hosts[0].answered_by(port) == OLD
    assert told(capsys)[1][0] == OLD
    # Mended, the same command does it.
    assert edge(capsys, "install", new, "--port", str(port))[0] == 0
    assert [host.answered_by(port) for host in hosts] == [NEW, NEW]


def test_what_arrives_otherwise_than_it_was_sent_is_not_installed(
    hosts, bundles, port, tmp_path, capsys
) -> None:
    ssh = tmp_path / "programs" / "ssh"
    ssh.write_text(ssh.read_text().replace("exec sh", "head -c 1000 | exec sh"))
    file = signed(bundles[OLD], tmp_path)
    code, _, error = edge(capsys, "install", str(file), "--port", str(port))
    assert code == 1 and "has not the SHA-256" in error and "nothing was installed" in error
    assert not hosts[0].releases() and not list((hosts[0].folder / "incoming").iterdir())
    assert not hosts[1].folder.exists()


def test_only_whole_bundles_that_a_trusted_key_signed_are_sent(
    hosts, bundles, tmp_path, capsys
) -> None:
    code, _, error = edge(capsys, "install", str(bundles[OLD]))
    assert code == 1 and "is signed by no key that shop trusts" in error
    (tmp_path / "other.pyz").write_text("no zip")
    code, _, error = edge(capsys, "install", str(tmp_path / "other.pyz"))
    assert code == 1 and "is no edge bundle" in error
    assert not any(host.folder.exists() for host in hosts)


@pytest.fixture
def sent(hosts, bundles, port, tmp_path, capsys) -> None:
    """Both hosts were sent a bundle; it is on them, and serves on neither."""
    for host in hosts:
        (host.root / "broken").touch()
    file = str(signed(bundles[OLD], tmp_path))
    code, _, error = edge(capsys, "install", file, "--port", str(port))
    assert code == 1 and "could not serve the bundle" in error
    assert all(host.releases() for host in hosts)


@pytest.fixture
def down(capsys, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`hybrid down shop`, of which nothing stands but bundles, under credentials of its account."""
    monkeypatch.setenv("MOTO_ACCOUNT_ID", "111122223333")
    with mock_aws():
        yield lambda *arguments: ends(capsys, "down", "shop", "--yes", *arguments)


def test_down_takes_bundles_away_wherever_they_were_sent(hosts, sent, tmp_path, down) -> None:
    settings = tmp_path / "home" / "environments" / "shop.yaml"
    fewer = yaml.safe_load(settings.read_text())
    fewer["sites"][0]["hosts"].pop()  # still known where the bundle went
    settings.write_text(yaml.safe_dump(fewer))
    code, out, error = down()
    assert code == 0, error
    assert f"taken away from: {hosts[0].root.name}, {hosts[1].root.name}." in out
    for host in hosts:
        assert not host.folder.exists() and not list(host.root.rglob("*.service"))
    assert "Nothing to end: shop is down." in down()[1]


def test_down_is_refused_while_a_host_keeps_its_bundle_unless_it_may(hosts, sent, down) -> None:
    away = hosts[1].root / "unplugged"
    away.touch()
    code, _, error = down()
    assert code == 1
    assert f"{away.parent.name} could not remove the bundle: ssh: no route" in error
    assert f"It was sent model {OLD} (site site-berlin)." in error
    assert "hybrid down shop --leave-bundles" in error
    assert not hosts[0].folder.exists() and hosts[1].releases()
    code, out, _ = down("--leave-bundles")
    assert code == 0 and f"may be left on: {away.parent.name}. Take them away with hybrid edge" in out
    # It is not forgotten.
    away.unlink()
    assert down()[0] == 0
    assert not hosts[1].folder.exists()


def test_a_site_without_hosts_is_told(hosts, bundles, capsys) -> None:
    file = str(bundles[OLD])
    code, _, error = ends(
        capsys, "edge", "install", file, "--site", "site-lyon", "--environment", "shop"
    )
    assert code == 2 and "site-lyon of shop has no hosts" in error and "sites.1.hosts" in error
    code, _, error = ends(
        capsys, "edge", "install", file, "--site", "site-rome", "--environment", "shop"
    )
    assert code == 2 and "no site 'site-rome'" in error


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_script_of_the_hosts_is_sound() -> None:
    script = Path(__file__).parents[2] / "infra" / "edge_end.sh"
    done = subprocess.run(["shellcheck", "-s", "sh", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
