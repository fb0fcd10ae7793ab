"""hybrid models: each command as a user sees it, on a store in a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli.environment import Environment
from cli.learning import environment_store, store_model
from handlers.kinds import KINDS
from model_store.store import Store
from tests.cli.ended import ends

SEARCH = next(kind for kind in KINDS if kind.name == "search")
RECIPE = {"dimension": 16, "epochs": 3}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return Environment.load("local", tmp_path / "home")


@pytest.fixture
def models(environment: Environment, tmp_path: Path) -> list[str]:
    """Two models; the second is made from the first."""
    digests: list[str] = []
    for text, metric in (("one", 0.25), ("two", 0.5)):
        folder = tmp_path / text
        folder.mkdir()
        (folder / "weights.safetensors").write_text(text * 50)
        (folder / "items.json").write_text('["a"]')
        for name in ("recipe.json", "metrics.json"):
            (folder / name).write_text("{}")
        if text == "two":
            (folder / "encoder.onnx").write_text("graph")
        lineage = {
            "made_by": "train",
            "data": {"fingerprint": "f00d"},
            "recipe": RECIPE | {"epochs": len(text + str(metric))},
            "metrics": {"NDCG@10": metric},
        } | ({"parent": digests[0]} if digests else {})
        digests.append(store_model(environment, folder, lineage))
    return digests


def asks(capsys: pytest.CaptureFixture[str], *arguments: str):
    code, text, error = ends(capsys, "models", *arguments, "--json")
    assert code == 0, error
    return json.loads(text)


def test_show_tells_signer_files_and_card(models, capsys) -> None:
    found = asks(capsys, "show", models[1][7:15])
    assert found["digest"] == models[1] and found["signed_by"] and not found["problem"]
    names = [file["name"] for file in found["files"]]
    assert names == [
        "card.md", "encoder.onnx", "items.json", "metrics.json", "recipe.json",
        "weights.safetensors",
    ]  # fmt: skip
    code, text, _ = ends(capsys, "models", "show", models[1])
    assert code == 0 and "signed by: " in text and "# Model card" in text
    assert f"Made from the model `{models[0]}`." in text


def test_list_shows_the_channels(models, capsys) -> None:
    asks(capsys, "promote", models[0], "staging")
    assert {m["digest"]: m["channels"] for m in asks(capsys, "list")} == {
        models[0]: ["staging"],
        models[1]: [],
    }
    assert "0.2500" in ends(capsys, "models", "list")[1]


@pytest.mark.parametrize("metrics", [{"RMSE": 0.9}, {"NDCG@10": None}, "none", None])
def test_list_leaves_open_what_a_model_was_not_measured_by(
    models, capsys, environment, tmp_path, metrics
) -> None:
    environment_store(environment).put(tmp_path / "one", lineage={"metrics": metrics})
    code, text, error = ends(capsys, "models", "list")
    assert code == 0, error
    assert len(asks(capsys, "list")) == 3 and "nan" not in text


def test_diff_tells_files_settings_and_metrics(models, capsys) -> None:
    found = asks(capsys, "diff", *models)
    assert found["files"] == {
        "changed": ["card.md", "weights.safetensors"],
        "removed": [],
        "added": ["encoder.onnx"],
    }
    assert found["metrics"] == {"NDCG@10": [0.25, 0.5]}
    assert list(found["recipe"]) == ["epochs"] and list(found["lineage"]) == ["parent"]
    text = ends(capsys, "models", "diff", *models)[1]
    assert "NDCG@10" in text and "0.2500" in text and "encoder.onnx" in text
    assert ends(capsys, "models", "diff", models[0], models[0])[1] == "They do not differ.\n"


def test_promote_history_rollback(models, capsys, environment) -> None:
    one, two = models
    assert asks(capsys, "promote", one, "production")["before"] is None
    code, text, error = ends(capsys, "models", "promote", two, "production", "--expected", one[:20])
    assert code == 0 and "hybrid deploy production" in error
    assert text == f"Channel production points to {two[7:19]}; before, to {one[7:19]}.\n"
    code, _, error = ends(capsys, "models", "promote", one, "production", "--expected", one)
    assert code == 1 and f"points to {two}, not to {one}" in error
    assert asks(capsys, "rollback") == {"channel": "production", "model": one, "before": two}
    moves = asks(capsys, "history", "production")
    assert [(move["model"], move["back"]) for move in moves] == [
        (one, True),
        (two, False),
        (one, False),
    ]
    assert "rollback" in ends(capsys, "models", "history", "production")[1]
    assert ends(capsys, "models", "rollback")[0] == 1
    log = (environment.federation / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["model"] for line in log] == [one, two, one]


def test_a_channel_that_says_what_serves_takes_models_of_its_kind_only(
    models, capsys, environment, tmp_path
) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    for name in SEARCH.files:
        (folder / name).write_text("{}")
    search = store_model(environment, folder, {})
    for model, kind, channel, own in (
        (search, "search", "production", "production-search"),
        (models[0], "recommend", "production-search", "production"),
    ):
        code, _, error = ends(capsys, "models", "promote", model, channel)
        sentence = f"is a {kind} model: it goes to {own}, not to {channel}."
        assert code == 1 and sentence in error
        assert model not in [move["model"] for move in asks(capsys, "history", channel)]
        assert asks(capsys, "promote", model, own)["model"] == model
        assert asks(capsys, "promote", model, "staging")["model"] == model


def test_pull_fetches_into_a_new_folder(models, capsys, tmp_path) -> None:
    assert asks(capsys, "pull", models[0], str(tmp_path / "got"))["model"] == models[0]
    assert (tmp_path / "got" / "weights.safetensors").read_text() == "one" * 50
    code, _, error = ends(capsys, "models", "pull", models[0], str(tmp_path / "got"))
    assert code == 1 and "exists already" in error


def test_verify_names_what_is_not_whole(models, capsys, environment) -> None:
    assert [found["problem"] for found in asks(capsys, "verify")] == [None, None]
    store = environment_store(environment)
    (file,) = [f for f in store.manifest(models[1]).files if f.name == "encoder.onnx"]
    (Path(environment.model_store_address) / "blobs" / file.sha256).write_text("gr4ph")
    code, text, _ = ends(capsys, "models", "verify", "--json")
    problems = {found["model"]: found["problem"] for found in json.loads(text)}
    assert code == 1 and problems[models[0]] is None
    assert "encoder.onnx should have SHA-256" in problems[models[1]]
    assert ends(capsys, "models", "verify", models[0])[0] == 0


def test_verify_misses_a_model_that_a_channel_points_to(models, capsys, environment) -> None:
    asks(capsys, "promote", models[0], "production")
    (Path(environment.model_store_address) / "manifests" / f"{models[0][7:]}.json").unlink()
    code, text, _ = ends(capsys, "models", "verify", "--json")
    problems = {found["model"]: found["problem"] for found in json.loads(text)}
    assert code == 1 and problems[models[1]] is None
    assert "There is no model" in problems[models[0]]


def test_what_nobody_signed_is_loaded_only_once_it_is_signed(
    models, capsys, environment, tmp_path
) -> None:
    store = environment_store(environment)
    digest = Store(store.objects).put(tmp_path / "one", lineage={})
    for command in (("promote", digest, "staging"), ("pull", digest, str(tmp_path / "got"))):
        code, _, error = ends(capsys, "models", *command)
        assert code == 1 and f"hybrid models sign {digest[7:19]}" in error
    assert store.channels() == {}
    assert ends(capsys, "models", "sign", digest)[0] == 0
    assert asks(capsys, "promote", digest, "staging")["model"] == digest


def test_key_shows_and_rotates(models, capsys) -> None:
    before = asks(capsys, "key")["trusted"]
    after = asks(capsys, "key", "--rotate")
    assert len(before) == 1 and after["trusted"].keys() == before.keys() | {after["new"]}
    assert "PRIVATE" not in json.dumps(after)
    assert asks(capsys, "verify", models[0])[0]["signed_by"] in before


def test_lineage_is_a_tree_a_picture_and_data(models, capsys, tmp_path) -> None:
    asks(capsys, "promote", models[1], "production")
    code, text, _ = ends(capsys, "models", "lineage", models[1])
    lines = [line.strip(" │└├─") for line in text.splitlines()]
    assert code == 0 and lines[:4] == [
        "data f00d of ?",
        "made by train",
        f"model {models[0][7:19]}",
        "made by train",
    ]
    assert lines[4] == f"model {models[1][7:19]}" and lines[5].startswith("production since ")
    assert "\x1b" not in text
    found = asks(capsys, "lineage", "--svg", str(tmp_path / "graph.svg"))
    assert len(found["nodes"]) == 6 and len(found["arrows"]) == 5
    svg = (tmp_path / "graph.svg").read_text()
    assert "<svg" in svg and f"model {models[0][7:19]}" in svg


def test_a_lineage_in_a_pipe_is_told_to_its_end(capsys, environment, tmp_path) -> None:
    address = f"s3://shop/{'events/' * 20}part.parquet"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors").write_text("w")
    store_model(environment, tmp_path / "model", {"data": {"address": address}})
    assert f"of {address}\n" in ends(capsys, "models", "lineage")[1]


def test_gc_tells_what_goes_and_removes_it(models, capsys, environment) -> None:
    asks(capsys, "promote", models[0], "production")
    assert asks(capsys, "gc")["models"] == []
    told = asks(capsys, "gc", "--keep-days", "0", "--dry-run")
    assert told["models"] == [models[1]] and len(asks(capsys, "list")) == 2
    code, text, _ = ends(capsys, "models", "gc", "--keep-days", "0")
    assert code == 0 and text.startswith(f"{models[1][7:19]}\n1 models and 3 files")
    assert [model["digest"] for model in asks(capsys, "list")] == [models[0]]
    assert asks(capsys, "verify")[0]["problem"] is None


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "1e300"])
def test_gc_keeps_for_a_number_of_days(models, capsys, days) -> None:
    code, _, error = ends(capsys, "models", "gc", "--keep-days", days)
    assert code == 2 and "Invalid value for '--keep-days'" in error


def test_nothing_comes_back_from_where_no_models_are(models, capsys, tmp_path) -> None:
    typo = str(tmp_path / "replca")
    code, text, error = ends(capsys, "models", "restore", typo)
    assert (code, text) == (1, "") and f"There are no models at {typo}" in error
    assert not Path(typo).exists()


def test_replicate_drill_restore(models, capsys, environment, tmp_path) -> None:
    asks(capsys, "promote", models[1], "production")
    replica = str(tmp_path / "replica")
    code, _, error = ends(capsys, "models", "drill")
    assert code == 2 and "set model_replicas" in error
    code, text, _ = ends(capsys, "models", "replicate", replica)
    assert (code, text) == (0, f"{replica}: 2 models copied, 0 were there, 1 channels moved.\n")
    assert sorted(asks(capsys, "drill", replica)[replica]["restored"]) == sorted(models)
    asks(capsys, "promote", models[0], "staging")
    code, text, _ = ends(capsys, "models", "drill", replica)
    assert code == 1 and "  staging: the replica is behind; run hybrid models replicate." in text
    shutil.rmtree(environment.model_store_address)
    assert sorted(asks(capsys, "restore", replica)[replica]["copied"]) == sorted(models)
    assert [found["problem"] for found in asks(capsys, "verify")] == [None, None]
    assert asks(capsys, "history", "production")[0]["model"] == models[1]
