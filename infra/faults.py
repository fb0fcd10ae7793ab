"""What a refusal of a cloud, or of the state, means for a person, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from infra.clients import ATTEMPTS


class CloudError(Exception):
    """A cloud refuses or does not answer; the sentence says what to do."""

    exit_code = 1


# Of AWS: error code, the quota's name as Service Quotas has it, its service and code there.
_QUOTAS = (
    ("VpcLimitExceeded", "VPCs per Region", "vpc", "L-F678F1CE"),
    ("InternetGatewayLimitExceeded", "Internet gateways per Region", "vpc", "L-A4707A72"),
    ("NatGatewayLimitExceeded", "NAT gateways per Availability Zone", "vpc", "L-FE5A380F"),
    ("SubnetLimitExceeded", "Subnets per VPC", "vpc", "L-407747CB"),
    ("RouteTableLimitExceeded", "Route tables per VPC", "vpc", "L-589F43AA"),
    ("RulesPerSecurityGroupLimitExceeded", "Inbound or outbound rules per security group", "vpc",
     "L-0EA8095F"),
    ("SecurityGroupLimitExceeded", "VPC security groups per Region", "vpc", "L-E79EC296"),
    ("AddressLimitExceeded", "EC2-VPC Elastic IPs", "ec2", "L-0263D0A3"),
    ("VpnConnectionLimitExceeded", "Site-to-Site VPN connections per Region", "ec2", "L-3E6EC3A3"),
    ("VcpuLimitExceeded", "Running On-Demand G and VT instances", "ec2", "L-DB2E81BA"),
    ("MaxSpotInstanceCountExceeded", "All G and VT Spot Instance Requests", "ec2", "L-3819A6DF"),
    ("TooManyBuckets", "General purpose buckets", "s3", "L-DC2B2D3D"),
)  # fmt: skip

# What Google Cloud and Azure say of a quota: they name it themselves, with its limit.
_ASK_GOOGLE = (
    "ask for more on the console's page IAM & Admin > Quotas, or free some, then run the same "
    "command, which goes on from here."
)
_ASK_AZURE = _ASK_GOOGLE.replace("console's page IAM & Admin >", "portal's page")
_NAMED_QUOTAS = (
    (
        r"Quota '(?P<name>[^']+)' exceeded\.\s+Limit: (?P<limit>\d+)(?:\.\d+)? "
        r"(?P<place>globally|in \w+ [\w-]+)",
        "Google Cloud's quota {name!r} allows {limit} {place}: " + _ASK_GOOGLE,
    ),
    (
        r"quota metrics exceed quota limits: (?P<name>[\w./]+)",
        "Google Cloud's quota {name!r} is used up: " + _ASK_GOOGLE,
    ),
    (
        r"limit '(?P<name>[^']+ per [^']+)' of service '(?P<service>[^']+)'",
        "Google Cloud throttles calls to {service} ({name!r}): wait some minutes, then run the "
        "same command, which goes on from here.",
    ),
    (
        r"(?s)exceeding approved (?P<name>[\w ]+?) quota\b.{,99}?Location: (?P<place>\w+), "
        r"Current Limit: (?P<limit>\d+), Current Usage: (?P<used>\d+), "
        r"Additional Required: (?P<more>\d+)",
        "Azure's quota {name!r} allows {limit} in {place}, {used} are in use and {more} more are "
        "wanted: " + _ASK_AZURE,
    ),
    (
        r"(?s)CountLimitReached\b.{,40}?Cannot create more than (?P<limit>\d+) "
        r"(?P<name>[\w ]+?) for ",
        "Azure's quota of {name} allows {limit} in this region: " + _ASK_AZURE,
    ),
)
_OTHER_QUOTA = r"\b\w*(?:LimitExceeded|[Qq]uotaExceeded|QUOTA_EXCEEDED)\w*\b"
_THROTTLED = (
    r"\b(?:Throttling\w*|ThrottledException|RequestLimitExceeded|TooManyRequests\w*|SlowDown|"
    r"rateLimitExceeded|RATE_LIMIT_EXCEEDED)\b"
)
_ADVICE = (
    (
        r"\b(?:ExpiredToken\w*|RequestExpired|TokenRefreshRequired)\b|[Tt]oken .*has expired",
        "The AWS credentials have expired: renew them (aws sso login, or take the role again), "
        "then run the same command, which goes on from here.",
    ),
    (
        r"NoCredentials|Unable to locate credentials|[Nn]o valid credential sources",
        "There are no AWS credentials: set AWS_PROFILE, or run aws sso login.",
    ),
    (
        "DefaultCredentialsError|RefreshError",
        "There are no Google Cloud credentials that hold: run gcloud auth application-default "
        "login.",
    ),
    (
        "ClientAuthenticationError|CredentialUnavailableError",
        "There are no Azure credentials that hold: run az login.",
    ),
    (
        r"\b(?:InvalidClientTokenId|UnrecognizedClient\w*|AuthFailure|SignatureDoesNotMatch)\b",
        "AWS does not know these credentials: see which are in use with aws configure list.",
    ),
    (
        _THROTTLED,
        f"The cloud throttles these calls, also after {ATTEMPTS} attempts with growing waits: wait "
        "some minutes, then run the same command, which goes on from here.",
    ),
    (
        r"unsupported checkpoint version|newer than what this version of the Pulumi CLI",
        "A newer engine wrote this state: update this one (git pull, then make setup). The state "
        "was not changed.",
    ),
)


def explain(text: str) -> str | None:
    """One sentence on what to do about a failure, told from its error code; None if unknown."""
    for pattern, sentence in _NAMED_QUOTAS:
        if found := re.search(pattern, text):
            return sentence.format(**found.groupdict())
    for pattern, advice in _ADVICE:
        if re.search(pattern, text):
            return advice
    for code, name, service, number in _QUOTAS:
        if re.search(rf"\b{code}\b", text):
            return (
                f"The quota {name!r} is used up: ask for more with aws service-quotas "
                f"request-service-quota-increase --service-code {service} --quota-code {number} "
                "--desired-value N, or free some."
            )
    if other := re.search(_OTHER_QUOTA, text):
        return (
            f"A quota of the account is used up ({other[0]}): find it in the cloud's list of "
            "quotas (of AWS: aws service-quotas list-service-quotas), and ask for more there, or "
            "free some."
        )
    return None


def with_advice(failure: str) -> str:
    """A failure and, where it is a known one, what to do about it on a line of its own."""
    advice = explain(failure)
    return f"{failure}\n{advice}" if advice else failure


@contextmanager
def told() -> Iterator[None]:
    """Turn what the clouds' libraries raise into one sentence with advice.

    Raises
    ------
    CloudError
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except Exception as error:
        # Known by name: these libraries take half a second to load, and whoever raised one of their
        # errors has loaded them.
        of_others = type(error).__module__.startswith(("google.", "azure.", "requests."))
        if not of_others and not isinstance(error, (BotoCoreError, ClientError)):
            raise
        said = f"{type(error).__name__}: {error}"
        raise CloudError(explain(said) or f"The cloud does not do what is asked: {error}") from None
