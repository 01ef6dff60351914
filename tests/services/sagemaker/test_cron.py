"""When a schedule starts runs, in EventBridge's words."""

from __future__ import annotations

import pytest

from millrace.errors import ConfigError
from millrace.services.sagemaker.cron import cron_expression, schedule_expression
from millrace.targets.runs import Schedule


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
