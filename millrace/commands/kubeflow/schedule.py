"""`millrace schedule`: runs on a target, again and again."""

from __future__ import annotations

from millrace.commands.kubeflow.upload import compiled_document
from millrace.commands.of_target import Asked
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.services.kubeflow import connect, schedule_runs
    from millrace.services.kubeflow.recurring import change_state

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
