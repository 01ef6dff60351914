"""`millrace status`: how a run on a target goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millrace.commands.of_target import Asked
from millrace.errors import ConfigError
from millrace.settings import Settings

if TYPE_CHECKING:
    from millrace.services.kubeflow import Connection, RunStatus
    from millrace.targets.kubeflow import Kubeflow

__all__ = ["follow_run", "run"]

_LAST_LINES = 20


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.services.kubeflow import connect, find_run, read_status
    from millrace.services.kubeflow.display import show
    from millrace.services.kubeflow.logs import read_log, task_of

    target = settings.kubeflow()
    connection = connect(target)
    run_id = find_run(connection, settings.run, settings.pipeline.name.replace("_", "-"))
    if settings.wait and settings.logs is None:
        return follow_run(connection, target, run_id)
    status = read_status(connection, run_id)
    if settings.logs is not None:
        print(read_log(connection, status, task_of(status, settings.logs), target.namespace))
        return 0
    show(status)
    _failures(connection, target, status)
    return _code(status) if status.over else 0


def follow_run(connection: Connection, target: Kubeflow, run_id: str) -> int:
    """Show a run until it ends; 0 when it has succeeded, 1 when not, 130 when interrupted (the run goes on)."""
    from millrace.services.kubeflow import follow
    from millrace.services.kubeflow.display import Display, show

    try:
        with Display() as display:
            status = follow(connection, run_id, display.update, target.api.poll_seconds)
    except KeyboardInterrupt:
        print(f"\nthe run goes on: millrace status target=kubeflow run={run_id} wait=true")
        return 130
    show(status, display.console, tasks=False)
    _failures(connection, target, status)
    return _code(status)


def _failures(connection: Connection, target: Kubeflow, status: RunStatus) -> None:
    """The last lines of what failed, where the target still has them."""
    from millrace.services.kubeflow.logs import read_log

    for task in status.tasks:
        if task.state == "failed":
            try:
                lines = read_log(connection, status, task, target.namespace).splitlines()[-_LAST_LINES:]
            except ConfigError as error:
                print(f"\n{error}")
                continue
            print(f"\n{task.name} failed; the end of its log:")
            print("\n".join(f"  | {line}" for line in lines))


def _code(status: RunStatus) -> int:
    return 0 if status.succeeded else 1
