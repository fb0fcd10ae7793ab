"""Settings files: which is read, and the sentence for each way of getting one wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stacks.settings import SHIPPED, Settings, SettingsError, known_environments, load_settings

LOCAL = (SHIPPED / "local.yaml").read_text()
PRODUCTION = (SHIPPED / "production.yaml").read_text()


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} must stand once in the example"
    return text.replace(old, new)


def refusal(folder: Path, text: str) -> str:
    """The sentence about a settings file, without the file's folder."""
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError) as error:
        load_settings("mine", [folder])
    assert error.value.exit_code == 2
    sentence = str(error.value)
    assert sentence.startswith(str(folder / "mine.yaml")), "the file must be named"
    return sentence.removeprefix(f"{folder}/")


def load_settings_of(folder: Path, text: str) -> Settings:
    (folder / "mine.yaml").write_text(text)
    return load_settings("mine", [folder])


def test_machines_join_where_there_is_a_cluster_of_our_own_and_a_pool(tmp_path):
    assert not load_settings("local", [SHIPPED]).machines_join
    assert load_settings("production", [SHIPPED]).machines_join
    empty = changed(PRODUCTION, "maximum: 8", "maximum: 0")
    assert not load_settings_of(tmp_path, empty).machines_join


@pytest.mark.parametrize("environment", known_environments([SHIPPED]))
def test_shipped_environments_are_valid(environment):
    assert load_settings(environment, [SHIPPED]).sites


def test_local_finds_its_emulators_on_its_ports():
    settings = load_settings("local", [SHIPPED])
    assert settings.aws_endpoint == f"http://127.0.0.1:{settings.ports.moto}"
    assert settings.gcp_endpoint == f"http://127.0.0.1:{settings.ports.gcs}"
    assert settings.kubernetes_endpoint == f"http://127.0.0.1:{settings.ports.kubernetes}"
    first = settings.ports.supernode
    assert settings.supernode_ports() == {"site-berlin": first, "site-lyon": first + 1}


def test_a_real_environment_has_no_emulator():
    settings = load_settings("production", [SHIPPED])
    assert settings.aws_endpoint is None
    assert settings.gcp_endpoint is None
    assert settings.kubernetes_endpoint is None


def test_another_emulator_can_be_named(tmp_path):
    text = LOCAL + "aws:\n  endpoint: http://127.0.0.1:4566\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert load_settings("mine", [tmp_path]).aws_endpoint == "http://127.0.0.1:4566"


def test_own_settings_come_before_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    own = tmp_path / "environments"
    own.mkdir()
    (own / "local.yaml").write_text(changed(LOCAL, "moto: 18610", "moto: 18777"))
    (own / "staging.yaml").write_text(LOCAL)
    assert load_settings("local").ports.moto == 18777
    assert known_environments() == [
        "local",
        "production",
        "production-azure",
        "production-gcp",
        "staging",
    ]


@pytest.mark.parametrize("name", ["nowhere", "../stacks/environments/local", "Local", ""])
def test_an_unknown_environment_is_told_which_there_are(name, tmp_path):
    (tmp_path / "local.yaml").write_text(LOCAL)
    with pytest.raises(SettingsError) as error:
        load_settings(name, [tmp_path])
    assert str(error.value) == (
        f"There is no environment {name!r}: there are local. "
        f"Settings files are looked for in {tmp_path}."
    )


def test_broken_yaml_is_told_by_line_and_column(tmp_path):
    sentence = refusal(tmp_path, "kind: local\nzones: [a, b\nregion: x\n")
    assert sentence.startswith("mine.yaml is not valid YAML at line 3, column 7: ")


def test_a_file_without_keys_is_refused(tmp_path):
    assert refusal(tmp_path, "- kind\n") == (
        "mine.yaml must hold keys and values, among them kind, region and zones."
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("kind: local", "kind: lokal", "kind is 'lokal', but must be one of 'local', 'cloud'."),
        ("kind: local\n", "", "kind is missing."),
        (
            "    cidr: 10.61.0.0/16",
            "    cidr: 10.61.0.1/16",
            "sites.0.cidr is '10.61.0.1/16', but must be a network that begins at its first "
            "address, such as 10.61.0.0/16.",
        ),
        (
            "public_ip: 198.51.100.10",
            "public_ip: gateway",
            "sites.0.public_ip is 'gateway', but must be an address such as 203.0.113.10.",
        ),
        (
            "  moto: 18610",
            "  motto: 18610",
            "ports.moto is missing; ports.motto is not a setting; the keys allowed there are "
            "moto, gcs, kubernetes, superlink, fleet, supernode, gateway, torchserve.",
        ),
        (
            "    management: 18651",
            "    management: 18651\n    colour: red",
            "ports.torchserve.colour is not a setting; the keys allowed there are inference, "
            "management, grpc, metrics, public.",
        ),
        ("gcs: 18620", "gcs: 80", "ports.gcs is 80, but must be greater than or equal to 1024."),
        (
            "gcs: 18620",
            "gcs: 18610",
            "ports.gcs is 18610, which ports.moto has already.",
        ),
        (
            "supernode: 18641",
            "supernode: 18609",
            "ports.supernode of site-lyon is 18610, which ports.moto has already.",
        ),
        (
            "spot_share: 0.8",
            "spot_share: 80",
            "gpu_pool.spot_share is 80, but must be less than or equal to 1.",
        ),
        (
            "vpc_cidr: 10.60.0.0/16",
            "vpc_cidr: 10.60.0.0/27",
            "network.vpc_cidr: VPC 10.60.0.0/27 is too small for 2 zones: "
            "it must be a /24 or larger.",
        ),
        ("minimum: 0", "minimum: 9", "gpu_pool: minimum 9 is above maximum 4."),
        (
            "placement: private",
            "placement: moon",
            "serving.placement is 'moon', but must be one of 'private', 'gpu-pool'.",
        ),
        (
            "zones: [eu-central-1a,",
            "zones: [us-east-1a,",
            "zones names 'us-east-1a', which is not a zone of region 'eu-central-1': "
            "use eu-central-1a and the like.",
        ),
        (
            "zones: [eu-central-1a,",
            "zones: [eu-central-1b,",
            "zones must be different, not eu-central-1b, eu-central-1b.",
        ),
        (
            "vpc_cidr: 10.60.0.0/16",
            "vpc_cidr: 10.62.128.0/20",
            "network.vpc_cidr 10.62.128.0/20 overlaps sites.1.cidr 10.62.0.0/16: "
            "give them separate ranges.",
        ),
        (
            "cidr: 10.61.0.0/16",
            "cidr: 10.43.7.0/24",
            "sites.0.cidr 10.43.7.0/24 overlaps k3s's service network 10.43.0.0/16: "
            "give them separate ranges.",
        ),
        (
            "name: site-lyon",
            "name: site-berlin",
            "sites must have different names, not site-berlin, site-berlin.",
        ),
        (
            "gpu_pool:",
            "gpu_pool: 4\nspare:",
            "gpu_pool is 4, but must be a section with the keys cloud, instance_types, minimum, "
            "maximum, on_demand_base, spot_share, volume_gib, image_parameter, image, time_slices, "
            "device_plugin_image, autoscaler_image; spare is not a setting; the keys allowed there "
            "are kind, backend, model_store, model_replicas, region, zones, aws, gcp, azure, ports, "
            "kubernetes, network, sites, k3s, link, gpu_pool, object_stores, serving, limits, "
            "sessions, events, tower, tracing, federation, training, trainer, policy, budget.",
        ),
    ],
)
def test_a_wrong_value_is_told_with_key_value_and_choices(tmp_path, old, new, sentence):
    assert refusal(tmp_path, changed(LOCAL, old, new)) == f"mine.yaml: {sentence}"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            '"111122223333"',
            "111122223333",
            "aws.account is 111122223333, but must be a valid string.",
        ),
        (
            'aws:\n  account: "111122223333"',
            "aws: {}",
            "aws.account is missing: name the 12-digit account, so that no other is changed.",
        ),
        ("kind: cloud", "kind: local", "ports is missing, which kind 'local' needs."),
        (
            "kind: cloud",
            "kind: cloud\nkubernetes: real",
            "kubernetes is only for kind 'local': kind 'cloud' installs k3s.",
        ),
        (
            "      - address: 10.71.0.12\n        role: server",
            "      - address: 10.71.0.12\n        role: agent",
            "sites.0.hosts has 2 of role 'server': k3s needs an odd number, 1 or 3, to keep a "
            "majority.",
        ),
        (
            "  device_plugin_image: ",
            "  # device_plugin_image: ",
            "gpu_pool.device_plugin_image is missing: without NVIDIA's device plugin no pod gets a "
            "GPU.",
        ),
        (
            "  autoscaler_image: ",
            "  # autoscaler_image: ",
            "gpu_pool.autoscaler_image is missing: nobody would go from 0 to 8 machines.",
        ),
        (
            "    amd64: \"0000000000000000000000000000000000000000000000000000000000000000\"\n"
            "  # For",
            "    arm64: \"0000000000000000000000000000000000000000000000000000000000000000\"\n"
            "  # For",
            "k3s.binary_sha256 lacks 'amd64', which the GPU machines are.",
        ),
        (
            "  time_slices: 1",
            "  time_slices: 0",
            "gpu_pool.time_slices is 0, but must be greater than or equal to 1.",
        ),
        (
            "      - address: 10.71.0.12\n        role: server",
            "      - address: 10.71.0.12\n        role: server\n        architecture: arm64",
            "k3s.binary_sha256 lacks 'arm64', which a host has.",
        ),
        *(
            (
                "registry.example.com/hybrid/serving:0.1.0",
                f"registry.example.com:5000/hybrid/serving{tag}",
                f"serving.image: 'registry.example.com:5000/hybrid/serving{tag}' names no version, "
                "so that it may be another image tomorrow: write NAME:VERSION, or NAME@sha256:… of "
                "its content.",
            )
            for tag in ("", ":latest")
        ),
        (
            "hybrid/serving:0.1.0",
            "hybrid/serving:0.1.0@sha256:12",
            "serving.image: 'registry.example.com/hybrid/serving:0.1.0@sha256:12' is no image: write "
            "NAME:VERSION, or NAME@sha256:… of its content.",
        ),
    ],
)
def test_a_real_environment_must_say_more(tmp_path, old, new, sentence):
    assert refusal(tmp_path, changed(PRODUCTION, old, new)) == f"mine.yaml: {sentence}"


KEYS = [
    (section, key)
    for section, content in yaml.safe_load(LOCAL).items()
    for key in (content if isinstance(content, dict) else [None])
]


@given(st.sampled_from(KEYS), st.one_of(st.none(), st.integers(), st.text(), st.lists(st.none())))
def test_no_value_anywhere_ends_in_a_traceback(tmp_path_factory, place, value):
    section, key = place
    data = yaml.safe_load(LOCAL)
    if key is None:
        data[section] = value
    else:
        data[section][key] = value
    folder = tmp_path_factory.mktemp("settings")
    (folder / "mine.yaml").write_text(yaml.safe_dump(data))
    try:
        load_settings("mine", [folder])
    except SettingsError as error:
        assert section in str(error)


def test_reading_settings_does_not_import_pulumi():
    program = (
        "import sys, stacks.settings; stacks.settings.load_settings('local'); "
        "sys.exit('pulumi' in sys.modules)"
    )
    project = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=project).returncode == 0


def test_an_image_may_be_named_by_its_content(tmp_path):
    named = f"hybrid/serving@sha256:{'0a' * 32}"
    text = changed(PRODUCTION, "registry.example.com/hybrid/serving:0.1.0", named)
    (tmp_path / "mine.yaml").write_text(text)
    assert load_settings("mine", [tmp_path]).serving.image == named


def test_training_is_optional_and_must_fit_the_gpu_pool(tmp_path):
    assert load_settings("local", [SHIPPED]).training is None
    section = "training:\n  image: hybrid/training:1\n  data: s3://shop/events.parquet\n"
    section += "  recipe: {dimension: 128, bfloat16: true, learning_rate: 0.001}\n"
    (tmp_path / "mine.yaml").write_text(PRODUCTION + section)
    training = load_settings("mine", [tmp_path]).training
    assert training.recipe == {"dimension": 128, "bfloat16": True, "learning_rate": 0.001}
    assert (training.nodes, training.gpus_per_node) == (1, 1)
    assert refusal(tmp_path, PRODUCTION + section + "  nodes: 9\n") == (
        "mine.yaml: training.nodes is 9, but gpu_pool.maximum is 8: "
        "the pods would wait for each other for ever."
    )
    sliced = changed(PRODUCTION, "time_slices: 1", "time_slices: 4") + section
    assert load_settings_of(tmp_path, sliced).gpu_pool.time_slices == 4
    assert refusal(tmp_path, sliced + "  gpus_per_node: 2\n") == (
        "mine.yaml: training.gpus_per_node is 2, but with gpu_pool.time_slices 4 a pod gets one "
        "slice of a GPU: set one of them to 1."
    )
    assert "training.gpus is not a setting; the keys allowed there are image, data, recipe" in (
        refusal(tmp_path, PRODUCTION + section + "  gpus: 2\n")
    )


# A section of the shipped example.
AZURE = re.search(r"(?ms)^azure:\n.*?(?=^$)", (SHIPPED / "production-azure.yaml").read_text())[0]


@pytest.mark.parametrize(
    ("environment", "old", "new", "sentence"),
    [
        (
            "production-gcp",
            "zones: [europe-west4-a,",
            "zones: [europe-west4a,",
            "zones names 'europe-west4a', which is not a zone of region 'europe-west4': "
            "use europe-west4-a and the like.",
        ),
        (
            "production-gcp",
            "region: europe-west4\n",
            "region: eu-central-1\n",
            "region is 'eu-central-1', which is no region of cloud 'gcp'.",
        ),
        (
            "production-gcp",
            "  image: projects",
            "  # image: projects",
            "gpu_pool: image is missing, which cloud 'gcp' needs.",
        ),
        (
            "production-gcp",
            "[g2-standard-8]",
            "[g2-standard-8, g2-standard-4]",
            "gpu_pool: instance_types has several, of which cloud 'gcp' takes one.",
        ),
        (
            "production-gcp",
            "gpu_pool:",
            "link:\n  driver: wireguard\ngpu_pool:",
            "link.driver is 'wireguard', which only gpu_pool.cloud 'aws' has.",
        ),
        (
            "production-gcp",
            "gpu_pool:",
            "link:\n  echo: 10.9.9.9\ngpu_pool:",
            "link.echo is 10.9.9.9, which is not in network.vpc_cidr 10.80.0.0/16: name a host on "
            "the cloud's side that answers pings.",
        ),
        (
            "production-gcp",
            "  autoscaler_image: registry.example.com/cluster-autoscaler:1.33.0  # of k3s's minor "
            "version\n",
            "",
            "gpu_pool.autoscaler_image is missing: nobody would go from 0 to 8 machines.",
        ),
        (
            "production-azure",
            AZURE,
            AZURE.partition("  #")[0],
            "azure.autoscaler is missing, which gpu_pool.autoscaler_image needs: name tenant, "
            "client and principal of who may resize the scale set.",
        ),
        (
            "production-azure",
            AZURE,
            "",
            "azure is missing: name the subscription.",
        ),
        (
            "production-azure",
            "ubuntu-hpc:2204:latest",
            "ubuntu-hpc",
            "gpu_pool: image is 'microsoft-dsvm:ubuntu-hpc', but must be "
            "publisher:offer:sku:version.",
        ),
    ],
)
def test_what_another_cloud_needs_is_told(tmp_path, environment, old, new, sentence):
    text = (SHIPPED / f"{environment}.yaml").read_text()
    told = refusal(tmp_path, changed(text, old, new))
    assert told == f"mine.yaml: {sentence}"


def test_a_tower_that_shares_a_vector_says_with_whom_and_noise_by_what_measure(tmp_path):
    assert load_settings("local", [SHIPPED]).tower.shares == "nothing"
    told = refusal(tmp_path, LOCAL + "tower:\n  shares: vector\n")
    assert "tower: cloud is missing: name the service that vectors go to" in told
    told = refusal(tmp_path, LOCAL + "tower:\n  noise: 0.5\n")
    assert "tower: clip is missing: noise is measured by it" in told
