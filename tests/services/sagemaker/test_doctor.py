"""`millrace doctor target=sagemaker`: what is missing, and the line that mends it. Nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from millrace.registry import load_pipeline
from millrace.services.finding import Finding
from millrace.services.sagemaker import Document
from millrace.services.sagemaker import session as open_session
from millrace.services.sagemaker.doctor import examine_sagemaker
from millrace.services.sagemaker.quotas import examine_quotas, machines_of
from millrace.specs import PipelineSpec
from millrace.targets.images import Images
from millrace.targets.sagemaker import SageMaker
from tests.services.sagemaker.conftest import BUCKET, ROLE
from tests.services.sagemaker.fake import ACCOUNT, SECRET, FakeAws, RefusalError

ECR = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/millrace/"
IMAGES = ("data", "serve", "train")


def trust(service: str) -> str:
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def found(findings: list[Finding], words: str) -> Finding:
    return next(finding for finding in findings if words in finding.what)


@pytest.fixture
def spec() -> PipelineSpec:
    digits = load_pipeline("digits")
    return digits.compose(digits.config())


@pytest.fixture
def ready(target: SageMaker, aws: FakeAws) -> SageMaker:
    """A target whose account has all that digits needs, but for quotas."""
    boto3.client("iam").create_role(RoleName="jobs", AssumeRolePolicyDocument=trust("sagemaker.amazonaws.com"))
    ecr = boto3.client("ecr")
    for name in IMAGES:
        ecr.create_repository(repositoryName=f"millrace/{name}")
        media = "application/vnd.oci.image.manifest.v1+json"
        config = {"digest": f"sha256:{name.encode().hex():0>64}"}
        manifest = {"schemaVersion": 2, "mediaType": media, "config": config}
        ecr.put_image(repositoryName=f"millrace/{name}", imageTag="1.0", imageManifest=json.dumps(manifest))
    aws.calls.clear()
    return target.model_copy(update={"images": Images(prefix=ECR, tag="1.0")})


def test_all_is_well(spec: PipelineSpec, ready: SageMaker, aws: FakeAws) -> None:
    aws.quotas.update(dict.fromkeys(_wanted(spec, ready), 10.0))
    findings = list(examine_sagemaker(spec, ready))
    assert [finding.what for finding in findings if finding.good is False] == []
    assert found(findings, "credentials: arn:aws:").good
    assert found(findings, "role jobs trusts sagemaker.amazonaws.com").good
    assert found(findings, f"bucket {BUCKET} is in us-east-1").good
    assert {f"image {ECR}{name}:1.0" for name in IMAGES} <= {finding.what for finding in findings}
    assert any(finding.what.startswith("quota ml.") for finding in findings)
    assert [name for name in aws.changes() if name != "s3:GET"] == []
    assert not any(call.operation.startswith(("PUT", "POST", "DELETE")) for call in aws.calls)


def test_each_thing_that_is_missing_has_a_line_that_mends_it(spec: PipelineSpec, target: SageMaker) -> None:
    wrong = {"role": f"{ROLE}-2", "bucket": "none-such-bucket", "images": Images(prefix=ECR, tag="1.0")}
    findings = list(examine_sagemaker(spec, target.model_copy(update=wrong)))
    for words, mend in (
        (f"role {ROLE}-2: there is none", "| jq .trust > trust.json; aws iam create-role --role-name jobs-2"),
        ("there is no bucket none-such-bucket", "aws s3 mb s3://none-such-bucket --region us-east-1"),
        (f"image {ECR}train:1.0: no such repository", "aws ecr create-repository --repository-name millrace/train"),
    ):
        finding = found(findings, words)
        assert (finding.good, mend in finding.mend) == (False, True), finding


def test_what_is_there_but_wrong(spec: PipelineSpec, ready: SageMaker, aws: FakeAws) -> None:
    boto3.client("iam").update_assume_role_policy(RoleName="jobs", PolicyDocument=trust("lambda.amazonaws.com"))
    boto3.client("s3", region_name="eu-west-1").create_bucket(
        Bucket="millrace-far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    images = Images(prefix=ECR, tag="2.0")
    changes = {"images": images, "bucket": "millrace-far", "schedule_role": ROLE}
    findings = list(examine_sagemaker(spec, ready.model_copy(update=changes)))
    assert found(findings, "does not trust sagemaker.amazonaws.com").good is False
    both = "| jq '.trust.Statement += .scheduler_trust.Statement | .trust' > trust.json; aws iam update-assume-role"
    assert both in found(findings, "does not trust sagemaker.amazonaws.com").mend
    assert found(findings, "does not trust scheduler.amazonaws.com").good is False
    assert found(findings, "bucket millrace-far is in eu-west-1, jobs run in us-east-1").good is False
    assert found(findings, f"image {ECR}train:2.0: not in its repository").mend.startswith("millrace build push=")
    far = Images(prefix=ECR.replace("us-east-1", "eu-west-1"), tag="1.0")
    findings = list(examine_sagemaker(spec, ready.model_copy(update={"images": far})))
    assert found(findings, "its registry is in eu-west-1, jobs run in us-east-1").good is False
    boto3.client("s3").delete_bucket(Bucket="millrace-far")


def test_images_of_this_machine_are_in_no_registry(spec: PipelineSpec, target: SageMaker) -> None:
    findings = list(examine_sagemaker(spec, target))
    assert found(findings, "SageMaker pulls from ECR only").mend.startswith("millrace build push=ACCOUNT.dkr.ecr")


def test_quotas(document: Document, target: SageMaker, aws: FakeAws) -> None:
    wanted = machines_of(document)
    assert wanted == {
        "ml.m5.large for processing job usage": 1,
        "ml.m5.xlarge for training job usage": 2,  # two trials at a time
    }
    aws.quotas.update({"ml.m5.large for processing job usage": 4.0, "ml.m5.xlarge for training job usage": 1.0})
    findings = list(examine_quotas(open_session(target), document))
    assert [finding.good for finding in findings] == [True, False]
    assert "request-service-quota-increase --service-code sagemaker --quota-code L-" in findings[1].mend
    assert "--desired-value 2" in findings[1].mend
    aws.quotas.pop("ml.m5.large for processing job usage")
    assert [finding.good for finding in examine_quotas(open_session(target), document)] == [None, False]
    aws.broken = lambda call: RefusalError("no", "AccessDeniedException")
    (only,) = examine_quotas(open_session(target), document)
    assert only.good is None
    assert "service-quotas:ListServiceQuotas is not allowed" in only.what


def _wanted(spec: PipelineSpec, target: SageMaker) -> dict[str, int]:
    from millrace.compilers.sagemaker import compile_pipeline
    from millrace.services.sagemaker import read_document

    return machines_of(read_document(compile_pipeline(spec, target), "digits"))


class TestTheCommand:
    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "millrace", "doctor", "target=sagemaker", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, **environment},
        )
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout

    def test_against_an_account(self, aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        code, shown = self.run(f"target.bucket={BUCKET}")
        assert code == 1
        assert f"account {ACCOUNT}" in shown
        assert "MISSING  target.role is not set" in shown
        assert "ok       pipeline digits compiles" in shown

    def test_without_a_network(self, aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        code, shown = self.run(AWS_ENDPOINT_URL="http://127.0.0.1:9")
        assert code == 1
        assert "MISSING  AWS: http://127.0.0.1:9 can't be reached: Connection refused" in shown
        assert "-        not looked at without AWS: the role, the bucket, image millrace/data:" in shown

    def test_without_credentials(self, aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        code, shown = self.run()
        assert code == 1
        assert "no AWS credentials" in shown
