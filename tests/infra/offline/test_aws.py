"""Every AWS type through the real engine against moto: up, up, refresh, change, destroy."""

from __future__ import annotations

import base64
import json
from typing import Any

import boto3
import pulumi
import pulumi_aws as aws
import pytest

from infra.offline.aws import TYPES

TAGS = {"Name": "test", "environment": "local"}


def provider(url: str) -> aws.Provider:
    services = ("ec2", "iam", "s3", "autoscaling", "secretsmanager", "sts")
    return aws.Provider(
        "emulated",
        region="eu-west-1",
        access_key="test",
        secret_key="test",
        skip_credentials_validation=True,
        skip_metadata_api_check=True,
        skip_requesting_account_id=True,
        s3_use_path_style=True,
        endpoints=[aws.ProviderEndpointArgs(**{name: url for name in services})],
    )


def everything(url: str, settings: dict[str, Any]) -> None:
    """A program with each type of the table, in the shapes that the components use."""
    options = pulumi.ResourceOptions(provider=provider(url))
    network = aws.ec2.Vpc(
        "network",
        cidr_block=settings.get("cidr", "10.20.0.0/16"),
        enable_dns_hostnames=True,
        tags=TAGS,
        opts=options,
    )
    public = aws.ec2.Subnet(
        "public",
        vpc_id=network.id,
        cidr_block=settings.get("public", "10.20.0.0/20"),
        availability_zone="eu-west-1a",
        map_public_ip_on_launch=True,
        tags=TAGS,
        opts=options,
    )
    internet = aws.ec2.InternetGateway("internet", vpc_id=network.id, tags=TAGS, opts=options)
    address = aws.ec2.Eip("address", domain="vpc", tags=TAGS, opts=options)
    nat = aws.ec2.NatGateway(
        "nat", subnet_id=public.id, allocation_id=address.id, tags=TAGS, opts=options
    )
    table = aws.ec2.RouteTable("table", vpc_id=network.id, tags=TAGS, opts=options)
    aws.ec2.Route(
        "out",
        route_table_id=table.id,
        destination_cidr_block="0.0.0.0/0",
        **{"gateway_id": internet.id}
        if settings.get("public_route")
        else {"nat_gateway_id": nat.id},
        opts=options,
    )
    aws.ec2.RouteTableAssociation(
        "member", subnet_id=public.id, route_table_id=table.id, opts=options
    )
    aws.ec2.VpcEndpoint(
        "objects",
        vpc_id=network.id,
        service_name="com.amazonaws.eu-west-1.s3",
        route_table_ids=[table.id],
        tags=TAGS,
        opts=options,
    )
    inline = aws.ec2.SecurityGroup(
        "inline",
        vpc_id=network.id,
        ingress=[
            aws.ec2.SecurityGroupIngressArgs(
                protocol="tcp", from_port=22, to_port=22, cidr_blocks=["10.0.0.0/8"]
            )
        ],
        egress=[
            aws.ec2.SecurityGroupEgressArgs(
                protocol="-1", from_port=0, to_port=0, cidr_blocks=["0.0.0.0/0"]
            )
        ],
        tags=TAGS,
        opts=options,
    )
    nodes = aws.ec2.SecurityGroup(
        "nodes", name="nodes", description="nodes", vpc_id=network.id, tags=TAGS, opts=options
    )
    aws.vpc.SecurityGroupIngressRule(
        "between-nodes",
        security_group_id=nodes.id,
        referenced_security_group_id=nodes.id,
        ip_protocol="tcp",
        from_port=6443,
        to_port=settings.get("to_port", 6443),
        tags=TAGS,
        opts=options,
    )
    aws.vpc.SecurityGroupIngressRule(
        "from-site",
        security_group_id=nodes.id,
        cidr_ipv4="192.168.0.0/16",
        ip_protocol="-1",
        opts=options,
    )
    aws.vpc.SecurityGroupEgressRule(
        "anywhere",
        security_group_id=nodes.id,
        cidr_ipv4="0.0.0.0/0",
        ip_protocol="-1",
        opts=options,
    )
    role = aws.iam.Role(
        "node",
        name="node",
        assume_role_policy=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": "sts:AssumeRole",
                        "Principal": {"Service": "ec2.amazonaws.com"},
                    }
                ],
            }
        ),
        tags=TAGS,
        opts=options,
    )
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}],
    }
    aws.iam.RolePolicy("read", role=role.name, policy=json.dumps(policy), opts=options)
    aws.iam.RolePolicyAttachment(
        "managed",
        role=role.name,
        policy_arn="arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore",
        opts=options,
    )
    profile = aws.iam.InstanceProfile("node", name="node", role=role.name, tags=TAGS, opts=options)
    template = aws.ec2.LaunchTemplate(
        "gpu",
        image_id="resolve:ssm:/aws/service/ami",
        instance_type=settings.get("instance_type", "g5.xlarge"),
        iam_instance_profile=aws.ec2.LaunchTemplateIamInstanceProfileArgs(arn=profile.arn),
        vpc_security_group_ids=[nodes.id, inline.id],
        metadata_options=aws.ec2.LaunchTemplateMetadataOptionsArgs(
            http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
        ),
        block_device_mappings=[
            aws.ec2.LaunchTemplateBlockDeviceMappingArgs(
                device_name="/dev/xvda",
                ebs=aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgs(
                    volume_size=100,
                    volume_type="gp3",
                    encrypted="true",
                    delete_on_termination="true",
                ),
            )
        ],
        tag_specifications=[
            aws.ec2.LaunchTemplateTagSpecificationArgs(resource_type="instance", tags=TAGS)
        ],
        user_data=base64.b64encode(b"#!/bin/sh\n").decode(),
        update_default_version=True,
        tags=TAGS,
        opts=options,
    )
    machine = aws.ec2.Instance(
        "gateway",
        launch_template={"id": template.id, "version": "$Default"},
        subnet_id=public.id,
        source_dest_check=False,
        tags=TAGS,
        opts=options,
    )
    outside = aws.ec2.Eip("gateway", domain="vpc", tags=TAGS, opts=options)
    aws.ec2.EipAssociation(
        "gateway", allocation_id=outside.id, instance_id=machine.id, opts=options
    )
    aws.ec2.Route(
        "site",
        route_table_id=table.id,
        destination_cidr_block="192.168.0.0/16",
        network_interface_id=machine.primary_network_interface_id,
        opts=options,
    )
    group = aws.autoscaling.Group(
        "gpu",
        name="gpu",
        min_size=0,
        max_size=settings.get("max_size", 4),
        vpc_zone_identifiers=[public.id],
        mixed_instances_policy=aws.autoscaling.GroupMixedInstancesPolicyArgs(
            instances_distribution={
                "on_demand_base_capacity": 0,
                "on_demand_percentage_above_base_capacity": 20,
                "spot_allocation_strategy": "capacity-optimized",
            },
            launch_template=aws.autoscaling.GroupMixedInstancesPolicyLaunchTemplateArgs(
                launch_template_specification={
                    "launch_template_id": template.id,
                    "version": template.latest_version.apply(str),
                },
                overrides=[
                    aws.autoscaling.GroupMixedInstancesPolicyLaunchTemplateOverrideArgs(
                        instance_type=kind
                    )
                    for kind in ("g5.xlarge", "g5.2xlarge")
                ],
            ),
        ),
        force_delete=True,
        tags=[
            aws.autoscaling.GroupTagArgs(key=key, value=value, propagate_at_launch=True)
            for key, value in TAGS.items()
        ],
        opts=options,
    )
    aws.autoscaling.LifecycleHook(
        "leave",
        name="leave",
        autoscaling_group_name=group.name,
        lifecycle_transition="autoscaling:EC2_INSTANCE_TERMINATING",
        heartbeat_timeout=settings.get("timeout", 120),
        default_result="CONTINUE",
        opts=options,
    )
    user = aws.iam.User("scaler", tags=TAGS, opts=options)
    aws.iam.UserPolicy("scaler", user=user.name, policy=json.dumps(policy), opts=options)
    key = aws.iam.AccessKey("scaler", user=user.name, opts=options)
    gateway = aws.ec2.VpnGateway("vpn", vpc_id=network.id, tags=TAGS, opts=options)
    customer = aws.ec2.CustomerGateway(
        "site", bgp_asn="65010", ip_address="203.0.113.7", type="ipsec.1", tags=TAGS, opts=options
    )
    connection = aws.ec2.VpnConnection(
        "site",
        vpn_gateway_id=gateway.id,
        customer_gateway_id=customer.id,
        type="ipsec.1",
        static_routes_only=True,
        tunnel1_preshared_key=pulumi.Output.secret("tunnelkeyone"),
        tunnel1_ike_versions=["ikev2"],
        tags=TAGS,
        opts=options,
    )
    aws.ec2.VpnConnectionRoute(
        "site",
        vpn_connection_id=connection.id,
        destination_cidr_block="192.168.0.0/16",
        opts=options,
    )
    aws.ec2.VpnGatewayRoutePropagation(
        "site", vpn_gateway_id=gateway.id, route_table_id=table.id, opts=options
    )
    scratch = aws.s3.Bucket("scratch", bucket="scratch", force_destroy=True, opts=options)
    bucket = aws.s3.Bucket("store", force_destroy=True, tags=TAGS, opts=options)
    aws.s3.BucketVersioning(
        "store",
        bucket=bucket.id,
        versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(
            status="Enabled"
        ),
        opts=options,
    )
    aws.s3.BucketServerSideEncryptionConfiguration(
        "store",
        bucket=bucket.id,
        rules=[
            aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
                apply_server_side_encryption_by_default={"sse_algorithm": "aws:kms"},
                bucket_key_enabled=True,
            )
        ],
        opts=options,
    )
    aws.s3.BucketPublicAccessBlock(
        "store",
        bucket=bucket.id,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
        opts=options,
    )
    aws.s3.BucketOwnershipControls(
        "store",
        bucket=bucket.id,
        rule=aws.s3.BucketOwnershipControlsRuleArgs(object_ownership="BucketOwnerEnforced"),
        opts=options,
    )
    aws.s3.BucketLifecycleConfiguration(
        "store",
        bucket=bucket.id,
        rules=[
            aws.s3.BucketLifecycleConfigurationRuleArgs(
                id="old-versions",
                status="Enabled",
                filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix="models/"),
                noncurrent_version_expiration={"noncurrent_days": settings.get("days", 30)},
                transitions=[
                    aws.s3.BucketLifecycleConfigurationRuleTransitionArgs(
                        days=90, storage_class="STANDARD_IA"
                    )
                ],
                abort_incomplete_multipart_upload={"days_after_initiation": 7},
            )
        ],
        opts=options,
    )
    aws.s3.BucketPolicy(
        "store",
        bucket=bucket.id,
        policy=bucket.arn.apply(
            lambda arn: json.dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [arn, f"{arn}/*"],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    ],
                }
            )
        ),
        opts=options,
    )
    token = aws.secretsmanager.Secret(
        "token", name="hybrid/token", recovery_window_in_days=0, tags=TAGS, opts=options
    )
    aws.secretsmanager.SecretVersion(
        "token", secret_id=token.id, secret_string=pulumi.Output.secret("jointoken"), opts=options
    )
    pulumi.export("key", key.secret)
    pulumi.export("scratch", scratch.bucket)
    pulumi.export("vpc", network.id)
    pulumi.export("address", address.public_ip)
    pulumi.export("configuration", connection.customer_gateway_configuration)


def client(url: str, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def left_over(url: str) -> dict[str, list[str]]:
    """Names of what moto holds, by kind, without what it has from the start."""
    ec2, iam = client(url, "ec2"), client(url, "iam")
    own = [{"Name": "tag:environment", "Values": ["local"]}]
    vpcs = [v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]]
    found = {
        "vpcs": vpcs,
        "subnets": [s["SubnetId"] for s in ec2.describe_subnets(Filters=own)["Subnets"]],
        "internet gateways": [
            g["InternetGatewayId"] for g in ec2.describe_internet_gateways()["InternetGateways"]
        ],
        "nat gateways": [
            g["NatGatewayId"]
            for g in ec2.describe_nat_gateways()["NatGateways"]
            if g["State"] != "deleted"
        ],
        "addresses": [a["AllocationId"] for a in ec2.describe_addresses()["Addresses"]],
        "route tables": [
            t["RouteTableId"] for t in ec2.describe_route_tables(Filters=own)["RouteTables"]
        ],
        "endpoints": [
            e["VpcEndpointId"]
            for e in ec2.describe_vpc_endpoints()["VpcEndpoints"]
            if e["State"] != "deleted"
        ],
        "security groups": [
            g["GroupId"]
            for g in ec2.describe_security_groups()["SecurityGroups"]
            if g["GroupName"] != "default"
        ],
        "machines": [
            each["InstanceId"]
            for group in ec2.describe_instances()["Reservations"]
            for each in group["Instances"]
            if each["State"]["Name"] != "terminated"
        ],
        "templates": [
            t["LaunchTemplateId"] for t in ec2.describe_launch_templates()["LaunchTemplates"]
        ],
        "vpn gateways": [
            g["VpnGatewayId"]
            for g in ec2.describe_vpn_gateways()["VpnGateways"]
            if g["State"] != "deleted"
        ],
        "customer gateways": [
            g["CustomerGatewayId"]
            for g in ec2.describe_customer_gateways()["CustomerGateways"]
            if g["State"] != "deleted"
        ],
        "vpn connections": [
            c["VpnConnectionId"]
            for c in ec2.describe_vpn_connections()["VpnConnections"]
            if c["State"] != "deleted"
        ],
        "roles": [r["RoleName"] for r in iam.list_roles()["Roles"]],
        "users": [u["UserName"] for u in iam.list_users()["Users"]],
        "profiles": [
            p["InstanceProfileName"] for p in iam.list_instance_profiles()["InstanceProfiles"]
        ],
        "groups": [
            g["AutoScalingGroupName"]
            for g in client(url, "autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        ],
        "buckets": [b["Name"] for b in client(url, "s3").list_buckets()["Buckets"]],
        "secrets": [s["Name"] for s in client(url, "secretsmanager").list_secrets()["SecretList"]],
    }
    return {kind: names for kind, names in found.items() if names}


@pytest.mark.relies_on("EC2 tags at creation")
@pytest.mark.relies_on("S3 keeps transitions of a lifecycle")
@pytest.mark.relies_on("S3 DeleteBucket refuses a bucket with objects")
def test_every_type(run_stack, empty_moto) -> None:
    settings: dict[str, Any] = {}
    stack = run_stack(lambda: everything(empty_moto.url, settings))

    first = stack.up()
    made = {each["type"] for each in stack.export_stack().deployment["resources"]}
    assert made >= TYPES.keys()
    assert first.outputs["configuration"].secret and first.outputs["key"].secret
    assert stack.up().summary.resource_changes.keys() == {"same"}
    assert stack.refresh().summary.resource_changes.keys() == {"same"}

    settings |= {"instance_type": "g5.2xlarge", "max_size": 8, "days": 60, "public_route": True}
    settings |= {"to_port": 6444, "public": "10.20.32.0/20", "timeout": 240}
    changes = stack.up().summary.resource_changes
    # The group follows the template's new version, the route the new machine; what stands in the
    # subnet follows it: gateway, machine and both their associations.
    assert (changes["update"], changes["replace"]) == (6, 6)

    empty_moto.restart()
    assert stack.refresh().summary.resource_changes["delete"] >= len(TYPES)
    again = stack.up()
    assert again.outputs["vpc"].value != first.outputs["vpc"].value

    s3 = client(empty_moto.url, "s3")
    versioned = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket="scratch", VersioningConfiguration=versioned)
    for content in (b"one", b"two"):
        s3.put_object(Bucket="scratch", Key="model", Body=content)
    stack.destroy()
    assert left_over(empty_moto.url) == {}
