"""Requests to managed trainers, held against each cloud's own description of them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import resources

import botocore.session
import isodate
import pytest
from azure.mgmt.machinelearningservices import models as azure_models
from botocore.validate import ParamValidator

from infra.clients import Aws
from infra.trainers import azureml, sagemaker, vertex
from infra.trainers.job import TrainerError, TrainerJob
from model_store.factory import open_store

ROLE = "arn:aws:iam::123456789012:role/trainer"
WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/ml"
    "/providers/Microsoft.MachineLearningServices/workspaces/shop"
)
JOB = TrainerJob(
    environment="production",
    image="hybrid:7",
    data="s3://shop/it's/events.parquet",
    models="s3://models/production",
    recipe={"dimension": 64},
    shard_items=True,
    machine="ml.g5.xlarge",
    nodes=2,
    gpus=4,
    spot=True,
    hours=24,
)
ON_GOOGLE = replace(JOB, data="gs://shop/events.parquet", models="gs://models/production")


def on_vertex(job: TrainerJob = ON_GOOGLE) -> dict:
    account = "trainer@shop.iam.gserviceaccount.com"
    return vertex.request(job, accelerator="NVIDIA_L4", service_account=account, volume_gib=100)


def test_sagemaker_takes_the_request_as_its_model_says():
    request = sagemaker.request(JOB, role=ROLE, volume_gib=100)
    service = botocore.session.get_session().get_service_model("sagemaker")
    shape = service.operation_model("CreateTrainingJob").input_shape
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    assert request["StoppingCondition"]["MaxWaitTimeInSeconds"] == 48 * 3600
    assert "MaxWaitTimeInSeconds" not in sagemaker.request(
        replace(JOB, spot=False), role=ROLE, volume_gib=100
    )["StoppingCondition"]


def test_the_same_job_is_started_once(moto_endpoint):
    aws = Aws("eu-central-1", moto_endpoint)
    request = sagemaker.request(JOB, role=ROLE, volume_gib=100)
    identity, new = sagemaker.submit(request, aws)
    assert new and identity.endswith(f"training-job/{JOB.name}")
    assert sagemaker.submit(request, aws) == (identity, False)
    assert replace(JOB, recipe={"dimension": 128}).name != JOB.name


def test_vertex_takes_the_request_as_its_discovery_document_says():
    documents = resources.files("googleapiclient.discovery_cache") / "documents"
    schemas = json.loads((documents / "aiplatform.v1.json").read_text())["schemas"]
    request = on_vertex()
    assert unlike(request, "GoogleCloudAiplatformV1CustomJob", schemas) == []
    assert [pool["replicaCount"] for pool in request["jobSpec"]["workerPoolSpecs"]] == ["1", "1"]
    assert len(on_vertex(replace(ON_GOOGLE, nodes=1))["jobSpec"]["workerPoolSpecs"]) == 1


def unlike(value: object, schema: str | dict, schemas: dict, path: str = "") -> list[str]:
    """Where a JSON value is not as a schema of a discovery document says."""
    described = schemas[schema] if isinstance(schema, str) else schema
    if "$ref" in described:
        return unlike(value, described["$ref"], schemas, path)
    kind = described["type"]
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, types[kind]):
        return [f"{path} is {value!r}, not of type {kind}"]
    if "enum" in described and value not in described["enum"]:
        return [f"{path} is {value!r}, which is none of {described['enum']}"]
    found = []
    if kind == "array":
        for number, item in enumerate(value):
            found += unlike(item, described["items"], schemas, f"{path}[{number}]")
    elif kind == "object":
        for key, item in value.items():
            known = described.get("properties", {}).get(key, described.get("additionalProperties"))
            below = f"{path}.{key}"
            found += unlike(item, known, schemas, below) if known else [f"{below} is unknown"]
    return found


def test_azure_takes_the_request_as_its_model_says():
    request = azureml.request(JOB, workspace=WORKSPACE, compute="gpus")
    # What the model does not know is lost on the way; a wrong type is an error.
    model = azure_models.JobBase.deserialize(copy.deepcopy(request))
    assert isinstance(model.properties, azure_models.CommandJob)
    sent = model.serialize()
    lengths = [body["properties"]["limits"].pop("timeout") for body in (sent, request)]
    assert isodate.parse_duration(lengths[0]) == isodate.parse_duration(lengths[1])
    assert sent == request


@pytest.mark.parametrize("rank", [0, 1])
def test_each_machine_knows_its_place_and_the_first_stores_the_model(tmp_path, rank):
    """The script runs in a shell; torchrun and python write down how they were called."""
    (pool, _) = on_vertex()["jobSpec"]["workerPoolSpecs"]
    (script,) = pool["containerSpec"]["args"]
    calls = tmp_path / "calls"
    for name in ("torchrun", "python"):
        program = tmp_path / name
        real = f'[ "$1" = -c ] && exec {sys.executable} "$@"\n' if name == "python" else ""
        program.write_text(f'#!/bin/sh\n{real}echo {name} "$@" >> {calls}\n')
        program.chmod(0o755)
    spec = {
        "cluster": {"workerpool0": ["first:2222"], "workerpool1": ["second:2222"]},
        "task": {"type": f"workerpool{rank}", "index": 0},
    }
    script = script.replace("/tmp/recipe.json", str(tmp_path / "recipe.json"))
    subprocess.run(
        ["sh", "-c", script],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "CLUSTER_SPEC": json.dumps(spec)},
        check=True,
    )
    train, *store = calls.read_text().splitlines()
    assert f"--nnodes 2 --nproc-per-node 4 --node-rank {rank} --master-addr first " in train
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"dimension": 64}
    folder = f"/gcs/models/production/trainers/{ON_GOOGLE.name}/checkpoints"
    assert train.endswith(f"--folder {folder} --shard-items")
    assert len(store) == (rank == 0)
    if store:
        assert store[0].startswith(f"python -m model_store {folder}/artifact gs://models/production")
        assert store[0].endswith(f" --data {folder}/data.json")


def test_what_was_trained_becomes_the_candidate_of_the_store(tmp_path):
    artifact, address = tmp_path / "artifact", tmp_path / "store"
    artifact.mkdir()
    (artifact / "weights.safetensors").write_bytes(b"weights")
    (tmp_path / "data.json").write_text('{"fingerprint": "f00d"}')
    lineage = '{"job": "j", "data": {"address": "s3://shop"}}'
    done = subprocess.run(
        [sys.executable, "-m", "model_store", artifact, address, "--lineage", lineage]
        + ["--data", tmp_path / "data.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    store = open_store(str(address))
    assert store.channels() == {"candidate": done.stdout.strip()}
    found = store.manifest("candidate").lineage
    assert found == {"job": "j", "data": {"address": "s3://shop", "fingerprint": "f00d"}}


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (
            lambda: sagemaker.request(ON_GOOGLE, role=ROLE, volume_gib=9),
            "The data at 'gs://shop/events.parquet' are out of the trainer's reach: give an "
            "address that begins with s3://",
        ),
        (
            lambda: on_vertex(replace(ON_GOOGLE, models="/srv/models")),
            "The models at '/srv/models' are out of the trainer's reach",
        ),
    ],
)
def test_what_the_machines_cannot_reach_is_refused(ask, sentence):
    with pytest.raises(TrainerError) as refused:
        ask()
    assert str(refused.value).startswith(sentence)
