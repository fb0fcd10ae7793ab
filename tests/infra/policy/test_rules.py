"""Each rule lets one program pass and stops another; waivers end; severities are the settings'."""

from __future__ import annotations

import json
from datetime import date
from types import SimpleNamespace
from typing import get_args

import pytest

from infra.offline.wire import UNKNOWN, Secret
from infra.machine_groups import AZURE_GROUP, GCP_BOUNDS, GCP_TEMPLATE
from infra.policy.machines import GCP_GROUPS
from infra.policy.review import review
from infra.policy.rules import RULES
from infra.resources import Declared
from stacks.settings import Budget, PolicySettings, RuleName, Waiver

TODAY = date(2026, 11, 26)
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
BUCKET, GCS = "aws:s3/bucket:Bucket", "gcp:storage/bucket:Bucket"
ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"
ROUTE, GATEWAY = "aws:ec2/route:Route", "aws:ec2/internetGateway:InternetGateway"
SERVICE = "kubernetes:core/v1:Service"
PRIVATE = {"tags": {"hybrid:residency": "private"}}
FLAGS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


def resource(kind: str, inputs: dict, name: str = "it", sources: dict | None = None) -> Declared:
    sources = {key: frozenset([urn]) for key, urn in (sources or {}).items()}
    return Declared("cloud", kind, name, f"{kind}::{name}", True, inputs, sources)


def block(**flags: bool) -> Declared:
    inputs = {"bucket": UNKNOWN} | dict.fromkeys(FLAGS, True) | flags
    kind = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
    return resource(kind, inputs, sources={"bucket": f"{BUCKET}::it"})


def ingress(cidr: str, first: int, last: int) -> Declared:
    ports = {"fromPort": first, "toPort": last, "ipProtocol": "tcp"}
    return resource(INGRESS, ports | {"cidrIpv4": cidr})


def allowing(**statement: object) -> Declared:
    policy = {"Statement": [{"Effect": "Allow", **statement}]}
    return resource(ROLE_POLICY, {"policy": json.dumps(policy)})


def volume(**ebs: object) -> Declared:
    return resource(TEMPLATE, {"blockDeviceMappings": [{"deviceName": "/dev/sda1", "ebs": ebs}]})


def template(tags: dict) -> Declared:
    made = [{"resourceType": kind, "tags": tags} for kind in ("instance", "volume")]
    return resource(TEMPLATE, {"tagSpecifications": made})


def machine(**inputs: object) -> Declared:
    sources = {"launchTemplate": f"{TEMPLATE}::it"} if "launchTemplate" in inputs else None
    return resource("aws:ec2/instance:Instance", inputs, sources=sources)


def group(**inputs: object) -> Declared:
    overrides = {"launchTemplate": {"overrides": [{"instanceType": "g5.xlarge"}]}}
    kind = "aws:autoscaling/group:Group"
    return resource(kind, inputs | {"mixedInstancesPolicy": overrides})


def service(kind: str, port: int, **labels: str) -> Declared:
    spec = {"type": kind, "ports": [{"port": port}]}
    return resource(SERVICE, {"metadata": {"labels": labels}, "spec": spec})


def tagged(*keys: str) -> Declared:
    tags = json.dumps({"tags": dict.fromkeys(keys, "x")})
    return resource("pulumi:providers:aws", {"defaultTags": tags})


def policy_for_pods(peers: list, port: int) -> Declared:
    rule = {"from": peers, "ports": [{"port": port}]}
    kind = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
    return resource(kind, {"spec": {"ingress": [rule]}})


def rule_of_azure(source: str, ports: str) -> Declared:
    rule = {"direction": "Inbound", "access": "Allow", "protocol": "Tcp"}
    rule |= {"sourceAddressPrefix": source, "destinationPortRange": ports}
    kind = "azure:network/networkSecurityGroup:NetworkSecurityGroup"
    return resource(kind, {"securityRules": [rule]})


def scale_set(**inputs: object) -> Declared:
    labels = dict.fromkeys(("hybrid-environment", "hybrid-layer", "max"), "1")
    given = {"skuName": "Standard_NC4as_T4_v3", "encryptionAtHostEnabled": True, "tags": labels}
    return resource(AZURE_GROUP, given | inputs)


def role_of_azure(action: str) -> Declared:
    kind = "azure:authorization/roleDefinition:RoleDefinition"
    return resource(kind, {"permissions": [{"actions": [action]}]})


def assigned(role: str) -> Declared:
    kind = "azure:authorization/assignment:Assignment"
    return resource(kind, {"roleDefinitionName": role})


made_on_google = [
    resource(GCP_TEMPLATE, {"machineType": "g2-standard-8"}),
    resource(GCP_GROUPS[0], {"versions": UNKNOWN}, sources={"versions": f"{GCP_TEMPLATE}::it"}),
]


def scaler(**policy: object) -> Declared:
    inputs = {"target": UNKNOWN, "autoscalingPolicy": policy}
    return resource(GCP_BOUNDS, inputs, sources={"target": f"{GCP_GROUPS[0]}::it"})


OWNED = ("hybrid:environment", "hybrid:layer")
tags = {"resourceType": "volume", "tags": dict.fromkeys(OWNED, "x")}
volumes_tagged = resource(TEMPLATE, {"tagSpecifications": [tags]})
# Rule, resources that pass, resources that do not.
CASES = [
    ("public-bucket", [resource(BUCKET, {}), block()], [resource(BUCKET, {})]),
    ("public-bucket", [resource(BUCKET, {}), block()],
     [resource(BUCKET, {}), block(blockPublicPolicy=False)]),
    ("public-bucket", [resource(GCS, {"publicAccessPrevention": "enforced"})], [resource(GCS, {})]),
    ("public-bucket", [resource("gcp:storage/bucketIAMMember:BucketIAMMember", {"member": "me"})],
     [resource("gcp:storage/bucketIAMMember:BucketIAMMember", {"member": "allUsers"})]),
    ("open-ingress", [ingress("10.0.0.0/8", 22, 22)], [ingress("0.0.0.0/0", 22, 22)]),
    ("open-ingress", [ingress("0.0.0.0/0", 443, 443)], [ingress("0.0.0.0/0", 8000, 9000)]),
    ("open-ingress", [service("ClusterIP", 8081)], [service("NodePort", 8081)]),
    ("open-ingress", [policy_for_pods([{"ipBlock": {"cidr": "10.0.0.0/8"}}], 8081)],
     [policy_for_pods([], 8081)]),
    ("unencrypted-volume", [volume(encrypted="true")], [volume(volumeSize=8)]),
    ("unencrypted-volume", [volume(encrypted=UNKNOWN)], [volume(encrypted="false")]),
    ("imds-v1", [resource(TEMPLATE, {"metadataOptions": {"httpTokens": "required"}})],
     [resource(TEMPLATE, {"metadataOptions": {"httpTokens": "optional"}})]),
    ("imds-v1", [resource(TEMPLATE, {"metadataOptions": UNKNOWN})], [resource(TEMPLATE, {})]),
    ("wildcard-iam", [allowing(Action="s3:GetObject", Resource="arn:x/*")],
     [allowing(Action="s3:*", Resource="arn:x/*")]),
    ("wildcard-iam", [allowing(Action="ec2:DescribeInstances", Resource="*")],
     [allowing(Action=["ec2:RunInstances"], Resource="*")]),
    ("wildcard-iam", [resource(ROLE_POLICY, {"policy": UNKNOWN})],
     [allowing(NotAction="iam:*", Resource="arn:x")]),
    ("missing-tags", [tagged(*OWNED)], [tagged("Name")]),
    ("missing-tags", [template(dict.fromkeys(OWNED, "x"))], [template({"Name": "x"})]),
    ("missing-tags", [volumes_tagged, machine(launchTemplate={"id": UNKNOWN})], [volumes_tagged]),
    ("imds-v1", [machine(launchTemplate={"id": UNKNOWN})], [machine(ami="ami-1")]),
    ("unencrypted-volume", [machine(rootBlockDevice={"encrypted": True})], [machine()]),
    ("wildcard-iam", [allowing(Action="ssmmessages:OpenDataChannel", Resource="*")],
     [allowing(Action="ssm:SendCommand", Resource="*")]),
    ("gpu-maximum", [group(maxSize=4)], [group(minSize=0)]),
    ("gpu-maximum", [scale_set()], [scale_set(tags={"min": "0"})]),
    ("gpu-maximum", [*made_on_google, scaler(maxReplicas=2)], made_on_google),
    ("gpu-maximum", [scaler(maxReplicas=2)], [scaler(minReplicas=0)]),
    ("open-ingress", [rule_of_azure("10.0.0.0/8", "22")], [rule_of_azure("Internet", "20-30")]),
    ("unencrypted-volume", [scale_set()], [scale_set(encryptionAtHostEnabled=False)]),
    ("missing-tags", [scale_set()], [scale_set(tags={"max": "1"})]),
    ("wildcard-iam", [role_of_azure("Microsoft.Compute/virtualMachines/read")],
     [role_of_azure("Microsoft.Compute/*")]),
    ("wildcard-iam", [assigned("Key Vault Secrets User")], [assigned("Contributor")]),
    ("private-path", [resource(BUCKET, {})], [resource(BUCKET, PRIVATE)]),
    ("private-path", [service("LoadBalancer", 80)],
     [service("LoadBalancer", 80, **{"hybrid/residency": "private"})]),
    ("private-path", [resource(ROUTE, {"natGatewayId": "n"}, "x-private-a")],
     [resource(ROUTE, {"gatewayId": UNKNOWN}, "x-private-a", {"gatewayId": f"{GATEWAY}::it"})]),
    # The engine shows a property that is not set as unknown, with nothing that it comes from.
    ("private-path",
     [resource(ROUTE, dict.fromkeys(("natGatewayId", "gatewayId"), UNKNOWN), "x-private-a")],
     [resource(ROUTE, {"gatewayId": "igw-1"}, "x-private-a")]),
]  # fmt: skip


def settings(kind: str = "local", budget=None, **policy) -> SimpleNamespace:
    return SimpleNamespace(kind=kind, budget=budget, policy=PolicySettings(**policy))


def broken(resources, given) -> set[str]:
    return {finding.rule for finding in review(resources, given, TODAY)}


@pytest.mark.parametrize(("rule", "passing", "failing"), CASES)
def test_a_rule_lets_pass_and_stops(rule, passing, failing):
    assert rule not in broken(passing, settings())
    assert rule in broken(failing, settings())


def test_only_a_real_environment_needs_a_budget():
    assert "no-budget" in broken([], settings("cloud"))
    assert "no-budget" not in broken([], settings("local"))
    assert "no-budget" not in broken([], settings("cloud", Budget(monthly_usd=1)))


def test_every_rule_has_a_case_and_a_name_in_the_settings():
    names = {rule.name for rule in RULES}
    assert names == {case[0] for case in CASES} | {"no-budget"} == set(get_args(RuleName))


def test_a_secret_is_looked_into_and_never_told():
    hidden = Secret(json.dumps({"Statement": [{"Effect": "Allow", "Action": "*"}]}))
    (finding,) = review([resource(ROLE_POLICY, {"policy": hidden})], settings(), TODAY)
    assert finding.told == "it allows *"


def waived(until: date, pattern: str = "i*") -> SimpleNamespace:
    reason = "the quota limits it"
    waiver = Waiver(rule="gpu-maximum", resource=pattern, until=until, reason=reason)
    return settings(waivers=[waiver])


def test_a_waiver_holds_on_its_last_day_and_is_named_when_it_is_over():
    (held,) = review([group()], waived(TODAY), TODAY)
    assert not held.blocks and held.told.endswith("(waived until 2026-11-26)")
    (over,) = review([group()], waived(date(2026, 11, 25)), TODAY)
    assert over.blocks and over.told.endswith("(its waiver expired on 2026-11-25)")
    (other,) = review([group()], waived(TODAY, "other"), TODAY)
    assert other.blocks and other.expired is None


def test_severity_is_the_settings():
    advisory = settings(severity={"gpu-maximum": "advisory"})
    (finding,) = review([group()], advisory, TODAY)
    assert finding.severity == "advisory" and not finding.blocks
    assert review([group()], settings(severity={"gpu-maximum": "off"}), TODAY) == []
