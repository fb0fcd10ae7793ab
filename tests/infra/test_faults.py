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
        ("googleapi: Error 403: too many, rateLimitExceeded", "The cloud throttles"),
        ("Code=QuotaExceeded Message=no more", "used up (QuotaExceeded): find it in the cloud's"),
        ("failed to load checkpoint: unsupported checkpoint version 99", "A newer engine wrote"),
    ],
)
def test_a_known_refusal_says_what_to_do(said, told_of):
    assert told_of in explain(said)


GOOGLE = (
    "ask for more on the console's page IAM & Admin > Quotas, or free some, then run the same "
    "command, which goes on from here."
)
AZURE = (
    "ask for more on the portal's page Quotas, or free some, then run the same command, which goes "
    "on from here."
)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "googleapi: Error 403: Quota 'NVIDIA_L4_GPUS' exceeded.  Limit: 0.0 in region "
            "europe-west3., quotaExceeded",
            f"Google Cloud's quota 'NVIDIA_L4_GPUS' allows 0 in region europe-west3: {GOOGLE}",
        ),
        (
            "'code': 'QUOTA_EXCEEDED', 'message': \"Quota 'GPUS_ALL_REGIONS' exceeded. Limit: 1.0 "
            'globally."',
            f"Google Cloud's quota 'GPUS_ALL_REGIONS' allows 1 globally: {GOOGLE}",
        ),
        (
            "The following quota metrics exceed quota limits: aiplatform.googleapis.com/l4_gpus",
            f"Google Cloud's quota 'aiplatform.googleapis.com/l4_gpus' is used up: {GOOGLE}",
        ),
        (
            "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service "
            "'compute.googleapis.com' for consumer 'project_number:1'., rateLimitExceeded",
            "Google Cloud throttles calls to compute.googleapis.com ('Queries per minute'): wait "
            "some minutes, then run the same command, which goes on from here.",
        ),
        (
            "unexpected status 409 (409 Conflict) with error: OperationNotAllowed: Operation "
            "could not be completed as it results in exceeding approved standardNCASv3_T4Family Cores "
            "quota. Additional details - Deployment Model: Resource Manager, Location: westeurope, "
            "Current Limit: 8, Current Usage: 4, Additional Required: 16, (Minimum) New Limit "
            "Required: 20. Code: QuotaExceeded",
            "Azure's quota 'standardNCASv3_T4Family Cores' allows 8 in westeurope, 4 are in use and "
            f"16 more are wanted: {AZURE}",
        ),
        (
            '"code": "PublicIPCountLimitReached",\n "message": "Cannot create more than 10 public '
            'IP addresses for this subscription in this region."',
            f"Azure's quota of public IP addresses allows 10 in this region: {AZURE}",
        ),
    ],
)
def test_a_quota_of_google_cloud_or_azure_is_said_with_its_name_limit_and_place(said, sentence):
    assert explain(said) == sentence


@pytest.mark.parametrize("said", ["", "InvalidVpcID.NotFound", "the VPC's limit is unknown"])
def test_what_is_not_known_gets_no_made_up_advice(said):
    assert explain(said) is None


def test_a_library_failure_becomes_one_sentence():
    refusal = ClientError({"Error": {"Code": "VpcLimitExceeded", "Message": "no"}}, "CreateVpc")
    with pytest.raises(CloudError, match="The quota 'VPCs per Region' is used up"), told():
        raise refusal
    with pytest.raises(CloudError, match="There are no AWS credentials"), told():
        raise NoCredentialsError
