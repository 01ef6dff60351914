"""`millrace schedule`: runs on a target, again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from millrace.commands.upload import compiled_document
from millrace.config import compose_and_call, read_settings

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Run the command on its words and return the exit code."""
    return compose_and_call("schedule", words, _schedule)


def _schedule(composed: Mapping[str, Any]) -> int:
    from millrace.services.kubeflow import connect, schedule_runs
    from millrace.services.kubeflow.recurring import change_state

    settings = read_settings(composed)
    target, schedule = settings.kubeflow(), settings.schedule
    connection = connect(target)
    no_trigger = schedule.cron is None and schedule.interval_seconds is None
    if schedule.state == "deleted" or (schedule.state is not None and no_trigger):
        name = schedule.name or settings.pipeline.name.replace("_", "-")
        done = change_state(connection, name, schedule.state)
    else:
        document = compiled_document(settings)
        name = schedule.name or document.name
        done = schedule_runs(connection, document, target, settings.submit, schedule)
    print(f"schedule {name}: {done.change}{': ' if done.trigger else ''}{done.trigger}")
    if done.change != "deleted" and done.link:
        print(f"see it: {done.link}")
    return 0
