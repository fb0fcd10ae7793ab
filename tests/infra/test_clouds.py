"""Layers `cloud` and `link` on Google Cloud and Azure: who gets in, what it costs at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import azure_gpu_pool
from infra.gcp_autoscaler_access import GcpAutoscalerAccess, GcpAutoscalerAccessArgs
from infra.gcp_gpu_pool import groups, scheduling
from infra.gcp_site_link import MOST_SITES, inside_addresses
from infra.offline import schema
from stacks import cloud, link, platform
from stacks.settings import SHIPPED, load_settings

CLOUDS = {"gcp": "production-gcp", "azure": "production-azure"}
SITE = "10.81.0.0/16"


def sent(value: Any) -> Any:
    """Inputs as a plugin gets them: whole numbers are told as such."""
    if isinstance(value, dict):
        return {key: sent(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [sent(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.fixture
def plan(declare, monkeypatch):
    """Run a layer's program: ``plan("gcp", cloud)`` gives what it declares."""
    monkeypatch.setenv("HYBRID_AUTOSCALER_SECRET", "swordfish")

    def run(name: str, layer, preview: bool = False):
        environment = CLOUDS[name]
        program = layer.program
        return declare(
            lambda: program(environment, load_settings(environment, [SHIPPED])), preview
        )[1]

    return run


@pytest.mark.parametrize("name", CLOUDS)
def test_the_platform_plans_while_nothing_is_known_and_misspells_no_property(plan, name):
    """Layers `cloud` and `link` the engine plans, in tests/stacks/test_programs.py."""
    seen = plan(name, platform, preview=True)
    kinds = {kind for kind in seen.inputs if kind.startswith((f"{name}:", "tls:", "random:"))}
    assert len(kinds) > 3
    for kind in kinds:
        for inputs in seen.inputs[kind].values():
            found = schema.validate(sent(inputs), schema.input_properties(kind))
            # What is not known is left out.
            assert [each for each in found if not each.reason.endswith("is required")] == []


@pytest.mark.parametrize("environment", CLOUDS.values())
def test_all_four_layers_are_planned_without_an_account_and_break_no_rule(environment, tmp_path):
    command = [str(Path(sys.executable).with_name("hybrid")), "plan", environment]
    done = subprocess.run(
        [*command, "--fast", "--json"],
        env=os.environ | {"HYBRID_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    layers = {change["layer"] for change in json.loads(done.stdout)["changes"]}
    assert layers == {"private", "cloud", "link", "platform"}


def test_on_azure_the_autoscaler_looks_at_one_group_and_resizes_one_scale_set(plan):
    seen = plan("azure", cloud)
    roles = seen.inputs["azure:authorization/roleDefinition:RoleDefinition"]
    assignments = seen.inputs["azure:authorization/assignment:Assignment"]
    given = {key: roles[f"hybrid-production-azure-autoscaler-{key}"] for key in ("look", "resize")}
    for key, role in given.items():
        assigned = assignments[f"hybrid-production-azure-autoscaler-{key}"]
        assert assigned["principalId"] == "00000000-1111-2222-3333-777777777777"
        assert [assigned["scope"]] == role["assignableScopes"] == ["hybrid-production-azure-id"]
    actions = {key: role["permissions"][0]["actions"] for key, role in given.items()}
    assert all(action.endswith("/read") for action in actions["look"])
    assert sorted(actions["resize"]) == [
        "Microsoft.Compute/virtualMachineScaleSets/delete/action",
        "Microsoft.Compute/virtualMachineScaleSets/write",
    ]


def test_on_azure_the_autoscaler_finds_the_scale_set_by_its_tags_and_knows_its_nodes(plan):
    scale_set = plan("azure", cloud).only(
        "azure:compute/orchestratedVirtualMachineScaleSet:OrchestratedVirtualMachineScaleSet"
    )
    seen = plan("azure", platform)
    pod = seen.inputs["kubernetes:apps/v1:Deployment"]["autoscaler"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (found,) = (a for a in container["command"] if a.startswith("--node-group-auto-discovery="))
    wanted = dict(pair.split("=") for pair in found.partition("=label:")[2].split(","))
    tags = scale_set["tags"]
    assert wanted and wanted.items() <= tags.items() and (tags["min"], tags["max"]) == ("0", "8")
    template = "k8s.io_cluster-autoscaler_node-template"
    assert tags[f"{template}_taint_nvidia.com_gpu"] == "present:NoSchedule"
    boot = b64decode(scale_set["osProfile"]["customData"]).decode()
    for label in ("hybrid_pool", "accelerator"):
        assert f"{label.replace('_', '/')}={tags[f'{template}_label_{label}']}" in boot
    told = {each["name"]: each["value"] for each in container["env"]}
    assert told["ARM_RESOURCE_GROUP"] == "resource_group-of-another-layer"
    assert told["AZURE_ENABLE_VMSS_FLEX"] == "true" and "swordfish" not in json.dumps(pod)
    secret = seen.inputs["kubernetes:core/v1:Secret"]["autoscaler"]
    assert secret["stringData"] == {"ARM_CLIENT_SECRET": "swordfish"}
    assert "stringData" in seen.secrets["kubernetes:core/v1:Secret", "autoscaler"]


def test_on_azure_up_says_that_the_autoscaler_has_no_secret(plan, monkeypatch):
    monkeypatch.delenv("HYBRID_AUTOSCALER_SECRET")
    with pytest.raises(Exception, match="set HYBRID_AUTOSCALER_SECRET to the secret of"):
        plan("azure", platform)


def test_on_gcp_the_autoscaler_finds_each_group_with_its_bounds_and_knows_its_nodes(plan):
    below, seen = plan("gcp", cloud), plan("gcp", platform)
    pod = seen.inputs["kubernetes:apps/v1:Deployment"]["autoscaler"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "--cloud-provider=gce" in container["command"]
    found = dict(
        reversed(argument.removeprefix("--nodes=").split(":https://www.googleapis.com/compute/v1/"))
        for argument in container["command"]
        if argument.startswith("--nodes=")
    )
    bounds = {
        name: scaler["autoscalingPolicy"]
        for name, scaler in below.inputs["gcp:compute/autoscaler:Autoscaler"].items()
    }
    managers = below.inputs["gcp:compute/instanceGroupManager:InstanceGroupManager"]
    assert found == {
        f"projects/example-hybrid/zones/{made['zone']}/instanceGroups/{made['name']}": (
            f"{bounds[name]['minReplicas']:.0f}:{bounds[name]['maxReplicas']:.0f}"
        )
        for name, made in managers.items()
    }


def test_on_gcp_a_group_without_machines_tells_what_its_nodes_will_have(plan):
    """In the words of the cluster autoscaler's templates.go: pairs of a list within one value."""
    seen = plan("gcp", cloud)
    templates = seen.inputs["gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"]
    for name, template in templates.items():
        (told,) = yaml.safe_load(template["metadata"]["kube-env"]).items()
        assert told[0] == "AUTOSCALER_ENV_VARS"
        values = dict(pair.split("=", 1) for pair in told[1].split(";"))
        assert values["os"] == "linux" and values["extended_resources"] == "nvidia.com/gpu=1"
        boot = template["metadata"]["user-data"]
        assert f"- {values['node_taints']}\n" in boot
        labels = dict(pair.split("=") for pair in values["node_labels"].split(","))
        assert labels.pop("hybrid/capacity") == name.removeprefix("hybrid-production-gcp-")
        assert labels and all(f"- {key}={value}\n" in boot for key, value in labels.items())


def test_on_gcp_the_autoscaler_can_resize_groups_and_make_nothing(plan):
    seen = plan("gcp", cloud)
    role = seen.only("gcp:projects/iAMCustomRole:IAMCustomRole")
    changing = [p for p in role["permissions"] if not p.endswith((".get", ".list"))]
    assert changing == ["compute.instanceGroupManagers.update"]
    assert role["roleId"] == "hybrid_production_gcp_autoscaler_0a1b2c3d"
    key = seen.only("gcp:serviceaccount/key:Key")
    assert key["serviceAccountId"] == "hybrid-production-gcp-autoscaler-name"


def test_on_gcp_the_autoscalers_key_is_in_one_secret_file_and_nowhere_else(plan):
    seen = plan("gcp", platform)
    secret = seen.inputs["kubernetes:core/v1:Secret"]["autoscaler"]
    assert secret["stringData"] == {
        "key.json": "autoscaler_key-of-another-layer",
        "gce.conf": "[global]\nproject-id = example-hybrid\nlocal-zone = europe-west4-a\n",
    }
    assert "stringData" in seen.secrets["kubernetes:core/v1:Secret", "autoscaler"]
    pod = seen.inputs["kubernetes:apps/v1:Deployment"]["autoscaler"]["spec"]["template"]["spec"]
    assert "autoscaler_key" not in json.dumps(pod)
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = container["volumeMounts"]
    assert volume["secret"] == {"secretName": secret["metadata"]["name"], "defaultMode": 0o440}
    told = {each["name"]: each["value"] for each in container["env"]}
    assert told == {"GOOGLE_APPLICATION_CREDENTIALS": f"{mount['mountPath']}/key.json"}
    assert f"--cloud-config={mount['mountPath']}/gce.conf" in container["command"]


def test_on_gcp_the_key_leaves_the_layer_as_a_secret(declare, settled):
    args = GcpAutoscalerAccessArgs("example-hybrid", "hybrid-environment=test")
    made, _ = declare(lambda: GcpAutoscalerAccess("hybrid-test", args))
    value, known, secret = settled(made.key)
    assert (json.loads(value), known, secret) == ({"private_key": "swordfish"}, True, True)


def test_gcp_opens_no_port_to_the_world_and_lets_only_https_out(plan):
    rules = plan("gcp", cloud).inputs["gcp:compute/firewall:Firewall"].values()
    inbound = [rule for rule in rules if rule["direction"] == "INGRESS"]
    assert {cidr for rule in inbound for cidr in rule.get("sourceRanges", [])} == {SITE}
    out = [r for r in rules if r.get("destinationRanges") == ["0.0.0.0/0"]]
    (allowed,), (denied,) = ([r for r in out if key in r] for key in ("allows", "denies"))
    assert allowed["allows"] == [{"protocol": "tcp", "ports": ["443"]}]
    assert denied["priority"] > 1000, "after every rule that allows"
    assert all(rule["targetServiceAccounts"] for rule in rules)


def test_what_gcp_gives_no_label_tells_in_its_description_whose_it_is(plan):
    """`hybrid orphans` and `hybrid down` know it by that."""
    seen = {**plan("gcp", cloud).inputs, "gcp:compute/router:Router": {}}
    seen["gcp:compute/router:Router"] |= plan("gcp", link).inputs["gcp:compute/router:Router"]
    unlabelled = ("network:Network", "subnetwork:Subnetwork", "router:Router", "firewall:Firewall",
                  "instanceGroupManager:InstanceGroupManager",
                  "autoscaler:Autoscaler")  # fmt: skip
    kinds = [f"gcp:compute/{kind}" for kind in unlabelled]
    kinds += ["gcp:serviceaccount/account:Account", "gcp:projects/iAMCustomRole:IAMCustomRole"]
    for kind in kinds:
        assert seen[kind], kind
        for inputs in seen[kind].values():
            assert inputs["description"] == "hybrid-environment=production-gcp", kind


def test_gcp_machines_are_private_and_their_account_cannot_delete(plan):
    seen = plan("gcp", cloud)
    templates = seen.inputs["gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"]
    for template in templates.values():
        (interface,) = template["networkInterfaces"]
        assert "accessConfigs" not in interface
        assert template["metadata"]["block-project-ssh-keys"] == "TRUE"
    roles = seen.inputs["gcp:storage/bucketIAMMember:BucketIAMMember"].values()
    assert {each["role"] for each in roles} == {
        "roles/storage.objectViewer",
        "roles/storage.objectCreator",
    }
    for member in seen.inputs["gcp:projects/iAMMember:IAMMember"].values():
        assert member["member"] == "serviceAccount:hybrid-production-gcp-autoscaler@of-the-test"
    nat = seen.only("gcp:compute/routerNat:RouterNat")
    assert nat["sourceSubnetworkIpRangesToNat"] == "ALL_SUBNETWORKS_ALL_IP_RANGES"


def test_gcp_machines_boot_into_the_cluster_with_a_token_that_only_they_can_read(plan):
    seen = plan("gcp", cloud)
    templates = seen.inputs["gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"]
    for template in templates.values():
        boot = template["metadata"]["user-data"]
        assert "TOKEN_SECRET=hybrid-production-gcp-join-id" in boot and "SERVERS=10.81.0.11" in boot
        assert boot.startswith("#cloud-config\n")
    secret = seen.only("gcp:secretmanager/secret:Secret")
    assert secret["replication"]["userManaged"]["replicas"] == [{"location": "europe-west4"}]
    reader = seen.only("gcp:secretmanager/secretIamMember:SecretIamMember")
    assert reader["role"] == "roles/secretmanager.secretAccessor"
    assert reader["member"].startswith("serviceAccount:")


@pytest.mark.parametrize(
    ("name", "kind", "key"),
    [
        ("gcp", "gcp:secretmanager/secretVersion:SecretVersion", "secretData"),
        ("azure", "azure:keyvault/secret:Secret", "value"),
    ],
)
def test_the_platform_puts_the_token_in_as_a_secret(plan, name, kind, key):
    seen = plan(name, platform)
    (resource,) = seen.inputs[kind]
    assert seen.inputs[kind][resource][key] == "join_token-of-another-layer"
    assert key in seen.secrets[kind, resource]


def test_gcp_groups_grow_from_zero_to_the_maximum_and_most_are_spot(plan):
    seen = plan("gcp", cloud)
    scalers = seen.inputs["gcp:compute/autoscaler:Autoscaler"]
    bounds = {
        name.rpartition("gcp-")[2]: (p["autoscalingPolicy"]["minReplicas"],
                                     p["autoscalingPolicy"]["maxReplicas"])
        for name, p in scalers.items()
    }  # fmt: skip
    spot = dict.fromkeys(("spot-a", "spot-b", "spot-c"), (0, 2))
    assert bounds == {"on-demand-a": (0, 1), "on-demand-b": (0, 1)} | spot
    assert scheduling(spot=True)["instance_termination_action"] == "DELETE"


@given(
    st.integers(1, 4),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 60),
    st.floats(0, 1, allow_nan=False),
)
@settings(max_examples=60, deadline=None)
def test_the_groups_of_a_pool_make_up_its_bounds(zones, minimum, more, base, spot_share):
    maximum = minimum + more
    names = [f"europe-west4-{letter}" for letter in "abcd"[:zones]]
    split = groups("hybrid-test", names, minimum, maximum, base, spot_share)
    assert len({share.name for share in split}) == len(split)
    assert sum(share.minimum for share in split) == minimum
    assert sum(share.maximum for share in split) == maximum
    assert all(0 <= share.minimum <= share.maximum for share in split)
    on_demand = sum(share.maximum for share in split if not share.spot)
    assert on_demand >= min(base, maximum)


def test_gcs_is_closed_and_there_is_no_s3(plan):
    seen = plan("gcp", cloud)
    bucket = seen.only("gcp:storage/bucket:Bucket")
    assert bucket["publicAccessPrevention"] == "enforced"
    assert bucket["uniformBucketLevelAccess"] is True and bucket["lifecycleRules"]
    assert not [kind for kind in seen.inputs if kind.startswith("aws:")]


def test_each_site_has_two_gcp_tunnels_with_keys_of_their_own_and_one_strong_proposal(plan):
    seen = plan("gcp", link)
    tunnels = seen.inputs["gcp:compute/vPNTunnel:VPNTunnel"]
    assert sorted(t["vpnGatewayInterface"] for t in tunnels.values()) == [0, 1]
    for name, tunnel in tunnels.items():
        assert tunnel["ikeVersion"] == 2
        assert tunnel["cipherSuite"]["phase1"]["encryptions"] == ["AES-GCM-16-256"]
        assert tunnel["cipherSuite"]["phase2"]["pfs"] == ["Group-20"]
        assert "sharedSecret" in seen.secrets["gcp:compute/vPNTunnel:VPNTunnel", name]
    assert len(seen.inputs["random:index/randomPassword:RandomPassword"]) == 2
    (router,) = [r for r in seen.inputs["gcp:compute/router:Router"].values() if "bgp" in r]
    assert router["bgp"]["advertisedIpRanges"] == [{"range": "10.80.0.0/16"}]


def test_no_two_tunnels_share_an_inside_address():
    pairs = [inside_addresses(site, tunnel) for site in range(MOST_SITES) for tunnel in (0, 1)]
    networks = {ours.network for ours, theirs in pairs if ours.network == theirs.network}
    assert len(networks) == len(pairs)
    assert all(network.subnet_of(IPv4Network("169.254.0.0/16")) for network in networks)
    with pytest.raises(ValueError, match="no tunnel 2 to site 0"):
        inside_addresses(0, 2)


def test_azure_opens_no_port_to_the_world_and_lets_only_https_out(plan):
    group = plan("azure", cloud).only("azure:network/networkSecurityGroup:NetworkSecurityGroup")
    rules = {rule["name"]: rule for rule in group["securityRules"]}
    assert len({rule["priority"] for rule in rules.values()}) == len(rules)
    allowed_in = [
        r for r in rules.values() if (r["direction"], r["access"]) == ("Inbound", "Allow")
    ]
    assert {r["sourceAddressPrefix"] for r in allowed_in} == {"10.90.0.0/17", "10.91.0.0/16"}
    assert rules["https-out"]["destinationPortRange"] == "443"
    for last in ("none-in", "none-out"):
        assert (rules[last]["access"], rules[last]["sourceAddressPrefix"]) == ("Deny", "*")


def test_azure_machines_are_private_and_their_role_cannot_delete(plan):
    seen = plan("azure", cloud)
    kind = "azure:compute/orchestratedVirtualMachineScaleSet:OrchestratedVirtualMachineScaleSet"
    group = seen.only(kind)
    (interface,) = group["networkInterfaces"]
    assert "publicIpAddresses" not in interface["ipConfigurations"][0]
    assert group["priorityMix"] == {"baseRegularCount": 1, "regularPercentageAboveBase": 25}
    assert (group["instances"], group["tags"]["max"]) == (0, "8")
    assert group["encryptionAtHostEnabled"] is True
    roles = seen.inputs["azure:authorization/roleDefinition:RoleDefinition"]
    (permissions,) = roles["hybrid-production-azure-models"]["permissions"]
    granted = [*permissions["actions"], *permissions["dataActions"]]
    assert not [action for action in granted if "delete" in action or "*" in action]


def test_azure_machines_boot_into_the_cluster_with_a_token_that_only_they_can_read(plan):
    seen = plan("azure", cloud)
    kind = "azure:compute/orchestratedVirtualMachineScaleSet:OrchestratedVirtualMachineScaleSet"
    group = seen.only(kind)
    boot = b64decode(group["osProfile"]["customData"]).decode()
    assert "SERVERS=10.91.0.11" in boot and "VAULT=https://of-the-test" in boot
    assert group["terminationNotification"] == {"enabled": True, "timeout": "PT5M"}
    vault = seen.only("azure:keyvault/keyVault:KeyVault")
    assert vault["networkAcls"]["defaultAction"] == "Deny"
    assert vault["networkAcls"]["ipRules"] == ["203.0.113.10"]
    assert vault["rbacAuthorizationEnabled"] is True
    roles = seen.inputs["azure:authorization/assignment:Assignment"].values()
    assert {role.get("roleDefinitionName") for role in roles} == {None, "Key Vault Secrets User"}


def test_the_azure_account_is_closed_keyless_and_forgives_a_mistake(plan):
    account = plan("azure", cloud).only("azure:storage/account:Account")
    assert account["allowNestedItemsToBePublic"] is False
    assert account["sharedAccessKeyEnabled"] is False
    assert account["minTlsVersion"] == "TLS1_2"
    assert account["networkRules"]["defaultAction"] == "Deny"
    assert account["blobProperties"]["deleteRetentionPolicy"] == {"days": 90}
    assert account["blobProperties"]["versioningEnabled"] is True


def test_the_azure_gateway_has_two_tunnels_and_one_strong_policy(plan):
    seen = plan("azure", link)
    gateway = seen.only("azure:network/virtualNetworkGateway:VirtualNetworkGateway")
    assert gateway["activeActive"] is True and len(gateway["ipConfigurations"]) == 2
    kind = "azure:network/virtualNetworkGatewayConnection:VirtualNetworkGatewayConnection"
    connection = seen.only(kind)
    assert connection["connectionProtocol"] == "IKEv2"
    assert connection["ipsecPolicy"]["dhGroup"] == "ECP384"
    assert connection["ipsecPolicy"]["ipsecEncryption"] == "GCMAES256"
    (name,) = seen.inputs[kind]
    assert "sharedKey" in seen.secrets[kind, name]


@given(st.integers(8, 26))
@settings(max_examples=10, deadline=None)
def test_azure_subnets_lie_apart_within_the_network(prefix):
    whole = IPv4Network(f"10.0.0.0/{prefix}")
    machines, gateway = azure_gpu_pool.subnets(whole)
    assert machines.subnet_of(whole) and gateway.subnet_of(whole)
    assert not machines.overlaps(gateway) and gateway.prefixlen == 27


def test_a_network_that_is_too_small_for_azure_is_named():
    with pytest.raises(ValueError, match="10.0.0.0/27 is too small"):
        azure_gpu_pool.subnets(IPv4Network("10.0.0.0/27"))
