"""Edge bundles: as files, and answering in a process of their own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from ts.context import Context, RequestProcessor

from cli.edge import check, running
from cli.errors import ServingError
from handlers.bundle import build_bundle
from handlers.edge import checked
from handlers.errors import ArchiveError
from handlers.kinds import RECOMMEND
from handlers.openapi import openapi_document
from handlers.service import Service
from model_store.signing import Keyring, public_pem
from recsys.artifact import load_model, save_model
from recsys.errors import RecsysError

DIGEST = "sha256:" + "c" * 64
BODIES = [
    {"history": ["item-1", "item-2"], "k": 5},
    {"history": ["item-3", "gone"], "k": 40, "exclude_seen": False},
    {"history": [], "k": 3},
    {"history": ["item-4", "item-9", "item-4"], "where": {"in_stock": True}, "explain": True},
    {"history": ["item-5"], "where": {"categories": ["c1"], "max_price": 20}, "diversity": 0.5},
    {"item": "item-7", "k": 6, "where": {"min_price": 3}},
    {"user": "u", "history": ["item-1"], "k": 2},
    {"user": "u", "events": [{"item": "item-1"}]},
    {"user": "u", "events": [{"item": "gone"}]},
    {"item": "gone"},
    {"history": ["item-1"], "k": 0},
    {"histroy": []},
    7,
]


@pytest.fixture(scope="module")
def bundle(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(artifact, DIGEST, tmp_path_factory.mktemp("edge") / "shop, edge.pyz")


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with running(bundle) as address, httpx.Client(base_url=address) as client:
        yield client


def test_it_answers_as_the_handler_of_torchserve(
    client: httpx.Client, artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "artifact").symlink_to(artifact)
    manifest = {"model": {"modelVersion": "c" * 64}}
    context = Context("recommend", str(tmp_path), manifest, 4, None, "0.12")
    service = Service()
    service.initialize(context)
    for asked in BODIES:
        body = json.dumps(asked).encode()
        context.request_processor = [RequestProcessor({})]
        (wanted,) = service.handle([{"body": bytearray(body)}], context)
        answer = client.post("/predictions/recommend", content=body)
        assert answer.status_code == (context.get_response_status(0)[0] or 200), asked
        got, wanted = answer.json(), json.loads(wanted)
        if "items" not in wanted:
            assert got == wanted
            continue
        scores = [[row.pop("score") for row in each["items"]] for each in (got, wanted)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        drops = [
            [cause.pop("score_drop") for row in each["items"] for cause in row.get("because", ())]
            for each in (got, wanted)
        ]
        assert drops[0] == pytest.approx(drops[1], abs=1e-5)
        assert got == wanted
        assert answer.headers["server-timing"].startswith("parse;dur=")


def test_it_says_what_it_is_and_refuses_what_it_is_not(client: httpx.Client) -> None:
    url = "/predictions/recommend"
    assert client.get("/ping").json() == {"status": "Healthy"}
    described = client.get(url, headers={"Accept": "application/openapi+json"})
    assert described.json() == openapi_document([RECOMMEND])
    assert (client.get(url).status_code, client.get("/models").status_code) == (405, 404)
    large = client.post(url, content=b" " * 1_000_001)
    assert (large.status_code, large.json()) == (
        413, {"error": "The body is larger than 1000000 bytes."}
    )  # fmt: skip
    assert client.post(url, json={"history": ["item-1"]}).status_code == 200


def test_the_same_model_gives_the_same_bytes_and_nothing_else_is_left(
    bundle: Path, artifact: Path, tmp_path: Path
) -> None:
    again = build_bundle(artifact, DIGEST, tmp_path / "again.pyz")
    assert again.read_bytes() == bundle.read_bytes()
    assert list(tmp_path.iterdir()) == [again]
    with zipfile.ZipFile(again) as content:
        names = set(content.namelist())
    assert {"model/encoder.onnx", "model/table.npy", "model/items.json", "openapi.json"} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".parquet", ".pyc"))]


def test_the_manifest_is_signed_by_the_environments_key(artifact: Path, tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    signed = build_bundle(artifact, DIGEST, tmp_path / "b.pyz", keys.sign_document)
    with zipfile.ZipFile(signed) as content:
        manifest, signature = content.read("manifest.json"), content.read("manifest.sig")
    (key,) = keys.trusted().values()
    load_pem_public_key(public_pem(key)).verify(signature, manifest)
    assert checked(signed)["model"] == DIGEST


def repacked(bundle: Path, target: Path, changed: dict[str, bytes | None]) -> Path:
    """The same archive with other, more or fewer (None) files, its checksums right."""
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(target, "w") as new:
        files = {name: old.read(name) for name in old.namelist()} | changed
        for name, content in files.items():
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model/items.json": b"[]"}, "model/items.json is damaged"),
        ({"handlers/recommender.py": b"pass"}, "handlers/recommender.py is damaged"),
        ({"model/table.npy": None}, "it is damaged"),
        ({"onnxruntime.py": b"pass"}, "it holds onnxruntime.py, which its manifest lacks"),
        ({"manifest.json": b"{}"}, "it is damaged"),
    ],
)
def test_a_changed_archive_is_refused(
    bundle: Path, tmp_path: Path, changed: dict[str, bytes | None], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        checked(repacked(bundle, tmp_path / "changed.pyz", changed))


def test_a_damaged_archive_or_a_port_in_use_ends_with_one_sentence(
    bundle: Path, tmp_path: Path
) -> None:
    other = repacked(bundle, tmp_path / "other.pyz", {"model/items.json": b"[]"})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for archive, told in ((other, "get it again."), (bundle, "cannot be served at")):
            port = str(taken.getsockname()[1])
            done = subprocess.run(
                [sys.executable, "-I", archive, "--port", port], capture_output=True, text=True
            )
            assert done.returncode == 1 and done.stdout == ""
            assert told in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("limit", ["-1", "much"])
def test_no_body_can_be_of_less_than_a_byte(bundle: Path, limit: str) -> None:
    command = [sys.executable, "-I", bundle, "--request-bytes", limit]
    done = subprocess.run(command, capture_output=True, text=True)
    told = f"{limit} is no number of bytes: give one from 1 on"
    assert done.returncode == 2 and told in done.stderr


def test_a_bundle_of_another_model_fails_its_check(
    bundle: Path, artifact: Path, tmp_path: Path
) -> None:
    loaded = load_model(artifact)
    other = save_model(tmp_path / "o", loaded.model, loaded.recipe, loaded.items[::-1], {})
    with pytest.raises(ServingError, match="does not answer as its model"):
        check(bundle, other)
    broken = repacked(bundle, tmp_path / "broken.pyz", {"model/model.json": b"{}"})
    with pytest.raises(ServingError, match="does not start: .*model.json is damaged"):
        check(broken, artifact)


def test_what_needs_torch_or_recommends_nothing_is_not_bundled(
    artifact: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "int8")
    (folder / "acceleration.json").write_text('{"quantise": "int8"}')
    with pytest.raises(RecsysError, match="runs in torch only.*--onnx"):
        build_bundle(folder, DIGEST, tmp_path / "b.pyz")
    rating = tmp_path / "rating"
    rating.mkdir()
    for name in ("rating.json", "weights.safetensors"):
        (rating / name).touch()
    with pytest.raises(ArchiveError, match="is a rating model: only recommenders"):
        build_bundle(rating, DIGEST, tmp_path / "b.pyz")
    assert not (tmp_path / "b.pyz").exists()
