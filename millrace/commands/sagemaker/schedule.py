"""`millrace schedule`: executions on SageMaker, again and again."""

from __future__ import annotations

from millrace.commands.of_target import Asked
from millrace.commands.sagemaker.documents import name_of
from millrace.commands.sagemaker.upload import compiled_document
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.services.sagemaker import schedule_runs, session
    from millrace.services.sagemaker.schedules import change_state

    opened, schedule = session(settings.sagemaker()), settings.schedule
    no_trigger = schedule.cron is None and schedule.interval_seconds is None
    if schedule.state == "deleted" or (schedule.state is not None and no_trigger):
        done = change_state(opened, schedule.name or name_of(settings, asked), schedule.state)
    else:
        done = schedule_runs(opened, compiled_document(settings, asked), settings.submit, schedule)
    print(f"schedule {done.name}: {done.change}{': ' if done.trigger else ''}{done.trigger}")
    if done.link:
        print(f"see it: {done.link}")
    return 0
