"""What a refusal means: each known error code gives one sentence that says what to do."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from infra.faults import CloudError, explain, told


@pytest.mark.parametrize(
    ("said", "told_of"),
    [
        ("An error occurred (VpcLimitExceeded) when calling CreateVpc", "'VPCs per Region'"),
        ("api error AddressLimitExceeded: The maximum number of addresses", "L-0263D0A3"),
        ("VcpuLimitExceeded: You have requested more vCPU capacity", "'Running On-Demand G and VT"),
        ("RulesPerSecurityGroupLimitExceeded: 60", "per security group"),
        ("An error occurred (LoadBalancerLimitExceeded)", "(LoadBalancerLimitExceeded)"),
        ("ExpiredTokenException: The security token included", "renew them"),
        ("operation error: RequestExpired", "aws sso login"),
        ("NoCredentialsError: Unable to locate credentials", "AWS_PROFILE"),
        ("InvalidClientTokenId: The security token", "does not know these credentials"),
        ("RequestLimitExceeded: Request limit exceeded.", "throttles"),
        ("Throttling: Rate exceeded", "throttles"),
        ("failed to load checkpoint: unsupported checkpoint version 99", "A newer engine wrote"),
    ],
)
def test_a_known_refusal_says_what_to_do(said, told_of):
    assert told_of in explain(said)


@pytest.mark.parametrize("said", ["", "InvalidVpcID.NotFound", "the VPC's limit is unknown"])
def test_what_is_not_known_gets_no_made_up_advice(said):
    assert explain(said) is None


def test_a_library_failure_becomes_one_sentence():
    refusal = ClientError({"Error": {"Code": "VpcLimitExceeded", "Message": "no"}}, "CreateVpc")
    with pytest.raises(CloudError, match="The quota 'VPCs per Region' is used up"), told():
        raise refusal
    with pytest.raises(CloudError, match="There are no AWS credentials"), told():
        raise NoCredentialsError
