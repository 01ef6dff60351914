"""Pipelines, their definitions in S3, and executions: idempotent, and checked before anything is sent."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import boto3
import pytest

from millrace.compilers.sagemaker.iam import policies
from millrace.errors import ConfigError, DataError, UnsupportedError
from millrace.services.sagemaker import (
    Document,
    ServiceError,
    Session,
    find_run,
    follow,
    read_document,
    read_plan,
    schedule_runs,
    submit_run,
    upsert_pipeline,
)
from millrace.services.sagemaker import session as open_session
from millrace.services.sagemaker.document import given_parameters, with_cache
from millrace.services.sagemaker.logs import read_log
from millrace.services.sagemaker.schedules import change_state
from millrace.services.sagemaker.uploads import upload_definition
from millrace.targets.runs import Schedule, Submit
from millrace.targets.sagemaker import SageMaker
from tests.services.sagemaker.conftest import BUCKET, ROLE
from tests.services.sagemaker.fake import ACCOUNT, FakeAws, RefusalError


def of(session: Session, **changes: Any) -> Session:
    """A session of the same account with other settings of the target."""
    return open_session(session.target.model_copy(update=changes))


def large(document: Document) -> Document:
    definition = json.loads(document.text)
    definition["Metadata"] = {"filler": "x" * 120_000}
    return read_document(json.dumps(definition), document.name)


class TestUpsert:
    def test_once_created_it_is_left_alone(self, session: Session, document: Document, aws: FakeAws) -> None:
        first = upsert_pipeline(session, document, ROLE)
        assert (first.change, first.arn) == ("created", f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:pipeline/small")
        aws.calls.clear()
        assert upsert_pipeline(session, document, ROLE).change == "unchanged"
        assert aws.changes() == []
        stored = session.call("sagemaker", "describe_pipeline", PipelineName="small")
        assert stored["PipelineDefinition"] == document.text
        assert document.digest in stored["PipelineDescription"]

    @pytest.mark.parametrize("change", ["definition", "role", "parallel", "tags", "by hand"])
    def test_what_differs_is_brought_up_to_date(
        self, session: Session, document: Document, aws: FakeAws, change: str
    ) -> None:
        upsert_pipeline(session, document, ROLE)
        role = ROLE
        if change == "definition":
            document = read_document(document.text.replace("ml.m5.xlarge", "ml.m5.2xlarge"), "small")
        elif change == "role":
            role = f"{ROLE}-2"
        elif change == "parallel":
            session = of(session, parallel=3)
        elif change == "tags":
            session = of(session, tags={"team": "vision"})
        else:
            theirs = document.text.replace("ml.m5.xlarge", "ml.m5.4xlarge")
            session.call("sagemaker", "update_pipeline", PipelineName="small", PipelineDefinition=theirs)
        aws.calls.clear()
        assert upsert_pipeline(session, document, role).change == "updated"
        assert aws.changes() == ["sagemaker:AddTags" if change == "tags" else "sagemaker:UpdatePipeline"]
        assert upsert_pipeline(session, document, role).change == "unchanged"
        stored = session.call("sagemaker", "describe_pipeline", PipelineName="small")
        assert (stored["PipelineDefinition"], stored["RoleArn"]) == (document.text, role)

    def test_tags_are_given_at_creation_and_those_of_others_stay(self, session: Session, document: Document) -> None:
        made = upsert_pipeline(of(session, tags={"team": "vision"}), document, ROLE)
        session.call("sagemaker", "add_tags", ResourceArn=made.arn, Tags=[{"Key": "cost", "Value": "42"}])
        assert upsert_pipeline(of(session, tags={"team": "sound"}), document, ROLE).change == "updated"
        listed = session.call("sagemaker", "list_tags", ResourceArn=made.arn)["Tags"]
        assert {tag["Key"]: tag["Value"] for tag in listed} == {"team": "sound", "cost": "42"}

    def test_a_large_definition_goes_by_way_of_s3_once(
        self, session: Session, document: Document, aws: FakeAws
    ) -> None:
        document = large(document)
        first = upsert_pipeline(session, document, ROLE)
        assert first.location == f"s3://{BUCKET}/millrace/definitions/{document.digest}.json"
        stored = session.call("s3", "get_object", Bucket=BUCKET, Key=f"millrace/definitions/{document.digest}.json")
        assert stored["Body"].read() == document.text.encode()
        asked = next(call.asked for call in aws.calls if call.name == "sagemaker:CreatePipeline")
        assert "PipelineDefinition" not in asked
        aws.calls.clear()
        assert upsert_pipeline(session, document, ROLE).change == "unchanged"
        session.call("sagemaker", "delete_pipeline", PipelineName="small", ClientRequestToken="t" * 32)
        aws.calls.clear()
        assert upsert_pipeline(session, document, ROLE).change == "created"
        assert aws.changes() == ["sagemaker:CreatePipeline"], "the same bytes are not sent twice"

    def test_two_uploads_at_a_time_leave_one_object(self, session: Session, aws: FakeAws) -> None:
        first = upload_definition(session, "{}")
        unseen = {"HEAD": RefusalError("", "404", 404)}
        aws.broken = lambda call: unseen.get(call.operation.partition(" ")[0])
        again = upload_definition(session, "{}")
        assert (first.new, again.new, first.uri) == (True, False, again.uri)
        assert aws.changes()[-1] == f"s3:PUT /{BUCKET}/{first.key}", "it was tried, and refused by If-None-Match"

    def test_a_key_encrypts_what_is_uploaded(self, session: Session) -> None:
        uploaded = upload_definition(of(session, output_key="alias/millrace"), "{}")
        stored = session.call("s3", "head_object", Bucket=BUCKET, Key=uploaded.key)
        assert (stored["ServerSideEncryption"], stored["SSEKMSKeyId"]) == ("aws:kms", "alias/millrace")

    def test_without_a_bucket_it_is_sagemakers_own(self, session: Session, document: Document) -> None:
        name = f"sagemaker-us-east-1-{ACCOUNT}"
        with pytest.raises(ServiceError, match=f"there is no bucket {name}: aws s3 mb s3://{name}"):
            upsert_pipeline(of(session, bucket=None), large(document), ROLE)
        boto3.client("s3").create_bucket(Bucket=name)
        try:
            assert upsert_pipeline(of(session, bucket=None), large(document), ROLE).location.startswith(f"s3://{name}/")
        finally:
            s3: Any = boto3.resource("s3")
            s3.Bucket(name).objects.all().delete()
            s3.Bucket(name).delete()

    def test_two_at_a_time_make_one(self, session: Session, document: Document, aws: FakeAws) -> None:
        held = threading.Barrier(2, timeout=30)

        def wait(call: Any) -> None:
            if call.name == "sagemaker:DescribePipeline" and aws.count(call.name) <= 2:
                aws.lock.release()
                try:
                    held.wait()
                finally:
                    aws.lock.acquire()

        aws.broken = wait
        done: list[str] = []
        both = [
            threading.Thread(target=lambda: done.append(upsert_pipeline(of(session), document, ROLE).change))
            for _ in range(2)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert sorted(done) in (["created", "updated"], ["created", "unchanged"])

    def test_images_that_are_in_no_ecr_registry_are_refused(
        self, session: Session, document: Document, aws: FakeAws
    ) -> None:
        wrong = document.text.replace(f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/", "")
        with pytest.raises(UnsupportedError, match=r"millrace build push=ACCOUNT.dkr.ecr.us-east-1.amazonaws.com"):
            upsert_pipeline(session, read_document(wrong, "small"), ROLE)
        assert aws.calls == []

    def test_images_of_another_region_are_refused(self, session: Session, document: Document, aws: FakeAws) -> None:
        far = document.text.replace(".ecr.us-east-1.", ".ecr.eu-west-1.")
        told = (
            r"in another than target\.region=us-east-1: push them with `millrace build push=ACCOUNT.dkr.ecr.us-east-1"
        )
        with pytest.raises(UnsupportedError, match=told):
            upsert_pipeline(session, read_document(far, "small"), ROLE)
        assert aws.calls == []

    def test_a_role_that_can_not_be_used_is_told(self, session: Session, document: Document) -> None:
        with pytest.raises(ServiceError, match=r"role arn:.*/unknown can't be used: .*iam:PassRole"):
            upsert_pipeline(session, document, f"arn:aws:iam::{ACCOUNT}:role/unknown")


class TestSubmit:
    def test_parameters_and_places_are_filled_in(self, session: Session, document: Document, aws: FakeAws) -> None:
        submit = Submit(parameters={"train": {"epochs": 5}, "train.optimizer": "sgd"})
        done = submit_run(session, document, submit, "first.run:1")
        asked = aws.executions[done.arn].asked
        assert asked["PipelineParameters"] == [
            {"Name": "bucket", "Value": BUCKET},
            {"Name": "role", "Value": ROLE},
            {"Name": "train_epochs", "Value": "5"},
            {"Name": "train_optimizer", "Value": "sgd"},
        ]
        assert asked["PipelineExecutionDisplayName"] == "first-run-1"
        assert 32 <= len(asked["ClientRequestToken"]) <= 128
        assert done.link.endswith("#/studio-landing")

    def test_the_bucket_is_sagemakers_own_when_none_is_named(
        self, session: Session, document: Document, aws: FakeAws
    ) -> None:
        name = f"sagemaker-us-east-1-{ACCOUNT}"
        aws.empty_bucket(name)
        done = submit_run(of(session, bucket=None), document, Submit(), "a")
        values = {item["Name"]: item["Value"] for item in aws.executions[done.arn].asked["PipelineParameters"]}
        assert values["bucket"] == name
        boto3.client("s3").delete_bucket(Bucket=name)

    def test_without_its_bucket_nothing_is_sent(self, session: Session, document: Document, aws: FakeAws) -> None:
        with pytest.raises(ServiceError, match="there is no bucket none-such: aws s3 mb s3://none-such"):
            submit_run(of(session, bucket="none-such"), document, Submit(), "a")
        assert aws.changes() == []

    def test_a_bucket_that_may_not_be_looked_at_is_left_to_the_run(
        self, session: Session, document: Document, aws: FakeAws
    ) -> None:
        refusal = RefusalError("Forbidden", "403", 403)
        aws.broken = lambda call: refusal if call.name == "s3:HEAD" else None
        assert submit_run(session, document, Submit(), "a").new

    def test_the_same_id_finds_the_first_run(self, session: Session, document: Document, aws: FakeAws) -> None:
        first = submit_run(session, document, Submit(), "a")
        aws.calls.clear()
        again = submit_run(session, document, Submit(), "a")
        assert (again.arn, again.new, first.new) == (first.arn, False, True)
        assert aws.changes() == []
        assert submit_run(session, document, Submit(), "b").arn != first.arn
        with pytest.raises(ConfigError, match=r"submit\.id=a is the id of arn.*choose another id"):
            submit_run(session, document, Submit(parameters={"train.epochs": 7}), "a")

    def test_the_same_id_at_the_same_time_starts_one(self, session: Session, document: Document, aws: FakeAws) -> None:
        upsert_pipeline(session, document, ROLE)
        started: list[str] = []
        every = [
            threading.Thread(target=lambda: started.append(submit_run(of(session), document, Submit(), "a").arn))
            for _ in range(4)
        ]
        for thread in every:
            thread.start()
        for thread in every:
            thread.join()
        assert len(set(started)) == len(aws.executions) == 1

    def test_a_lost_answer_starts_no_second_run(self, session: Session, document: Document, aws: FakeAws) -> None:
        def lose(call: Any) -> RefusalError | None:
            if call.name == "sagemaker:StartPipelineExecution" and aws.count(call.name) == 1:
                aws.broken = lambda call: None
                aws.answer(call, b"")  # it is done, and then the answer is an error
                return RefusalError("internal", "InternalFailure", 500)
            return None

        aws.broken = lose
        submit_run(session, document, Submit(), "a")
        assert len(aws.executions) == 1

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("ResourceNotFound", "Pipeline 'small' does not exist."),
            ("ValidationException", "Could not find pipeline with PipelineName small."),
            ("ValidationException", "Pipeline arn:aws:sagemaker:us-east-1:1:pipeline/small does not exist."),
        ],
    )
    def test_the_first_one_makes_the_pipeline_whatever_the_words_for_a_missing_one(
        self, session: Session, document: Document, aws: FakeAws, code: str, message: str
    ) -> None:
        looks = ("sagemaker:DescribePipeline", "sagemaker:ListPipelineExecutions")
        aws.broken = lambda call: RefusalError(message, code) if call.name in looks else None
        assert submit_run(session, document, Submit(), "a").change == "created"

    def test_another_refusal_is_no_missing_pipeline(self, session: Session, document: Document, aws: FakeAws) -> None:
        aws.broken = lambda call: RefusalError("1 validation error detected")
        with pytest.raises(ServiceError, match="1 validation error detected"):
            submit_run(session, document, Submit(), "a")
        with pytest.raises(ServiceError, match="1 validation error detected"):
            upsert_pipeline(session, document, ROLE)
        assert aws.changes() == []

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"train.epoch": 3}, "did you mean 'train_epochs'"),
            ({"train.epochs": "many"}, "train_epochs: it must be a whole number"),
            ({"train.epochs": True}, "train_epochs: it must be a whole number"),
            ({"train.optimizer": "adamw"}, "'adamw' is not allowed: did you mean 'adam'"),
            ({"bucket": "x" * 1025}, "1 to 1024 characters"),
            ({"role": ""}, "1 to 1024 characters"),
        ],
    )
    def test_wrong_parameters_are_found_before_anything_is_sent(
        self, session: Session, document: Document, aws: FakeAws, parameters: dict[str, Any], message: str
    ) -> None:
        for opened in (session, of(session, bucket=None)):
            with pytest.raises(ConfigError, match=message):
                submit_run(opened, document, Submit(parameters=parameters), "a")
        assert aws.calls == []

    @pytest.mark.parametrize(
        ("submit", "message"),
        [
            (Submit(experiment="mine"), "submit.experiment='mine'"),
            (Submit(only=("trian",)), "did you mean 'train'"),
            (Submit(reference="x"), "submit.only"),
        ],
    )
    def test_what_can_not_be_done_is_refused(
        self, session: Session, document: Document, aws: FakeAws, submit: Submit, message: str
    ) -> None:
        with pytest.raises((ConfigError, UnsupportedError), match=message):
            submit_run(session, document, submit, "a")
        assert aws.calls == []

    def test_without_a_role_the_line_to_add_is_told(self, session: Session, document: Document, aws: FakeAws) -> None:
        with pytest.raises(ConfigError, match=r"target\.role=arn:aws:iam::ACCOUNT:role/NAME"):
            submit_run(of(session, role=None), document, Submit(), "a")
        assert aws.calls == []
        submit_run(of(session, role=None), document, Submit(parameters={"role": ROLE}), "a")

    def test_some_steps_alone(self, session: Session, document: Document, aws: FakeAws) -> None:
        only = Submit(only=("train", "quantize"))
        with pytest.raises(ConfigError, match="no execution of this pipeline has ended yet"):
            submit_run(session, document, only, "a")
        first = submit_run(session, document, Submit(), "b")
        aws.executions[first.arn].end()
        running = submit_run(session, document, Submit(), "c")
        chosen = submit_run(session, document, only, "d")
        asked = aws.executions[chosen.arn].asked["SelectiveExecutionConfig"]
        assert asked["SourcePipelineExecutionArn"] == first.arn, "the latest that has ended, not the running one"
        assert [item["StepName"] for item in asked["SelectedSteps"]] == ["train", "quantize"]
        named = submit_run(session, document, Submit(only=("train",), reference=running.arn.rpartition("/")[2]), "e")
        asked = aws.executions[named.arn].asked["SelectiveExecutionConfig"]
        assert asked["SourcePipelineExecutionArn"] == running.arn


class TestDocument:
    def test_without_caching(self, document: Document) -> None:
        assert with_cache(document, None) is with_cache(document, True) is document
        off = with_cache(document, False)
        assert "CacheConfig" in document.text
        assert "CacheConfig" not in off.text
        assert with_cache(off, False) is off
        with pytest.raises(ConfigError, match=r"compile with target\.cache=true"):
            with_cache(off, True)

    @pytest.mark.parametrize(("text", "message"), [("{", "no JSON"), ("[]", "no pipeline definition")])
    def test_what_is_none(self, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_document(text, "small", "x.json")

    def test_names_that_sagemaker_does_not_take(self, document: Document) -> None:
        with pytest.raises(ConfigError, match=r"pipeline\.name='a_b'"):
            read_document(document.text, "a_b")

    def test_values_are_texts(self, document: Document) -> None:
        given = given_parameters(document, {"role": ROLE, "bucket": "b", "train_epochs": 2.0})
        assert given == {"role": ROLE, "bucket": "b", "train_epochs": "2"}


def test_the_definition_reaches_the_service_byte_for_byte(target: SageMaker, document: Document, aws: FakeAws) -> None:
    upsert_pipeline(open_session(target), document, ROLE)
    asked = next(call.asked for call in aws.calls if call.name == "sagemaker:CreatePipeline")
    assert asked["PipelineDefinition"].encode() == document.text.encode()


def test_the_submitters_policy_allows_all_that_is_asked_for(session: Session, document: Document, aws: FakeAws) -> None:
    tagged = of(session, tags={"team": "vision"})
    upsert_pipeline(session, document, ROLE)
    upsert_pipeline(tagged, large(document), ROLE)
    done = submit_run(tagged, document, Submit(), "a")
    aws.play.failing["train"] = "no"
    status = follow(session, read_plan(session, find_run(session, None, "small")), lambda status: None)
    for step in status.steps:
        with contextlib.suppress(ConfigError):
            read_log(session, step)
    schedule = Schedule(interval_seconds=3600)
    schedule_runs(session, document, Submit(), schedule)
    change_state(session, "small", "disabled")
    change_state(session, "small", "deleted")
    asked = {{"s3:HEAD": "s3:GetObject", "s3:PUT": "s3:PutObject"}.get(c.name.split()[0], c.name) for c in aws.calls}
    assert len(asked) > 15, done
    statements = policies(document.text, "small", session.target).documents["submitter"]["Statement"]
    allowed = {action for statement in statements for action in statement["Action"]}
    # whom everybody may ask, and what only makes links better
    assert asked - allowed <= {"sts:GetCallerIdentity", "sagemaker:ListDomains"}
