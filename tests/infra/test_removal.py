"""Listing and removing: whose an object is, what goes first, and that nothing of any kind stays."""

from __future__ import annotations

import json

import pytest
from moto import mock_aws

from cli.teardown import Teardown
from infra.clients import Aws
from infra.holdings import s3_holding
from infra.listers import AWS_KINDS, Found, list_aws
from infra.removal import drain, remove

TAGS = [{"Key": "hybrid:environment", "Value": "shop"}]


@pytest.fixture
def aws(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield Aws("eu-central-1")


def tagged(kind: str) -> list[dict]:
    return [{"ResourceType": kind, "Tags": TAGS}]


@pytest.fixture
def group(aws) -> str:
    """A group of two instances in a subnet, with all that can keep them from going."""
    ec2, autoscaling = aws("ec2"), aws("autoscaling")
    network = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tagged("vpc"))["Vpc"]
    subnet = ec2.create_subnet(
        VpcId=network["VpcId"], CidrBlock="10.0.1.0/24", TagSpecifications=tagged("subnet")
    )["Subnet"]["SubnetId"]
    firewall = ec2.create_security_group(
        GroupName="nodes", Description="nodes", VpcId=network["VpcId"],
        TagSpecifications=tagged("security-group"),
    )["GroupId"]  # fmt: skip
    ec2.create_launch_template(
        LaunchTemplateName="nodes",
        LaunchTemplateData={
            "ImageId": "ami-12c6146b",
            "InstanceType": "g5.xlarge",
            "SecurityGroupIds": [firewall],
        },
        TagSpecifications=tagged("launch-template"),
    )
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName="gpus", MinSize=2, MaxSize=4, VPCZoneIdentifier=subnet,
        LaunchTemplate={"LaunchTemplateName": "nodes", "Version": "$Latest"},
        NewInstancesProtectedFromScaleIn=True,
        Tags=[tag | {"PropagateAtLaunch": True} for tag in TAGS],
    )  # fmt: skip
    autoscaling.put_lifecycle_hook(
        AutoScalingGroupName="gpus", LifecycleHookName="drain",
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
    )  # fmt: skip
    autoscaling.suspend_processes(AutoScalingGroupName="gpus", ScalingProcesses=["Terminate"])
    return "gpus"


def test_a_drained_group_holds_nothing_back(aws, group):
    instances = aws("ec2").describe_instances()["Reservations"][0]["Instances"]
    assert [each["State"]["Name"] for each in instances] == ["running", "running"]
    drain(aws, group)
    found = aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"][0]
    assert (found["MinSize"], found["MaxSize"], found["DesiredCapacity"]) == (0, 0, 0)
    assert found["Instances"] == [] == found["SuspendedProcesses"]
    hooks = aws("autoscaling").describe_lifecycle_hooks(AutoScalingGroupName=group)
    assert hooks["LifecycleHooks"] == []
    assert "instance" not in {each.kind for each in list_aws(aws)}


def test_machines_of_a_group_that_is_known_are_no_orphans(aws, group):
    """They are in no state: the group makes them, and their disks and interfaces."""
    for disk in aws("ec2").describe_volumes()["Volumes"]:
        aws("ec2").create_tags(Resources=[disk["VolumeId"]], Tags=TAGS)
    teardown = Teardown("shop", aws, None, lambda done, total, text: None)
    everything = {each.identity for each in teardown.found()}
    made = {e.identity for e in teardown.found() if e.kind in ("instance", "volume")}
    assert len(made) == 4
    assert teardown.unrecorded(everything - made) == []
    assert {e.identity for e in teardown.unrecorded(everything - made - {group})} >= made


def test_what_is_removed_goes_in_an_order_that_services_accept(aws, group):
    """The instances are gone when the security group goes, which moto itself does not ask for."""
    found = [each for each in list_aws(aws) if each.belongs_to("shop")]
    kinds = [each.kind for each in found]
    wanted = ["group", "instance", "subnet", "security group", "vpc"]
    assert [kinds.index(kind) for kind in wanted] == sorted(kinds.index(kind) for kind in wanted)
    held = []
    client = aws("ec2")
    client.meta.events.register(
        "before-call.ec2.DeleteSecurityGroup",
        lambda **call: held.extend(each for each in list_aws(aws) if each.kind == "instance"),
    )
    remove(found, aws, None)
    assert held == []
    # moto keeps the interfaces of instances that have ended; AWS takes them along.
    assert {each.kind for each in list_aws(aws)} <= {"network interface"}


def test_every_service_is_listed_and_cleared(aws):
    """Kinds that no program of ours makes today, but an interruption or a hand can leave."""
    aws("secretsmanager").create_secret(Name="hybrid-shop-token", SecretString="x", Tags=TAGS)
    aws("ssm").put_parameter(Name="/hybrid/shop/key", Value="x", Type="String", Tags=TAGS)
    aws("logs").create_log_group(
        logGroupName="/hybrid/shop", tags={tag["Key"]: tag["Value"] for tag in TAGS}
    )
    aws("ec2").create_volume(
        AvailabilityZone="eu-central-1a", Size=1, TagSpecifications=tagged("volume")
    )
    aws("ec2").create_key_pair(KeyName="k", TagSpecifications=tagged("key-pair"))
    aws("ec2").allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip"))
    role = aws("iam").create_role(
        RoleName="hybrid-shop-role", AssumeRolePolicyDocument="{}", Tags=TAGS
    )["Role"]["RoleName"]
    allowed = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    aws("iam").put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=document)
    aws("iam").create_user(UserName="hybrid-shop-autoscaler", Tags=TAGS)
    aws("iam").create_access_key(UserName="hybrid-shop-autoscaler")
    aws("s3").create_bucket(
        Bucket="hybrid-shop-s3-1234567",  # untagged, as after a crash
        CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
    )
    aws("s3").put_object(Bucket="hybrid-shop-s3-1234567", Key="a", Body=b"four")
    assert s3_holding(aws, "hybrid-shop-s3-1234567").bytes == 4
    found = [each for each in list_aws(aws) if each.belongs_to("shop")]
    assert {f"{each.service} {each.kind}" for each in found} == {
        "secretsmanager secret", "ssm parameter", "logs log group", "ec2 volume", "ec2 key pair",
        "ec2 address", "iam role", "iam user", "s3 bucket",
    }  # fmt: skip
    remove(found, aws, None)
    assert list_aws(aws) == []


@pytest.mark.parametrize(
    ("tags", "name", "ours"),
    [
        ({"hybrid:environment": "shop"}, "anything", True),
        ({"hybrid-environment": "shop"}, "anything", True),
        ({"hybrid:environment": "shop-eu"}, "hybrid-shop-1a2b3c4", False),
        ({}, "hybrid-shop-s3-1a2b3c4", True),
        ({"Name": "x"}, "hybrid-shop-1a2b3c4", True),
        ({}, "hybrid-shop-eu-s3-1a2b3c4", False),
        ({}, "hybrid-shopping-s3-1a2b3c4", False),
        ({}, "hybrid-shop-s3", False),
        ({}, "somebody-elses", False),
    ],
)
def test_an_object_belongs_to_the_environment_of_its_tag_else_of_its_name(tags, name, ours):
    assert Found("s3", "bucket", "id", name, tags).belongs_to("shop") is ours


def test_each_kind_that_is_listed_can_be_removed():
    from infra.removal import _TAKE

    assert {kind.kind for kind in AWS_KINDS} == set(_TAKE)
