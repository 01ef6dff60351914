"""What is missing to compile for SageMaker, to rehearse here and to run there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.sagemaker import compile_pipeline
from millrace.compilers.sagemaker.images import ecr_image, push_command
from millrace.compilers.sagemaker.names import pipeline_name
from millrace.errors import ConfigError, MillraceError
from millrace.services.finding import Finding, installed
from millrace.services.sagemaker.document import Document, images_of, read_document
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.quotas import examine_quotas
from millrace.services.sagemaker.session import Session, session
from millrace.services.sagemaker.uploads import default_bucket
from millrace.specs import PipelineSpec
from millrace.targets.sagemaker import SageMaker

__all__ = ["examine_sagemaker"]

_EXTRAS = {"sagemaker": ("boto3", "botocore"), "rehearse": ("docker", "moto", "obstore")}
_PURPOSE = {"sagemaker": "talk to AWS", "rehearse": "rehearse here"}


def examine_sagemaker(spec: PipelineSpec, target: SageMaker) -> Iterator[Finding]:
    """Look at packages, credentials, role, bucket, images and quotas, for one pipeline. Nothing is written."""
    for extra, packages in _EXTRAS.items():
        yield installed(extra, packages, _PURPOSE[extra])
    document = None
    try:
        document = read_document(compile_pipeline(spec, target), pipeline_name(spec.name))
    except MillraceError as error:
        what = f"this pipeline can't be compiled: {error}"
        yield Finding(False, what, f"millrace compile pipeline={spec.name} target=sagemaker")
    else:
        yield Finding(True, f"pipeline {document.name} compiles: {len(document.steps)} steps")
    try:
        opened = session(target, attempts=2)
    except ConfigError as error:
        yield Finding(False if isinstance(error, ServiceError) else None, f"AWS: not looked at: {error}")
        return
    yield from _region(opened)
    try:
        told = opened.call("sts", "get_caller_identity")
    except ServiceError as error:
        yield Finding(False, f"AWS: {error}", "aws sts get-caller-identity")
        yield Finding(None, f"not looked at without AWS: {', '.join(_unseen(document, target))}")
        return
    yield Finding(True, f"credentials: {told['Arn']}, account {told['Account']}")
    yield from _role(opened, target.role, str(told["Account"]), "sagemaker.amazonaws.com")
    if target.schedule_role:
        yield from _role(opened, target.schedule_role, str(told["Account"]), "scheduler.amazonaws.com")
    yield from _bucket(opened)
    if document is not None:
        for image in sorted(images_of(document)):
            yield _image(opened, image)
        yield from examine_quotas(opened, document)


def _unseen(document: Document | None, target: SageMaker) -> Iterator[str]:
    yield f"role {target.role}" if target.role else "the role"
    yield f"bucket {target.bucket}" if target.bucket else "the bucket"
    if document is not None:
        yield from (f"image {image}" for image in sorted(images_of(document)))
        yield "quotas"


def _region(opened: Session) -> Iterator[Finding]:
    known = {
        region
        for partition in opened.boto.get_available_partitions()
        for region in opened.boto.get_available_regions("sagemaker", partition_name=partition)
    }
    good = opened.region in known
    what = f"region {opened.region}" + ("" if good else ": this boto3 knows no SageMaker there")
    yield Finding(True if good else None, what, "pip install --upgrade boto3, or another target.region")


def _role(opened: Session, role: str | None, account: str, service: str) -> Iterator[Finding]:
    if role is None:
        yield Finding(
            False,
            "target.role is not set: the pipeline and its jobs need a role",
            "target.role=arn:aws:iam::ACCOUNT:role/NAME  # its policy and trust: millrace iam target=sagemaker",
        )
        return
    if role.split(":")[4] != account:
        yield Finding(False, f"role {role}: of account {role.split(':')[4]}, the credentials are of {account}")
        return
    name = role.rpartition("/")[2]
    trust = f"{_trust_command(opened.target, role, service)} > trust.json"
    try:
        found = opened.call("iam", "get_role", RoleName=name)["Role"]
    except ServiceError as error:
        if error.code == "NoSuchEntity":
            mend = f"aws iam create-role --role-name {name} --assume-role-policy-document file://trust.json"
            yield Finding(False, f"role {role}: there is none", f"{trust}; {mend}")
        else:
            yield Finding(None, f"role {role}: not looked at: {error}")
        return
    if found["Arn"] != role:
        yield Finding(False, f"role {role}: its ARN is {found['Arn']}", f"give that one: {found['Arn']}")
    trusted = bool({service, f"{service}.cn"} & _trusted(found.get("AssumeRolePolicyDocument")))
    what = f"role {name} {'trusts' if trusted else 'does not trust'} {service}"
    mend = f"aws iam update-assume-role-policy --role-name {name} --policy-document file://trust.json"
    yield Finding(trusted, what, f"{trust}; {mend}")


def _trust_command(target: SageMaker, role: str, service: str) -> str:
    """Prints the trust that a role needs; one role for jobs and schedules needs both."""
    own = ".scheduler_trust" if service.startswith("scheduler") else ".trust"
    if target.role == target.schedule_role:
        own = "'.trust.Statement += .scheduler_trust.Statement | .trust'"
    return f"millrace iam target=sagemaker target.region={target.region} target.role={target.role or role} | jq {own}"


def _trusted(policy: object) -> set[str]:
    """Services that a role's trust lets assume it."""
    found: set[str] = set()
    statements = policy.get("Statement", []) if isinstance(policy, Mapping) else []
    for statement in [statements] if isinstance(statements, Mapping) else statements:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, Mapping) else []
        actions = statement.get("Action", [])
        if statement.get("Effect") == "Allow" and "sts:AssumeRole" in (
            [actions] if isinstance(actions, str) else actions
        ):
            found |= {services} if isinstance(services, str) else set(services)
    return found


def _bucket(opened: Session) -> Iterator[Finding]:
    """Whether the bucket is there, where, and whether we may look into it; writing would leave something behind."""
    target = opened.target
    bucket = default_bucket(opened)
    what = f"bucket {bucket}" + ("" if target.bucket else " (SageMaker's own: target.bucket is not set)")
    try:
        told = opened.call("s3", "head_bucket", Bucket=bucket)
        region = told.get("BucketRegion") or _header(told, "x-amz-bucket-region") or target.region
        if region != target.region:
            yield Finding(
                False,
                f"{what} is in {region}, jobs run in {target.region}",
                f"target.region={region}, or another target.bucket",
            )
            return
        opened.call("s3", "list_objects_v2", Bucket=bucket, Prefix=f"{target.prefix}/", MaxKeys=1)
    except ServiceError as error:
        make = f"aws s3 mb s3://{bucket} --region {target.region}"
        allowed = "millrace iam target=sagemaker  # what must be allowed"
        yield Finding(False, f"{what}: {error}", make if error.code == "NoSuchBucket" else allowed)
        return
    yield Finding(True, f"{what} is in {target.region} and can be read")
    yield Finding(None, f"writing to s3://{bucket}/{target.prefix}/ was not tried: it would leave an object behind")


def _header(told: Mapping[str, Any], name: str) -> str:
    return str(told.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(name, ""))


def _image(opened: Session, image: str) -> Finding:
    found = ecr_image(image)
    push = push_command(opened.region)
    if found is None:
        return Finding(False, f"image {image}: SageMaker pulls from ECR only", push)
    if found.region != opened.region:
        return Finding(False, f"image {image}: its registry is in {found.region}, jobs run in {opened.region}", push)
    wanted = {"imageDigest": found.digest} if found.digest else {"imageTag": found.tag or "latest"}
    try:
        opened.call(
            "ecr",
            "describe_images",
            registryId=found.account,
            repositoryName=found.name,
            imageIds=[wanted],
        )
    except ServiceError as error:
        if error.code in ("RepositoryNotFoundException", "ImageNotFoundException"):
            create = f"aws ecr create-repository --repository-name {found.name} --region {opened.region}; "
            what = "no such repository" if error.code.startswith("Repo") else "not in its repository"
            return Finding(False, f"image {image}: {what}", f"{create if error.code.startswith('Repo') else ''}{push}")
        return Finding(None, f"image {image}: not looked at: {error}")
    return Finding(True, f"image {image}")
