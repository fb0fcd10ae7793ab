"""What the cluster autoscaler may do in AWS: see groups and machine types, resize one group."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi
from pulumi_aws import iam


@dataclass(frozen=True)
class AutoscalerAccessArgs:
    """Which group: its ARN, and the key of the tag that it carries with the value "owned"."""

    group_arn: pulumi.Input[str]
    owned_tag: str


class AutoscalerAccess(pulumi.ComponentResource):
    """A user with an access key.

    The autoscaler runs on the sites' machines, which have no role of AWS; a user that can do next
    to nothing is what is left.

    Attributes
    ----------
    key
        `id` and `secret` of the access key. Secret.
    """

    key: pulumi.Output[dict[str, str]]

    def __init__(
        self, name: str, args: AutoscalerAccessArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:AutoscalerAccess", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        user = iam.User(f"{name}-autoscaler", tags={"Name": f"{name}-autoscaler"}, opts=own)
        iam.UserPolicy(
            f"{name}-autoscaler",
            user=user.name,
            policy=pulumi.Output.from_input(args.group_arn).apply(
                lambda arn: policy(arn, args.owned_tag)
            ),
            opts=own,
        )
        key = iam.AccessKey(f"{name}-autoscaler", user=user.name, opts=own)
        self.key = pulumi.Output.secret(
            pulumi.Output.all(id=key.id, secret=pulumi.Output.secret(key.secret))
        )
        self.register_outputs({})


def policy(group_arn: str, owned_tag: str) -> str:
    """Policy document: AWS lets no Describe action be limited to a resource, the others it does."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": [
                        "autoscaling:DescribeAutoScalingGroups",
                        "autoscaling:DescribeAutoScalingInstances",
                        "autoscaling:DescribeLaunchConfigurations",
                        "autoscaling:DescribeScalingActivities",
                        "autoscaling:DescribeTags",
                        "ec2:DescribeImages",
                        "ec2:DescribeInstanceTypes",
                        "ec2:DescribeLaunchTemplateVersions",
                        "ec2:GetInstanceTypesFromInstanceRequirements",
                    ],
                    "Resource": "*",
                },
                {
                    "Effect": "Allow",
                    "Action": [
                        "autoscaling:SetDesiredCapacity",
                        "autoscaling:TerminateInstanceInAutoScalingGroup",
                    ],
                    "Resource": group_arn,
                    "Condition": {"StringEquals": {f"aws:ResourceTag/{owned_tag}": "owned"}},
                },
            ],
        }
    )
