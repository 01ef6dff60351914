"""Schedules of EventBridge: one for each name, changed only when something differs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from millrace.errors import ConfigError, UnsupportedError
from millrace.services.sagemaker import Document, Session, schedule_runs
from millrace.services.sagemaker import session as open_session
from millrace.services.sagemaker.schedules import change_state
from millrace.targets.runs import Schedule, Submit
from tests.services.sagemaker.conftest import BUCKET, ROLE
from tests.services.sagemaker.fake import ACCOUNT, FakeAws

NIGHTLY = Schedule(cron="0 3 * * *")


def stored(session: Session, name: str = "small") -> dict[str, Any]:
    return session.call("scheduler", "get_schedule", Name=name)


def test_made_once_and_left_alone(session: Session, document: Document, aws: FakeAws) -> None:
    submit = Submit(parameters={"train.epochs": 5})
    first = schedule_runs(session, document, submit, NIGHTLY)
    assert (first.name, first.change, first.trigger) == ("small", "made", "cron(0 3 * * ? *)")
    found = stored(session)
    assert found["State"] == "ENABLED"
    assert found["Target"]["Arn"] == f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:pipeline/small"
    assert found["Target"]["RoleArn"] == ROLE
    assert found["Target"]["SageMakerPipelineParameters"]["PipelineParameterList"] == [
        {"Name": "bucket", "Value": BUCKET},
        {"Name": "role", "Value": ROLE},
        {"Name": "train_epochs", "Value": "5"},
    ]
    aws.calls.clear()
    assert schedule_runs(session, document, submit, NIGHTLY).change == "unchanged"
    assert aws.changes() == []


@pytest.mark.parametrize(
    "changed",
    [
        Schedule(interval_seconds=3600),
        NIGHTLY.model_copy(update={"end": datetime(2031, 1, 1, tzinfo=UTC)}),
        NIGHTLY.model_copy(update={"start": datetime(2030, 1, 1)}),
        NIGHTLY.model_copy(update={"state": "disabled"}),
    ],
)
def test_what_differs_is_changed_in_place(
    session: Session, document: Document, aws: FakeAws, changed: Schedule
) -> None:
    schedule_runs(session, document, Submit(), NIGHTLY)
    aws.calls.clear()
    assert schedule_runs(session, document, Submit(), changed).change == "changed"
    assert aws.changes() == ["scheduler:UpdateSchedule"]
    assert schedule_runs(session, document, Submit(), changed).change == "unchanged"
    assert len(session.call("scheduler", "list_schedules")["Schedules"]) == 1


def test_the_parameters_and_the_definition_follow(session: Session, document: Document, aws: FakeAws) -> None:
    schedule_runs(session, document, Submit(), NIGHTLY)
    newer = Document("small", document.text.replace("ml.m5.xlarge", "ml.m5.2xlarge"))
    aws.calls.clear()
    assert schedule_runs(session, newer, Submit(), NIGHTLY).change == "unchanged"
    assert aws.changes() == ["sagemaker:UpdatePipeline"]
    assert schedule_runs(session, newer, Submit(parameters={"train.epochs": 9}), NIGHTLY).change == "changed"


def test_a_role_of_its_own(session: Session, document: Document) -> None:
    other = open_session(session.target.model_copy(update={"schedule_role": f"{ROLE}-scheduler"}))
    schedule_runs(other, document, Submit(), NIGHTLY)
    assert stored(session)["Target"]["RoleArn"] == f"{ROLE}-scheduler"


def test_on_off_and_deleted(session: Session, document: Document, aws: FakeAws) -> None:
    end = datetime(2031, 1, 1, tzinfo=UTC)
    schedule_runs(session, document, Submit(), NIGHTLY.model_copy(update={"end": end}))
    before = stored(session)
    assert change_state(session, "small", "disabled").change == "disabled"
    assert change_state(session, "small", "disabled").change == "unchanged"
    after = stored(session)
    assert after["State"] == "DISABLED"
    assert {key: after[key] for key in ("Target", "EndDate", "ScheduleExpression")} == {
        key: before[key] for key in ("Target", "EndDate", "ScheduleExpression")
    }
    again = schedule_runs(session, document, Submit(), NIGHTLY.model_copy(update={"end": end}))
    assert again.change == "unchanged", "a schedule that is off stays off when nobody says otherwise"
    assert change_state(session, "small", "enabled").change == "enabled"
    assert change_state(session, "small", "deleted").change == "deleted"
    assert change_state(session, "small", "deleted").change == "deleted"
    with pytest.raises(ConfigError, match=r"schedule\.name=small: there is no such schedule"):
        change_state(session, "small", "enabled")


@pytest.mark.parametrize(
    ("submit", "schedule", "message"),
    [
        (Submit(), Schedule(cron="0 3 * * *", catch_up=True), "schedule.catch_up"),
        (Submit(), Schedule(cron="0 3 * * *", concurrency=2), "schedule.concurrency=2"),
        (Submit(only=("train",)), NIGHTLY, "submit.only"),
        (Submit(id="x"), NIGHTLY, "submit.id"),
        (Submit(experiment="x"), NIGHTLY, "submit.experiment"),
        (Submit(), Schedule(), "give either schedule.cron"),
        (Submit(), Schedule(cron="0 3 * * *", interval_seconds=60), "give either schedule.cron"),
        (Submit(), Schedule(cron="0 3 * * *", name="a b"), "schedule.name='a b'"),
        (Submit(parameters={"train.epoch": 1}), NIGHTLY, "did you mean 'train_epochs'"),
        (
            Submit(),
            NIGHTLY.model_copy(
                update={"start": datetime(2031, 1, 2, tzinfo=UTC), "end": datetime(2031, 1, 1, tzinfo=UTC)}
            ),
            "it must be after",
        ),
    ],
)
def test_what_can_not_be_done_is_refused_before_anything_is_sent(
    session: Session, document: Document, aws: FakeAws, submit: Submit, schedule: Schedule, message: str
) -> None:
    with pytest.raises((ConfigError, UnsupportedError)) as caught:
        schedule_runs(session, document, submit, schedule)
    assert message in str(caught.value)
    assert aws.calls == []
