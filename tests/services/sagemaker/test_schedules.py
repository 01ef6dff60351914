"""Schedules of EventBridge: one for each name, changed only when something differs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from millrace.errors import ConfigError, UnsupportedError
from millrace.services.sagemaker import Document, Session, schedule_runs
from millrace.services.sagemaker import session as open_session
from millrace.services.sagemaker.expressions import cron_expression, schedule_expression
from millrace.services.sagemaker.schedules import change_state
from millrace.targets.runs import Schedule, Submit
from tests.services.sagemaker.conftest import BUCKET, ROLE
from tests.services.sagemaker.fake import ACCOUNT, FakeAws

NIGHTLY = Schedule(cron="0 3 * * *")


def stored(session: Session, name: str = "small") -> dict[str, Any]:
    return session.call("scheduler", "get_schedule", Name=name)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("0 3 * * *", "0 3 * * ? *"),
        ("*/15 * * * *", "0/15 * * * ? *"),
        ("0 */6 1,15 */2 *", "0 0/6 1,15 1/2 ? *"),
        ("30 8 * * 1-5", "30 8 ? * MON,TUE,WED,THU,FRI *"),
        ("30 8 * * MON-FRI", "30 8 ? * MON,TUE,WED,THU,FRI *"),
        ("0 0 * * 0", "0 0 ? * SUN *"),
        ("0 0 * * 7", "0 0 ? * SUN *"),
        ("0 0 * * 5-7", "0 0 ? * SUN,FRI,SAT *"),
        ("0 0 * * */2", "0 0 ? * SUN,TUE,THU,SAT *"),
        ("0 0 * JAN-MAR,jul *", "0 0 * JAN-MAR,jul ? *"),
        ("@daily", "0 0 * * ? *"),
        ("0 8 L * ? 2027", "0 8 L * ? 2027"),
        ("0 8 ? * 2#1 *", "0 8 ? * 2#1 *"),
        ("0/5 8-17 ? * MON-FRI 2026-2028", "0/5 8-17 ? * MON-FRI 2026-2028"),
    ],
)
def test_cron(given: str, wanted: str) -> None:
    assert cron_expression(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0 25 * * *", "'25' is no hour: allowed: 0-23"),
        ("60 * * * *", "'60' is no minute"),
        ("0 3 1 * 1", "a day of the month or a day of the week, not both"),
        ("0 3 * *", "has 4 fields"),
        ("0 3 * * * *", "one must be `?`"),
        ("0 3 ? * ? *", "one must be `?`"),
        ("0 3 * * ? 1969", "'1969' is no year"),
        ("0 3 ? * 0 *", "'0' is no day of the week: allowed: 1-7"),
        ("0 5-3 * * *", "ends before it begins"),
        ("@never", "allowed words"),
        ("0 3 * FOO *", "'FOO' is no month"),
        ("0 */0 * * *", "is no hour"),
    ],
)
def test_cron_that_is_none(given: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cron_expression(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (60, "rate(1 minute)"),
        (5400, "rate(90 minutes)"),
        (7200, "rate(2 hours)"),
        (86400, "rate(1 day)"),
        (90, "give 60 or 120"),
    ],
)
def test_rate(seconds: int, wanted: str) -> None:
    try:
        found = schedule_expression(Schedule(interval_seconds=seconds))
    except ConfigError as error:
        found = str(error)
    assert wanted in found


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
