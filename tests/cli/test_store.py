"""hybrid store, and each way on which bytes could leave the site: what is private goes on none."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from cli.environment import Environment
from cli.federation import federate
from cli.learning import environment_store
from model_store.factory import open_store
from model_store.residency import ResidencyError
from model_store.signing import Keyring
from tests.cli.ended import ends

PROJECT = Path(__file__).resolve().parents[2]
EVENTS = "user,item,time\n" + "".join(
    f"u{u},i{(u + n) % 7},{8 * n + u}\n" for u in range(8) for n in range(9)
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Events in a folder that is labelled private."""
    folder = tmp_path / "vault" / "shop"
    folder.mkdir(parents=True)
    (folder / "events.csv").write_text(EVENTS)
    (tmp_path / "vault" / ".residency").touch()
    return folder


def test_sync_copies_and_tells_conflicts(home, tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "a").write_text("a")
    code, text, error = ends(capsys, "store", "sync", str(here), str(there))
    assert (code, text) == (0, "Objects: 1 copied (0.0 MB), 0 the same already.\n")
    assert error == "sync: 0.0 of 0.0 MB\n"
    (there / "a").write_text("theirs")
    (here / "b").write_text("b")
    code, text, error = ends(capsys, "store", "sync", str(here), str(there), "--json")
    assert code == 1 and json.loads(text)["copied"] == ["b"]
    assert json.loads(text)["conflicts"] == ["a"] and "--overwrite" in error
    assert (there / "a").read_text() == "theirs"


def test_list_shows_what_is_private(home, private, capsys):
    code, text, _ = ends(capsys, "store", "list", str(private), "--json")
    (found,) = json.loads(text)
    assert code == 0
    assert (found["key"], found["size"], found["private"]) == ("events.csv", len(EVENTS), True)
    assert "private" in ends(capsys, "store", "list", str(private.parent))[1]


@pytest.mark.parametrize("address", ["ftp://x", "onprem://data"])
def test_an_address_that_means_nothing_is_a_sentence(home, tmp_path, capsys, address):
    code, _, error = ends(capsys, "store", "sync", str(tmp_path), address)
    assert code == 1 and address in error and "Traceback" not in error


# Each way on which bytes can leave the site.


def test_sync_to_a_cloud_refuses(home, private, capsys, moto_endpoint):
    write_settings(home, moto_endpoint)
    for target in ("s3://bucket/x", "gs://bucket/x"):
        code, text, error = ends(capsys, "store", "sync", str(private), target, "-e", "shop")
        assert code == 1 and text == ""
        assert "events.csv" in error and "labelled private" in error


def test_a_model_store_in_a_cloud_refuses(private, tmp_path, moto_endpoint, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with pytest.raises(ResidencyError, match="labelled private"):
        open_store("s3://bucket/models", endpoint=moto_endpoint).put(private, lineage={})
    at_site = open_store(str(tmp_path / "store"), keys=Keyring(tmp_path / "keys"))
    digest = at_site.put(private, lineage={})
    copy = at_site.get(digest, tmp_path / "copy")  # the label comes along
    with pytest.raises(ResidencyError):
        open_store("s3://bucket/models", endpoint=moto_endpoint).put(copy, lineage={})
    hidden = [e.key for e in at_site.objects.entries() if e.key.endswith(".residency")]
    assert len(hidden) == 2  # of the blob and of the manifest: a sync of the store refuses too


def test_federate_hands_nothing_out_to_other_sites(home, private):
    environment = Environment.load("local", home)
    model = private.parent.parent / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    store = environment_store(environment)
    digest = store.put(model, lineage={"data": {"address": str(private)}})
    with pytest.raises(ResidencyError, match="the sites site-berlin, site-lyon"):
        federate(environment, digest, {"rounds": 1}, print)
    assert not (environment.folder / "sites").exists()


def test_copies_on_this_machine_keep_the_label(home, private, tmp_path, capsys):
    target = tmp_path / "clean"
    assert ends(capsys, "data", "convert", str(private), str(target))[0] == 0
    assert (target / ".residency").exists()
    assert ends(capsys, "data", "split", str(private), str(tmp_path / "parts"))[0] == 0
    assert (tmp_path / "parts" / "train" / ".residency").exists()


def test_no_other_module_can_send_objects_anywhere():
    """A new module that sends objects belongs here, with the test of its refusal above."""
    calls = {
        *("put_object", "copy_object", "upload_file", "upload_fileobj", "upload_part", "copy_blob"),
        *("upload_from_file", "upload_from_filename", "upload_from_string", "upload_blob"),
        *("generate_presigned_url", "generate_presigned_post", "generate_signed_url"),
        *("log_artifact", "log_model", "use_artifact"),
    }
    folders = ("recsys", "model_store", "cli", "stacks", "infra", "handlers", "federation")
    files = [file for folder in folders for file in (PROJECT / folder).rglob("*.py")]
    senders = {
        file.relative_to(PROJECT).as_posix()
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in calls
    }
    emulators_only = {"infra/offline/behaviours.py"}
    assert senders - emulators_only == {"model_store/s3.py", "model_store/gcs.py"}


def write_settings(home: Path, endpoint: str) -> None:
    """Environment `shop`: as `local`, with S3 and GCS at an address where nothing is needed."""
    shipped = (PROJECT / "stacks" / "environments" / "local.yaml").read_text()
    file = home / "environments" / "shop.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(shipped + f"aws:\n  endpoint: {endpoint}\n")
