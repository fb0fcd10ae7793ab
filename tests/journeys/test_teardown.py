"""`down` after a crash at any call to AWS that `up` makes leaves nothing, service by service.

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
from infra.clients import Aws
from infra.listers import Found, list_aws
from infra.removal import remove
from stacks.settings import SHIPPED, load_settings
from tests.journeys.cuts import REGION, Cloud, Step, after_each_call, in_a_copy, steps_of

EVERY = bool(os.environ.get("HYBRID_EVERY_CUT"))
# Made but unrecorded: without a tag yet, alone, within another, holding another, or half set up.
SOME = {
    "s3:CreateBucket", "s3:PutBucketTagging", "ec2:CreateVpc", "ec2:AttachInternetGateway",
    "ec2:CreateNatGateway", "ec2:CreateSecurityGroup", "ec2:CreateLaunchTemplate",
    "iam:PutRolePolicy", "iam:AddRoleToInstanceProfile", "autoscaling:CreateAutoScalingGroup",
    "ec2:AttachVpnGateway", "ec2:CreateVpnConnection", "ec2:AssociateRouteTable",
}  # fmt: skip


@pytest.fixture(scope="module")
def aws():
    """moto within this process."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield Aws(REGION)


@pytest.fixture(scope="module")
def up(aws) -> tuple[list[Step], Cloud]:
    """The steps of `up`, and the plugins that made them; the cloud is empty again."""
    with after_each_call(lambda call: None):
        steps, cloud = steps_of(load_settings("local", [SHIPPED]))
    moto_api_backend.reset()
    cloud.recorded.clear()
    assert residue(aws) == []
    return steps, cloud


def residue(aws: Aws) -> list[str]:
    """Everything there is, tagged or not."""
    # moto keeps the interfaces of NAT gateways that are deleted; AWS takes them along.
    return [str(each) for each in list_aws(aws) if each.kind != "network interface"]


def torn_down(aws: Aws, cloud: Cloud) -> list[str]:
    """What `down` does, with the engine's part played by the plugins; what it leaves."""
    cloud.restart()
    teardown = OnlyAws("local", aws, None, lambda done, total, text: None)
    names = [(r.identity, r.properties.get("arn"), r.properties.get("name")) for r in cloud.recorded]
    teardown.drain_groups()
    teardown.remove_unrecorded({name for each in names for name in each})
    cloud.destroy()
    teardown.require_nothing_left()
    return residue(aws)


class OnlyAws(Teardown):
    """Without Google's side, which is another process and cannot be copied with this one."""

    def found(self, *services: str) -> list[Found]:
        everything = list_aws(self.aws, frozenset(services) or None)
        return [each for each in everything if each.belongs_to(self.environment)]


def test_down_leaves_nothing_wherever_up_was_cut(aws, up, capsys):
    steps, cloud = up
    seen: Counter[str] = Counter()
    left: dict[str, list[str]] = {}

    def cut(call: str) -> None:
        seen[call] += 1
        if EVERY or (call in SOME and seen[call] == 1):
            left[f"{call} {seen[call]}"] = in_a_copy(lambda: torn_down(aws, cloud))

    with after_each_call(cut):
        for step in steps:
            cloud.make(step)
    with capsys.disabled():
        bad = sum(bool(each) for each in left.values())
        print(f"\n{len(left)} cut points of {seen.total()} calls, residue after {bad}")
    assert len(left) == (seen.total() if EVERY else len(SOME))
    assert {cut: found for cut, found in left.items() if found} == {}
