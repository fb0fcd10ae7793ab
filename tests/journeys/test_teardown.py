"""`down` after a crash at any call to AWS or GCS that `up` makes leaves nothing, service by service.

`make test-teardown` cuts after every single call; the suite after one of each way in which a call
leaves something behind. tests/journeys/test_repair.py shows the same with the engine, for two cuts.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from moto import mock_aws
from moto.moto_api._internal.models import moto_api_backend

from cli.teardown import Teardown
from infra.clients import Aws, Gcs
from infra.listers import list_all
from stacks.settings import SHIPPED, load_settings
from tests.journeys.cuts import (
    AWS_ENDPOINTS,
    REGION,
    Cloud,
    Step,
    after_each_call,
    in_a_copy,
    put_back,
    steps_of,
)

EVERY = bool(os.environ.get("HYBRID_EVERY_CUT"))
# Made but unrecorded: without a tag yet, alone, within another, holding another, or half set up.
SOME = {
    "s3:CreateBucket", "s3:PutBucketTagging", "ec2:CreateVpc", "ec2:AttachInternetGateway",
    "ec2:CreateNatGateway", "ec2:CreateSecurityGroup", "ec2:CreateLaunchTemplate",
    "iam:PutRolePolicy", "iam:AddRoleToInstanceProfile", "autoscaling:CreateAutoScalingGroup",
    "ec2:AttachVpnGateway", "ec2:CreateVpnConnection", "ec2:AssociateRouteTable", "gcs:POST",
}  # fmt: skip


@pytest.fixture(scope="module")
def aws():
    """moto within this process."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield Aws(REGION)


@pytest.fixture(scope="module")
def gcs(gcs_endpoint):
    """A project of this module's own on fake-gcs-server."""
    settings = load_settings("local", [SHIPPED])
    return Gcs(settings.gcp.project, gcs_endpoint)


@pytest.fixture(scope="module")
def up(aws, gcs) -> tuple[list[Step], Cloud]:
    """The steps of `up`, and the plugins that made them; the clouds are empty again."""
    with after_each_call(lambda call: None):
        configuration = {
            "aws": {"endpoints": [AWS_ENDPOINTS]},
            "gcp": {"storageCustomEndpoint": f"{gcs.endpoint}/storage/v1/"},
        }
        settings = load_settings("local", [SHIPPED])
        steps, cloud = steps_of(settings, ("cloud", "link"), ("aws", "gcp"), configuration, {})
    moto_api_backend.reset()
    for bucket in gcs.client().list_buckets():
        bucket.delete()
    cloud.recorded.clear()
    assert residue(aws, gcs) == []
    return steps, cloud


def residue(aws: Aws, gcs: Gcs) -> list[str]:
    """Everything there is, tagged or not."""
    # moto keeps the interfaces of NAT gateways that are deleted; AWS takes them along.
    return [str(each) for each in list_all(aws, gcs) if each.kind != "network interface"]


def torn_down(aws: Aws, gcs: Gcs, cloud: Cloud) -> list[str]:
    """What `down` does, with the engine's part played by the plugins; what it leaves."""
    cloud.restart()
    teardown = Teardown("local", aws, gcs, lambda done, total, text: None)
    names = [(r.identity, r.properties.get("arn"), r.properties.get("name")) for r in cloud.recorded]
    teardown.drain_groups()
    teardown.remove_unrecorded({name for each in names for name in each if name})
    cloud.destroy()
    teardown.require_nothing_left()
    return residue(aws, gcs)


def test_down_leaves_nothing_wherever_up_was_cut(aws, gcs, up, capsys):
    steps, cloud = up
    seen: Counter[str] = Counter()
    left: dict[str, list[str]] = {}

    def cut(call: str) -> None:
        seen[call] += 1
        if EVERY or (call in SOME and seen[call] == 1):
            with put_back(gcs.endpoint, gcs.project):
                left[f"{call} {seen[call]}"] = in_a_copy(lambda: torn_down(aws, gcs, cloud))

    with after_each_call(cut):
        for step in steps:
            cloud.make(step)
    with capsys.disabled():
        bad = sum(bool(each) for each in left.values())
        print(f"\n{len(left)} cut points of {seen.total()} calls, residue after {bad}")
    assert len(left) == (seen.total() if EVERY else len(SOME))
    assert {cut: found for cut, found in left.items() if found} == {}
