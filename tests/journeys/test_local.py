"""The whole job as a user does it, on real parts. Each test stands on the ones before it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cli.nginx import nginx_program
from cli.sessions import session_store_program
from infra.clients import Aws

PROJECT = Path(__file__).resolve().parents[2]
HYBRID = Path(sys.executable).parent / "hybrid"
SMALL = ["--epochs", "2", "--pretrain-epochs", "1", "--dimension", "16"]
SERVERS = {
    "moto", "gcs", "kubernetes", "torchserve", "superlink", "serverapps",
    "site-berlin-node", "site-berlin-apps", "site-lyon-node", "site-lyon-apps",
}  # fmt: skip
if nginx_program():  # sites then reach the SuperLink through it, and users TorchServe
    SERVERS |= {"serving", "fleet", "site-berlin-gateway", "site-lyon-gateway"}
if session_store_program():
    SERVERS |= {"sessions"}


@pytest.fixture(scope="module", autouse=True)
def small_shop(user):
    """The generated shop of this environment, small so that the journey is short."""
    from recsys.data.synthetic import write_shop

    write_shop(user.home / "local" / "data" / "synthetic", users=200, items=80)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def test_preview_plans_every_layer_for_a_pull_request_without_any_server(user):
    text = user.runs("preview", "--markdown").stdout
    assert text.startswith("## `hybrid preview local`\n")
    layers = re.findall(r"^### (\w+): \d+ of \d+ change", text, re.MULTILINE)
    assert layers == ["private", "cloud", "link", "platform"]
    assert re.search(r"\| create \| `aws:s3/bucket\w*:\w+` \|", text)
    assert user.processes() == []


def test_up_starts_every_server_and_makes_every_layer(user):
    done = user.asks("up")
    assert set(done["servers"]) == SERVERS
    assert [layer["layer"] for layer in done["layers"]] == ["private", "cloud", "link", "platform"]
    assert all(layer["changes"] for layer in done["layers"])


def test_what_up_made_is_really_there(user):
    assert "<Bucket>" in get(f"http://127.0.0.1:{user.ports['moto']}/")
    project = "hybrid-local"
    buckets = get(f"http://127.0.0.1:{user.ports['gcs']}/storage/v1/b?project={project}")
    assert json.loads(buckets)["items"]
    deployments = get(f"http://127.0.0.1:{user.ports['kubernetes']}/apis/apps/v1/deployments")
    assert len(json.loads(deployments)["items"]) == 4


def test_second_up_changes_nothing_and_says_so(user):
    before = {process.pid for process in user.processes()}
    activated = user.variables | {"PATH": f"{HYBRID.parent}{os.pathsep}{os.environ['PATH']}"}
    other_shell = subprocess.run([HYBRID, "up"], env=activated, capture_output=True, text=True)
    assert "Nothing to change: local is up." in other_shell.stdout
    assert user.asks("plan", "--fast")["changes"] == []
    assert {process.pid for process in user.processes()} == before


def test_what_differs_and_what_is_gone_is_told_by_name_with_exit_code_three_and_mended(user):
    ec2 = Aws("eu-central-1", f"http://127.0.0.1:{user.ports['moto']}")("ec2")
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "tag:Name", "Values": ["hybrid-local"]}])["Vpcs"]
    ec2.modify_vpc_attribute(VpcId=vpc["VpcId"], EnableDnsHostnames={"Value": False})
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    ec2.delete_vpc_endpoints(VpcEndpointIds=[endpoint["VpcEndpointId"]])
    table = user.runs("drift", code=3).stdout
    rows = [line.split() for line in table.splitlines() if "aws:" in line]
    assert sorted(rows) == [
        ["cloud", "differs", "aws:ec2/vpc:Vpc", "hybrid-local", "enableDnsHostnames"],
        ["cloud", "gone", "aws:ec2/vpcEndpoint:VpcEndpoint", "hybrid-local-s3"],
    ]
    assert "hybrid up local --refresh mends them." in table
    (cloud,) = [each for each in user.asks("up", "--refresh")["layers"] if each["changes"]]
    assert {change["operation"] for change in cloud["changes"]} == {"create", "update"}
    assert user.asks("drift")["drift"] == []


def test_status_tells_what_runs(user):
    found = user.asks("status")
    assert all(found["layers"].values())
    assert {s["name"] for s in found["servers"] if s["state"] == "running"} == SERVERS
    assert found["serving"] is None
    assert (found["stale"] is None) == (session_store_program() is not None)


def test_deploy_without_a_model_says_so(user):
    assert "candidate" in user.runs("deploy", code=1).stderr


def test_train_stores_the_candidate(user):
    trained = user.asks("train", *SMALL)
    for name in ("HR@10", "NDCG@10"):
        assert 0 < trained["metrics"][name] <= 1
        assert 0 <= trained["metrics"][f"{name} unmasked"] <= 1
    (model,) = user.asks("models", "list")
    assert (model["digest"], model["channels"]) == (trained["digest"], ["candidate"])
    assert list((user.home / "local" / "runs").rglob("events.out.tfevents*"))


def test_federate_goes_round_over_the_sites(user):
    trained = user.asks("federate", "--rounds", "2")
    assert [record["round"] for record in trained["rounds"]] == [1, 2]
    assert all(record["bytes_up"] > 0 for record in trained["rounds"])
    newest = user.asks("models", "list")[0]
    assert newest["digest"] == trained["digest"]
    assert [r["round"] for r in newest["lineage"]["rounds"]] == [1, 2]
    assert newest["lineage"]["sites"] == ["site-berlin", "site-lyon"]


def test_sites_hold_only_their_own_users(user):
    from recsys.data.interactions import load_interactions

    shop, berlin, lyon = (
        set(load_interactions(user.home / "local" / folder).users)
        for folder in ("data/synthetic", "sites/site-berlin", "sites/site-lyon")
    )
    assert berlin and lyon and berlin | lyon == shop and not berlin & lyon


def test_deploy_moves_production(user):
    deployed = user.asks("deploy")
    newest = user.asks("models", "list")[0]
    assert deployed["digest"] == newest["digest"]
    assert newest["channels"] == ["candidate", "production"]
    assert user.asks("status")["serving"] == newest["digest"]
    assert "Nothing to deploy" in user.runs("deploy").stdout


def test_recommend_asks_the_served_model(user):
    from recsys.data.interactions import load_interactions

    shop = load_interactions(user.home / "local" / "data" / "synthetic")
    customer = shop.users[3]
    answer = user.asks("recommend", "--user", customer, "-k", "5")
    items = [row["item"] for row in answer["items"]]
    assert len(set(items)) == 5
    assert set(items) <= set(shop.items) - set(shop.history(customer))
    scores = [row["score"] for row in answer["items"]]
    assert scores == sorted(scores, reverse=True)


def test_an_unknown_user_is_named(user):
    assert "'nobody'" in user.runs("recommend", "--user", "nobody", code=1).stderr


def test_an_unknown_model_is_named(user):
    assert "abcdef123" in user.runs("deploy", "abcdef123", code=1).stderr


def test_a_corrupt_artefact_is_refused_and_production_stays(user):
    serving = user.asks("status")["serving"]
    victim = next(m for m in user.asks("models", "list") if m["digest"] != serving)
    blobs = user.home / "local" / "model_store" / "blobs"
    weights = max(
        (p for p in blobs.rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p.name)
    )
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    codes = {}
    for digest in (victim["digest"], serving):
        done = subprocess.run(
            [HYBRID, "federate", "--from", digest, "--rounds", "1"],
            cwd=PROJECT, env=user.variables, capture_output=True, text=True,
        )  # fmt: skip
        codes[done.returncode] = done.stderr
    weights.write_bytes(kept)
    assert 1 in codes and weights.name[:12] in codes[1] and "Traceback" not in codes[1]
    assert user.asks("status")["serving"] == serving


def test_a_shell_preview_works_on_the_projects_file(user, tmp_path):
    """As in a checkout: Pulumi.yaml and stacks/ beside each other, `pulumi` from the environment."""
    shutil.copy(PROJECT / "Pulumi.yaml", tmp_path)
    (tmp_path / "stacks").symlink_to(PROJECT / "stacks")
    # What another environment's passphrase left there must not be taken for this one's.
    (tmp_path / "Pulumi.local.cloud.yaml").write_text(
        "encryptionsalt: v1:ggkV/savwxs=:v1:tAeZVh9PVf0ANlIT:RPA1QX7/uTXTDsMSPK3M0inBRsPu8g==\n"
    )
    done = subprocess.run(
        [Path(sys.executable).parent / "pulumi", "preview", "--stack", "local.cloud",
         "--non-interactive", "--color", "never"],
        cwd=tmp_path, env=user.variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ unchanged", done.stdout)


def test_logs_show_a_server(user):
    assert user.runs("logs", "superlink", "-n", "3").stdout.count("\n") == 3
    assert "'nothing-such'" in user.runs("logs", "nothing-such", code=2).stderr


def test_doctor_finds_all_well(user):
    assert all(finding["ok"] for finding in user.asks("doctor"))


def test_doctor_names_a_missing_java_and_what_mends_it(user, tmp_path):
    """A PATH with everything but Java."""
    for program in ("sh", "env", "dirname", "basename", "uname"):
        (tmp_path / program).symlink_to(shutil.which(program))
    done = subprocess.run(
        [HYBRID, "doctor"],
        env=user.variables | {"PATH": str(tmp_path), "JAVA_HOME": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "openjdk-17-jre-headless" in done.stdout


def test_up_after_an_emulator_forgot_everything_makes_it_again(user):
    moto = next(p for p in user.processes() if "moto.server" in p.cmdline())
    os.kill(moto.pid, 9)
    moto.wait(timeout=10)
    assert user.asks("up")["changed"]
    assert "<Bucket>" in get(f"http://127.0.0.1:{user.ports['moto']}/")


def test_a_new_torchserve_serves_production_after_up(user):
    serving = user.asks("status")["serving"]
    java = "org.pytorch.serve.ModelServer"
    for process in [p for p in user.processes() if java in p.cmdline()]:
        os.kill(process.pid, 9)
        process.wait(timeout=10)
    user.runs("up")
    assert user.asks("status")["serving"] == serving


def test_the_notebook_leads_from_data_to_a_served_model(user, tmp_path, monkeypatch):
    for name, value in user.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook = nbformat.read(PROJECT / "docs" / "from-data-to-a-served-model.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    answer = shown[-1]["data"]["text/plain"]
    assert user.asks("status")["serving"] in answer and answer.count("'item'") == 3


def test_down_leaves_no_process_and_no_port_but_the_models(user):
    models = user.asks("models", "list")
    done = user.asks("down")
    assert set(done["servers"]) == SERVERS
    assert user.processes() == []
    assert user.open_ports() == []
    found = user.asks("status")
    assert not any(found["layers"].values()) and found["servers"] == []
    assert user.asks("models", "list") == models
    assert "Nothing to end" in user.runs("down").stdout
    assert "moto, gcs of local do not run" in user.runs("orphans", code=1).stderr


def test_run_goes_on_where_it_was_interrupted(user):
    """A run that is killed after its training trains no more the next time."""
    # Another recipe than above, so that the run's own model is the newest one.
    job = ["run", *SMALL, "--epochs", "3", "--rounds", "1"]
    process = user.starts(*job)
    for line in process.stdout:
        if "[3/5] federate" in line:
            break
    os.killpg(process.pid, 9)
    process.communicate()
    digest = user.asks("models", "list")[0]["digest"]
    second = user.runs(*job, "--json")
    outcome = json.loads(second.stdout)
    assert outcome["trained"]["digest"] == digest
    assert outcome["recommendation"]["items"]
    assert "[3/5] federate" in second.stderr and "[2/5] train" not in second.stderr
    again = user.runs(*job)
    assert "[2/5] train" not in again.stderr and "[3/5] federate" not in again.stderr
    assert outcome["deployed"]["digest"] in again.stdout


def test_purge_leaves_nothing(user):
    user.runs("down", "--purge", "--yes")
    assert not (user.home / "local").exists()
    assert user.processes() == [] and user.open_ports() == []
