"""The GPU pool: machines that nobody reaches from outside, and none at all while idle."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

import yaml

from infra import k3s, node_boot
from infra.gpu_pool import LEAVE_SECONDS, GpuPool, GpuPoolArgs, bucket_policy

ARGS = GpuPoolArgs(
    region="eu-central-1",
    zones=("eu-central-1a", "eu-central-1b"),
    vpc_cidr=IPv4Network("10.60.0.0/16"),
    nat_per_zone=False,
    site_cidrs=["10.61.0.0/16"],
    instance_types=["g5.xlarge", "g4dn.xlarge"],
    minimum=0,
    maximum=4,
    on_demand_base=1,
    spot_share=0.8,
    volume_gib=200,
    image_parameter="/aws/service/image",
    time_slices=1,
    cluster="hybrid-test",
    joins=None,
    bucket_arn="arn:aws:s3:::models",
    tags={"hybrid:environment": "test"},
)


CLUSTER = node_boot.Cluster(
    ["10.61.0.10"],
    ["10.61.0.0/16"],
    k3s.release("v1.33.1+k3s1", "amd64", installer_sha256="1" * 64, binary_sha256="2" * 64),
)
POLICY = "aws:iam/rolePolicy:RolePolicy"


def pool() -> GpuPool:
    return GpuPool("pool", ARGS)


def joining() -> GpuPool:
    return GpuPool("pool", replace(ARGS, joins=CLUSTER))


def test_no_port_is_open_to_the_world_and_only_https_leads_out(declare):
    _, seen = declare(pool)
    rules = seen.inputs["aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"].values()
    assert {rule.get("cidrIpv4") for rule in rules} == {None, "10.61.0.0/16"}
    assert {rule.get("fromPort") for rule in rules} == {None, 8472, 10250}
    rules = seen.inputs["aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"].values()
    (world,) = [rule for rule in rules if rule.get("cidrIpv4") == "0.0.0.0/0"]
    assert (world["ipProtocol"], world["fromPort"], world["toPort"]) == ("tcp", 443, 443)


def test_machines_have_no_public_address_and_private_subnets_only(declare):
    made, seen = declare(pool)
    subnets = seen.inputs["aws:ec2/subnet:Subnet"]
    assert not any(subnet["mapPublicIpOnLaunch"] for subnet in subnets.values())
    group = seen.only("aws:autoscaling/group:Group")
    assert group["vpcZoneIdentifiers"] == [
        "pool-private-eu-central-1a-id",
        "pool-private-eu-central-1b-id",
    ]
    assert set(made.private_subnets) == set(made.private_route_tables) == set(ARGS.zones)


def test_each_private_subnet_gets_out_and_reaches_s3_without_the_nat(declare):
    _, seen = declare(pool)
    routes = seen.inputs["aws:ec2/route:Route"]
    for zone in ARGS.zones:
        assert routes[f"pool-private-{zone}"]["natGatewayId"] == "pool-nat-eu-central-1a-id"
    assert routes["pool-public"]["gatewayId"] == "pool-id"
    endpoint = seen.only("aws:ec2/vpcEndpoint:VpcEndpoint")
    assert endpoint["serviceName"] == "com.amazonaws.eu-central-1.s3"
    assert endpoint["routeTableIds"] == [f"pool-private-{zone}-id" for zone in ARGS.zones]


def test_each_zone_can_have_its_own_nat(declare):
    _, seen = declare(lambda: GpuPool("pool", replace(ARGS, nat_per_zone=True)))
    routes = seen.inputs["aws:ec2/route:Route"]
    for zone in ARGS.zones:
        assert routes[f"pool-private-{zone}"]["natGatewayId"] == f"pool-nat-{zone}-id"


def test_machines_take_tokens_for_metadata_and_encrypt_their_disks(declare):
    _, seen = declare(pool)
    template = seen.only("aws:ec2/launchTemplate:LaunchTemplate")
    assert template["metadataOptions"]["httpTokens"] == "required"
    assert template["metadataOptions"]["httpPutResponseHopLimit"] == 1
    (disk,) = template["blockDeviceMappings"]
    assert disk["ebs"]["encrypted"] == "true"
    assert template["imageId"] == "resolve:ssm:/aws/service/image"
    assert "keyName" not in template, "nobody logs in by SSH"


def test_the_group_is_empty_at_first_and_mostly_spot(declare):
    _, seen = declare(pool)
    group = seen.only("aws:autoscaling/group:Group")
    assert (group["minSize"], group["maxSize"]) == (0, 4)
    mixed = group["mixedInstancesPolicy"]
    assert mixed["instancesDistribution"]["onDemandBaseCapacity"] == 1
    assert mixed["instancesDistribution"]["onDemandPercentageAboveBaseCapacity"] == 20
    kinds = [override["instanceType"] for override in mixed["launchTemplate"]["overrides"]]
    assert kinds == ["g5.xlarge", "g4dn.xlarge"]


def test_the_cluster_autoscaler_finds_the_group_and_its_gpu(declare):
    _, seen = declare(pool)
    group = seen.only("aws:autoscaling/group:Group")
    tags = {tag["key"]: tag["value"] for tag in group["tags"]}
    assert tags["k8s.io/cluster-autoscaler/hybrid-test"] == "owned"
    template = "k8s.io/cluster-autoscaler/node-template"
    assert tags[f"{template}/resources/nvidia.com/gpu"] == "1"
    assert tags[f"{template}/taint/nvidia.com/gpu"] == "present:NoSchedule"
    assert tags[f"{template}/label/hybrid/pool"] == "gpu"
    assert tags["hybrid:environment"] == "test"
    assert all(tag["propagateAtLaunch"] for tag in group["tags"])


def test_a_machine_may_use_one_bucket_and_delete_nothing(declare):
    _, seen = declare(pool)
    policy = json.loads(seen.only("aws:iam/rolePolicy:RolePolicy")["policy"])
    assert policy == json.loads(bucket_policy("arn:aws:s3:::models"))
    actions = [statement["Action"] for statement in policy["Statement"]]
    assert actions == ["s3:ListBucket", ["s3:GetObject", "s3:PutObject"]]
    assert all(s["Resource"].startswith("arn:aws:s3:::models") for s in policy["Statement"])
    assert "aws:iam/rolePolicyAttachment:RolePolicyAttachment" not in seen.inputs


def test_a_sliced_gpu_counts_as_many(declare):
    _, seen = declare(lambda: GpuPool("pool", replace(ARGS, time_slices=4)))
    tags = {tag["key"]: tag["value"] for tag in seen.only("aws:autoscaling/group:Group")["tags"]}
    assert tags["k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu"] == "4"


def test_machines_boot_with_what_makes_them_nodes_and_with_no_secret(declare, settled):
    made, seen = declare(joining)
    secret = "arn:aws:test:::pool-join"
    assert settled(made.token_secret)[0] == secret
    group = seen.only("aws:autoscaling/group:Group")["name"]
    data = base64.b64decode(seen.only("aws:ec2/launchTemplate:LaunchTemplate")["userData"])
    membership = node_boot.on_aws("eu-central-1", secret, group, "hybrid-leave")
    assert data.decode() == node_boot.user_data(CLUSTER, membership)
    assert yaml.safe_load(data)["runcmd"]
    assert "aws:secretsmanager/secretVersion:SecretVersion" not in seen.inputs


def test_a_machine_may_read_the_token_and_say_that_it_left_and_no_more(declare):
    _, seen = declare(joining)
    policies = {name: json.loads(each["policy"]) for name, each in seen.inputs[POLICY].items()}
    assert policies.keys() == {"pool-models", "pool-join", "pool-leave"}
    assert policies["pool-join"]["Statement"] == [
        {
            "Effect": "Allow",
            "Action": ["secretsmanager:GetSecretValue"],
            "Resource": "arn:aws:test:::pool-join",
        }
    ]
    assert policies["pool-leave"]["Statement"] == [
        {
            "Effect": "Allow",
            "Action": ["autoscaling:CompleteLifecycleAction"],
            "Resource": "arn:aws:test:::pool",
        }
    ]


def test_the_group_waits_for_a_machine_to_leave_but_not_for_ever(declare):
    _, seen = declare(joining)
    hook = seen.only("aws:autoscaling/lifecycleHook:LifecycleHook")
    assert hook["autoscalingGroupName"] == seen.only("aws:autoscaling/group:Group")["name"]
    assert hook["lifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
    assert (hook["name"], hook["defaultResult"]) == ("hybrid-leave", "CONTINUE")
    assert node_boot.DRAIN_SECONDS < hook["heartbeatTimeout"] == LEAVE_SECONDS < 300


def test_without_a_cluster_there_is_nothing_to_boot_into(declare):
    made, seen = declare(pool)
    assert made.token_secret is None
    assert "userData" not in seen.only("aws:ec2/launchTemplate:LaunchTemplate")
    assert "aws:autoscaling/lifecycleHook:LifecycleHook" not in seen.inputs


def test_a_preview_knows_no_user_data_yet(declare, settled):
    made, seen = declare(joining, preview=True)
    assert settled(made.token_secret)[1] is False
    assert "userData" not in seen.only("aws:ec2/launchTemplate:LaunchTemplate")


@pytest.mark.parametrize(
    "kind",
    [
        "aws:ec2/vpc:Vpc",
        "aws:ec2/subnet:Subnet",
        "aws:ec2/natGateway:NatGateway",
        "aws:ec2/eip:Eip",
        "aws:ec2/routeTable:RouteTable",
        "aws:ec2/securityGroup:SecurityGroup",
        "aws:ec2/launchTemplate:LaunchTemplate",
        "aws:iam/role:Role",
    ],
)
def test_everything_that_can_carry_a_name_does(declare, kind):
    _, seen = declare(pool)
    assert all(inputs["tags"]["Name"] == name for name, inputs in seen.inputs[kind].items())


def test_a_preview_knows_the_shape_but_no_id(declare, settled):
    made, seen = declare(pool, preview=True)
    assert settled(made.vpc_id)[1] is False
    assert len(seen.inputs["aws:ec2/subnet:Subnet"]) == 4
    assert seen.only("aws:autoscaling/group:Group")["vpcZoneIdentifiers"] == [None, None]
