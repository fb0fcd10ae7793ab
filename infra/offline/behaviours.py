"""Behaviours of the clouds that this project rests on, each as a function that tries it.

It returns True where an emulator does as the cloud, False where it accepts and does not; an error
means that it cannot do it at all. `infra.offline.ledger` keeps the table of the results.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

PART = 5 * 2**20  # the least that S3 takes for a part that is not the last

Client = Callable[[str], Any]
Behaviour = Callable[[Client], bool]


def refuses(code: str, call: Callable[..., Any], **arguments: Any) -> bool:
    """Whether a call fails with the error that AWS gives; any other error is passed on."""
    from botocore.exceptions import ClientError

    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] != code:
            raise
        return True
    return False


def new_bucket(s3: Any) -> str:
    """A bucket that nothing else uses."""
    name = f"contract-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


def s3_if_none_match(client: Client) -> bool:
    s3 = client("s3")
    where = {"Bucket": new_bucket(s3), "Key": "k", "Body": b"x"}
    s3.put_object(**where, IfNoneMatch="*")
    return refuses("PreconditionFailed", s3.put_object, **where, IfNoneMatch="*")


def s3_if_match(client: Client) -> bool:
    s3 = client("s3")
    where = {"Bucket": new_bucket(s3), "Key": "k", "Body": b"x"}
    etag = s3.put_object(**where)["ETag"]
    s3.put_object(**where, IfMatch=etag)
    return refuses("PreconditionFailed", s3.put_object, **where, IfMatch='"other"')


def s3_checksum_refused(client: Client) -> bool:
    s3 = client("s3")
    wrong = base64.b64encode(hashlib.sha256(b"y").digest()).decode()
    where = {"Bucket": new_bucket(s3), "Key": "k", "Body": b"x"}
    return refuses("BadDigest", s3.put_object, **where, ChecksumSHA256=wrong)


def s3_checksum_told(client: Client) -> bool:
    s3 = client("s3")
    right = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    where = {"Bucket": new_bucket(s3), "Key": "k"}
    s3.put_object(**where, Body=b"x", ChecksumSHA256=right)
    return s3.head_object(**where, ChecksumMode="ENABLED").get("ChecksumSHA256") == right


def _upload(s3: Any, bucket: str, key: str, *sizes: int) -> tuple[dict[str, str], list[dict]]:
    where = {"Bucket": bucket, "Key": key}
    where["UploadId"] = s3.create_multipart_upload(**where)["UploadId"]
    parts = []
    for number, size in enumerate(sizes, 1):
        etag = s3.upload_part(**where, PartNumber=number, Body=bytes(size))["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    return where, parts


def s3_parts_listed(client: Client) -> bool:
    s3 = client("s3")
    where, parts = _upload(s3, new_bucket(s3), "k", PART, 5)
    found = s3.list_parts(**where)["Parts"]
    md5 = hashlib.md5(bytes(5), usedforsecurity=False).hexdigest()
    return [part["PartNumber"] for part in found] == [1, 2] and found[1]["ETag"] == f'"{md5}"'


def s3_complete_if_none_match(client: Client) -> bool:
    s3 = client("s3")
    where, parts = _upload(s3, new_bucket(s3), "k", 5)
    s3.put_object(Bucket=where["Bucket"], Key="k", Body=b"theirs")
    done = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
    return refuses("PreconditionFailed", s3.complete_multipart_upload, **where, **done)


def s3_complete_if_match(client: Client) -> bool:
    s3 = client("s3")
    bucket = new_bucket(s3)
    s3.put_object(Bucket=bucket, Key="k", Body=b"theirs")
    where, parts = _upload(s3, bucket, "k", 5)
    done = {"MultipartUpload": {"Parts": parts}, "IfMatch": '"other"'}
    return refuses("PreconditionFailed", s3.complete_multipart_upload, **where, **done)


def s3_small_parts_refused(client: Client) -> bool:
    s3 = client("s3")
    where, parts = _upload(s3, new_bucket(s3), "k", 5, 5)
    done = {"MultipartUpload": {"Parts": parts}}
    return refuses("EntityTooSmall", s3.complete_multipart_upload, **where, **done)


def s3_lifecycle_kept(client: Client) -> bool:
    s3 = client("s3")
    bucket = new_bucket(s3)
    cold = [{"Days": 90, "StorageClass": "STANDARD_IA"}]
    rule = {"ID": "cold", "Status": "Enabled", "Filter": {"Prefix": ""}, "Transitions": cold}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    (found,) = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    return found["Transitions"] == cold


def s3_full_bucket_stays(client: Client) -> bool:
    s3 = client("s3")
    bucket = new_bucket(s3)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    return refuses("BucketNotEmpty", s3.delete_bucket, Bucket=bucket)


def s3_policy_conditions(client: Client) -> bool:
    from botocore.exceptions import ClientError

    s3 = client("s3")
    bucket = new_bucket(s3)
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:*"}
    denied["Resource"] = f"arn:aws:s3:::{bucket}/*"
    denied["Condition"] = {"StringEquals": {"aws:RequestedRegion": "nowhere-1"}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]})
    s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    try:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    except ClientError:
        return False
    return True


def _network(ec2: Any) -> tuple[str, str]:
    """A VPC and a subnet in it."""
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    return vpc, ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]


def ec2_used_group_stays(client: Client) -> bool:
    ec2 = client("ec2")
    vpc, subnet = _network(ec2)
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
    ec2.create_network_interface(SubnetId=subnet, Groups=[group])
    return refuses("DependencyViolation", ec2.delete_security_group, GroupId=group)


def ec2_used_vpc_stays(client: Client) -> bool:
    ec2 = client("ec2")
    vpc, _ = _network(ec2)
    return refuses("DependencyViolation", ec2.delete_vpc, VpcId=vpc)


def ec2_dry_run(client: Client) -> bool:
    return refuses(
        "DryRunOperation", client("ec2").create_vpc, CidrBlock="10.9.0.0/16", DryRun=True
    )


def ec2_instance_types_checked(client: Client) -> bool:
    ec2 = client("ec2")
    _, subnet = _network(ec2)
    return refuses(
        "InvalidParameterValue",
        ec2.run_instances,
        ImageId="ami-12c6146b",
        InstanceType="g5.enormous",
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet,
    )


def ec2_tags_at_creation(client: Client) -> bool:
    ec2 = client("ec2")
    tag = {"Key": "Name", "Value": "mine"}
    made = ec2.create_vpc(
        CidrBlock="10.9.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": [tag]}]
    )["Vpc"]["VpcId"]
    return ec2.describe_vpcs(VpcIds=[made])["Vpcs"][0].get("Tags") == [tag]


def vpn_has_two_tunnels(client: Client) -> bool:
    ec2 = client("ec2")
    customer = ec2.create_customer_gateway(BgpAsn=65000, PublicIp="198.51.100.9", Type="ipsec.1")
    gateway = ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    made = ec2.create_vpn_connection(
        Type="ipsec.1",
        CustomerGatewayId=customer["CustomerGateway"]["CustomerGatewayId"],
        VpnGatewayId=gateway,
    )["VpnConnection"]
    return len(made.get("Options", {}).get("TunnelOptions", [])) == 2


def gcs_generation_match(client: Client) -> bool:
    from google.api_core.exceptions import PreconditionFailed

    blob = client("gcs").create_bucket(f"contract-{uuid.uuid4().hex}").blob("k")
    blob.upload_from_string(b"x", if_generation_match=0)
    try:
        blob.upload_from_string(b"y", if_generation_match=0)
    except PreconditionFailed:
        return True
    return False


def gcs_compose_generation_match(client: Client) -> bool:
    from google.api_core.exceptions import PreconditionFailed

    bucket = client("gcs").create_bucket(f"contract-{uuid.uuid4().hex}")
    for name in ("k", "part"):
        bucket.blob(name).upload_from_string(b"x")
    try:
        bucket.blob("k").compose([bucket.blob("part")], if_generation_match=0)
    except PreconditionFailed:
        return True
    return False


def gcs_compose_checksum(client: Client) -> bool:
    import google_crc32c

    bucket = client("gcs").create_bucket(f"contract-{uuid.uuid4().hex}")
    parts = [bucket.blob("1"), bucket.blob("2")]
    for part in parts:
        part.upload_from_string(b"x")
    whole = bucket.blob("k")
    whole.compose(parts)
    return whole.crc32c == base64.b64encode(google_crc32c.Checksum(b"xx").digest()).decode()


def gcs_download_generation_match(client: Client) -> bool:
    from google.api_core.exceptions import NotFound, PreconditionFailed

    blob = client("gcs").create_bucket(f"contract-{uuid.uuid4().hex}").blob("k")
    blob.upload_from_string(b"x")
    try:
        blob.download_as_bytes(if_generation_match=5)
    except (PreconditionFailed, NotFound):
        return True
    return False


AWS: dict[str, Behaviour] = {
    "S3 PutObject heeds If-None-Match": s3_if_none_match,
    "S3 PutObject heeds If-Match": s3_if_match,
    "S3 PutObject refuses a wrong SHA-256": s3_checksum_refused,
    "S3 HeadObject tells the SHA-256": s3_checksum_told,
    "S3 ListParts tells number and MD5": s3_parts_listed,
    "S3 CompleteMultipartUpload heeds If-None-Match": s3_complete_if_none_match,
    "S3 CompleteMultipartUpload heeds If-Match": s3_complete_if_match,
    "S3 CompleteMultipartUpload refuses small parts": s3_small_parts_refused,
    "S3 keeps transitions of a lifecycle": s3_lifecycle_kept,
    "S3 DeleteBucket refuses a bucket with objects": s3_full_bucket_stays,
    "S3 denies only where a policy's condition holds": s3_policy_conditions,
    "EC2 DeleteSecurityGroup refuses one in use": ec2_used_group_stays,
    "EC2 DeleteVpc refuses one with subnets": ec2_used_vpc_stays,
    "EC2 heeds DryRun": ec2_dry_run,
    "EC2 RunInstances refuses unknown instance types": ec2_instance_types_checked,
    "EC2 tags at creation": ec2_tags_at_creation,
    "EC2 tells the two tunnels of a VPN connection": vpn_has_two_tunnels,
}
GCS: dict[str, Behaviour] = {
    "GCS an upload heeds its generation match": gcs_generation_match,
    "GCS compose heeds its generation match": gcs_compose_generation_match,
    "GCS compose makes the whole's CRC32C": gcs_compose_checksum,
    "GCS a download heeds its generation match": gcs_download_generation_match,
}
