"""Schedules: one for each name, replaced only when they differ."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from millrace.errors import ConfigError
from millrace.services.kubeflow import Connection, Document, schedule_runs
from millrace.services.kubeflow.cron import six_fields
from millrace.services.kubeflow.recurring import change_state
from millrace.targets.kubeflow import Kubeflow
from millrace.targets.runs import Schedule, Submit
from tests.services.kubeflow.fake_server import FakeKubeflow, RefusalError

NIGHTLY = Schedule(cron="0 3 * * *")


class TestSchedule:
    def test_says_everything_that_the_api_takes(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        wanted = Schedule(
            name="often",
            interval_seconds=7200,
            start=datetime(2030, 1, 1, tzinfo=UTC),
            end=datetime(2031, 1, 1),  # without a zone, as people write it
            catch_up=True,
            concurrency=3,
        )
        rich = target.model_copy(update={"service_account": "trainer", "pipeline_root": "s3://bucket/runs"})
        submit = Submit(experiment="nightly", parameters={"train.epochs": 9})
        done = schedule_runs(connection, document, rich, submit, wanted)
        made = fake.schedules[done.schedule_id]
        assert made["trigger"]["periodic_schedule"] == {
            "interval_second": "7200",
            "start_time": "2030-01-01T00:00:00Z",
            "end_time": "2031-01-01T00:00:00Z",
        }
        assert made["no_catchup"] is False
        assert made["max_concurrency"] == "3"
        assert made["service_account"] == "trainer"
        assert made["runtime_config"] == {"parameters": {"train_epochs": 9}, "pipeline_root": "s3://bucket/runs"}
        assert (made["display_name"], made["status"]) == ("often", "ENABLED")
        assert done.change == "made"

    def test_of_the_same_changes_nothing(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        first = schedule_runs(connection, document, target, Submit(), NIGHTLY)
        again = schedule_runs(connection, document, target, Submit(), NIGHTLY)
        assert again.change == "unchanged"
        assert list(fake.schedules) == [first.schedule_id]
        assert fake.schedules[first.schedule_id]["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"

    def test_of_another_replaces_the_first(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        first = schedule_runs(connection, document, target, Submit(), NIGHTLY)
        again = schedule_runs(connection, document, target, Submit(parameters={"train.epochs": 1}), NIGHTLY)
        assert again.change == "replaced"
        assert again.schedule_id != first.schedule_id
        assert list(fake.schedules) == [again.schedule_id]
        assert len(fake.firing()) == 1

    @pytest.mark.parametrize("killed_at", [":disable", ":enable", "DELETE"])
    def test_that_was_killed_never_fires_twice_and_is_finished_by_the_next(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow, killed_at: str
    ) -> None:
        schedule_runs(connection, document, target, Submit(), NIGHTLY)
        changed = Submit(parameters={"train.epochs": 1})
        fake.broken = lambda method, path: RefusalError(500, "gone") if killed_at in f"{method} {path}" else None
        with pytest.raises(ConfigError, match="gone"):
            schedule_runs(connection, document, target, changed, NIGHTLY)
        assert len(fake.firing()) <= 1
        fake.broken = lambda method, path: None
        schedule_runs(connection, document, target, changed, NIGHTLY)
        assert len(fake.schedules) == len(fake.firing()) == 1
        assert fake.firing()[0]["runtime_config"]["parameters"] == {"train_epochs": 1}

    def test_that_was_switched_off_stays_off_when_it_is_replaced(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        schedule_runs(connection, document, target, Submit(), Schedule(cron="0 3 * * *", state="disabled"))
        assert schedule_runs(connection, document, target, Submit(), Schedule(cron="0 4 * * *")).change == "replaced"
        assert len(fake.schedules) == 1
        assert not fake.firing()

    def test_leaves_alone_what_others_have_made(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        done = schedule_runs(connection, document, target, Submit(), NIGHTLY)
        fake.schedules[done.schedule_id]["description"] = "made in the UI"
        with pytest.raises(ConfigError, match="a schedule called 'small' exists that Millrace did not make"):
            schedule_runs(connection, document, target, Submit(), Schedule(cron="0 4 * * *"))
        assert list(fake.schedules) == [done.schedule_id]

    def test_is_switched_and_deleted(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        done = schedule_runs(connection, document, target, Submit(), NIGHTLY)
        assert change_state(connection, "small", "disabled").change == "disabled"
        assert not fake.firing()
        assert schedule_runs(connection, document, target, Submit(), NIGHTLY).change == "unchanged"
        assert not fake.firing()
        again = schedule_runs(connection, document, target, Submit(), Schedule(cron="0 3 * * *", state="enabled"))
        assert (again.change, again.schedule_id) == ("enabled", done.schedule_id)
        assert change_state(connection, "small", "deleted").change == "deleted"
        assert not fake.schedules
        assert change_state(connection, "small", "deleted").change == "not there"
        with pytest.raises(ConfigError, match="there is no schedule called 'small'"):
            change_state(connection, "small", "enabled")

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (Schedule(), "give either schedule.cron"),
            (Schedule(cron="0 3 * * *", interval_seconds=60), "give either schedule.cron"),
            (
                Schedule(cron="@daily", start=datetime(2031, 1, 1, tzinfo=UTC), end=datetime(2030, 1, 1, tzinfo=UTC)),
                "must be later than schedule.start",
            ),
        ],
    )
    def test_that_is_none_is_refused(
        self, connection: Connection, document: Document, target: Kubeflow, wrong: Schedule, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            schedule_runs(connection, document, target, Submit(), wrong)


class TestCron:
    @pytest.mark.parametrize(
        ("given", "read"),
        [
            ("0 3 * * *", "0 0 3 * * *"),
            ("30 0 3 * * *", "30 0 3 * * *"),
            ("*/15 8-18 * * MON-FRI", "0 */15 8-18 * * MON-FRI"),
            ("0 0 1,15 jan ?", "0 0 0 1,15 jan ?"),
            ("@daily", "@daily"),
        ],
    )
    def test_is_read_as_crontab_does(self, given: str, read: str) -> None:
        assert six_fields(given) == read

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("* * *", "has 3 fields"),
            ("60 3 * * *", "'60' is no minute: allowed: 0-59"),
            ("0 24 * * *", "'24' is no hour"),
            ("0 3 * * 7", "'7' is no day of the week: allowed: 0-6 or SUN-SAT"),
            ("0 3 0 * *", "'0' is no day of the month"),
            ("0 5-3 * * *", "the range of the hour ends before it begins"),
            ("*/0 3 * * *", "'.*/0' is no minute"),
            ("0 3 * * lundi", "'lundi' is no day of the week"),
            ("0 3 * * 1;2", "'1;2' is no day of the week"),
            ("@noon", "allowed words: @yearly"),
        ],
    )
    def test_that_is_wrong_names_the_field(self, given: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message.replace("*", r"\*") if "/0" not in message else message):
            six_fields(given)
