"""What goes wrong between here and AWS is one message each, without a secret, that says what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from millrace.errors import ConfigError
from millrace.services.sagemaker import ServiceError
from millrace.services.sagemaker import session as open_session
from millrace.targets.sagemaker import SageMaker, Session
from tests.services.sagemaker.conftest import BUCKET
from tests.services.sagemaker.fake import SECRET, FakeAws, RefusalError


def always(code: str, message: str = "told by AWS", status: int = 400) -> Callable[[object], RefusalError]:
    return lambda call: RefusalError(message, code, status)


@pytest.mark.parametrize(
    ("code", "status", "wanted"),
    [
        ("ExpiredTokenException", 400, "credentials have expired: log in again"),
        ("InvalidClientTokenId", 403, "AWS does not know these credentials"),
        ("UnrecognizedClientException", 400, "AWS does not know these credentials"),
        ("InvalidSignatureException", 403, "the secret key is wrong, or this machine's clock is"),
        ("AccessDeniedException", 400, "sagemaker:DescribePipeline is not allowed to whoever these credentials are"),
        ("ThrottlingException", 400, "AWS has put off this request several times"),
        ("ResourceLimitExceeded", 400, "a quota of this account is used up"),
        ("InternalFailure", 500, "AWS failed with 500; try again later"),
        ("Conflict", 400, "sagemaker:DescribePipeline is refused with Conflict"),
    ],
)
def test_refusals(
    target: SageMaker, aws: FakeAws, monkeypatch: pytest.MonkeyPatch, code: str, status: int, wanted: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    aws.broken = always(code, f"told by AWS, with {SECRET} in it", status)
    with pytest.raises(ServiceError, match="told by AWS") as caught:
        open_session(target).call("sagemaker", "describe_pipeline", PipelineName="small")
    assert wanted in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__, "what botocore knows of the request is not shown"
    assert caught.value.may_pass == (code in ("ThrottlingException", "InternalFailure"))


def test_throttling_is_waited_out(target: SageMaker, aws: FakeAws) -> None:
    def twice(call: object) -> RefusalError | None:
        return RefusalError("Rate exceeded", "ThrottlingException") if len(aws.calls) <= 2 else None

    aws.broken = twice
    assert open_session(target).account
    assert aws.count("sts:GetCallerIdentity") == 3


@pytest.mark.parametrize(
    ("code", "status", "wanted"),
    [
        ("AuthorizationHeaderMalformed", 400, f"aws s3api get-bucket-location --bucket {BUCKET}"),
        ("IllegalLocationConstraintException", 400, "is not in target.region=us-east-1"),
        ("AccessDenied", 403, f"on s3://{BUCKET} is not allowed"),
        ("NoSuchBucket", 404, f"aws s3 mb s3://{BUCKET} --region us-east-1"),
    ],
)
def test_buckets(
    target: SageMaker, aws: FakeAws, monkeypatch: pytest.MonkeyPatch, code: str, status: int, wanted: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    aws.broken = always(code, status=status)
    with pytest.raises(ServiceError) as caught:
        open_session(target).call("s3", "put_object", Bucket=BUCKET, Key="x", Body=b"")
    assert wanted in str(caught.value)


def test_without_credentials(target: SageMaker, aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ServiceError, match=r"no AWS credentials: `aws configure` or `aws sso login`"):
        open_session(target).call("sts", "get_caller_identity")
    assert aws.calls == []


def test_an_unknown_profile(target: SageMaker) -> None:
    wrong = target.model_copy(update={"session": Session(profile="mine")})
    with pytest.raises(ServiceError, match=r"target\.session\.profile=mine: there is no such profile"):
        open_session(wrong)


def test_nobody_answers(target: SageMaker) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    away = target.model_copy(update={"session": Session(endpoint=url)})
    with pytest.raises(ServiceError, match=f"{url} can't be reached: Connection refused") as caught:
        open_session(away, attempts=1).call("sts", "get_caller_identity")
    assert caught.value.may_pass


def test_no_answer_in_time(target: SageMaker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = Session(endpoint=f"http://127.0.0.1:{server.getsockname()[1]}", timeout_seconds=0.2)
        with pytest.raises(ServiceError, match=r"no answer within target\.session\.timeout_seconds=0\.2"):
            open_session(target.model_copy(update={"session": silent}), attempts=1).account  # noqa: B018 - asks


def test_without_boto3_there_is_one_clear_message(tmp_path: Path) -> None:
    program = """
        import sys
        sys.modules["boto3"] = None
        from millrace.errors import ConfigError
        from millrace.services.sagemaker import session
        from millrace.targets.sagemaker import SageMaker
        try:
            session(SageMaker())
        except ConfigError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.startswith("SageMaker needs the package 'boto3': pip install -e '.[sagemaker]'")


def test_the_package_is_imported_only_when_it_is_used() -> None:
    program = (
        "import sys, millrace.services.sagemaker, millrace.commands.sagemaker.submit; print('boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_wrong_requests_are_refused_by_the_stand_in(target: SageMaker, aws: FakeAws) -> None:
    opened = open_session(target)
    role = "arn:aws:iam::123456789012:role/x"
    for wrong in ({"PipelineName": "a b"}, {"PipelineDescription": "two\nlines"}, {"PipelineDefinition": "{"}):
        asked = {"PipelineName": "a", "PipelineDefinition": "{}", "RoleArn": role} | wrong
        with pytest.raises(ConfigError, match="ValidationException"):
            opened.call("sagemaker", "create_pipeline", **asked)
