"""`millrace status`: how an execution on SageMaker goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millrace.commands.of_target import Asked
from millrace.config import target_words
from millrace.errors import ConfigError
from millrace.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from millrace.services.sagemaker import RunStatus, Session
    from millrace.services.sagemaker.logs import Lines

__all__ = ["follow_run", "run"]

_LAST_LINES = 20


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.compilers.sagemaker.names import pipeline_name
    from millrace.services.sagemaker import find_run, read_plan, read_status, session
    from millrace.services.sagemaker.display import show
    from millrace.services.sagemaker.logs import read_log, step_of

    opened = session(settings.sagemaker())
    name = pipeline_name(settings.pipeline.name)
    arn = find_run(opened, settings.run, name)
    words = f"pipeline.name={name} {target_words(asked.words)} run={arn.rpartition('/')[2]}"
    if settings.wait and settings.logs is not None:
        return _follow_log(opened, arn, settings.logs, words)
    if settings.wait:
        return follow_run(opened, arn, words)
    status = read_status(opened, read_plan(opened, arn))
    if settings.logs is not None:
        _print(read_log(opened, *step_of(status, settings.logs)))
        return 0
    show(status)
    _failures(opened, status)
    return _code(status) if status.over else 0


def follow_run(session: Session, arn: str, words: str) -> int:
    """Show an execution until it ends; 0 when it has succeeded, 1 when not, 130 when interrupted (it goes on).

    Args:
        session: Who asks.
        arn: The execution.
        words: What to type after `millrace status` to look at it again.
    """
    from millrace.services.sagemaker import follow, read_plan
    from millrace.services.sagemaker.display import Display, show

    try:
        with Display() as display:
            status = follow(session, read_plan(session, arn), display.update)
    except KeyboardInterrupt:
        return _interrupted(arn, f"{words} wait=true")
    show(status, display.console, steps=False)
    _failures(session, status)
    return _code(status)


def _follow_log(session: Session, arn: str, step: str, words: str) -> int:
    """Print a step's log as it comes; 0 when the step has ended well."""
    from millrace.services.sagemaker import read_plan, read_status
    from millrace.services.sagemaker.logs import follow_log, step_of

    plan = read_plan(session, arn)
    try:
        status = follow_log(session, lambda: read_status(session, plan), step, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        return _interrupted(arn, f"{words} logs={step} wait=true")
    return 0 if step_of(status, step)[0].state in ("succeeded", "cached") else 1


def _interrupted(arn: str, words: str) -> int:
    print(f"\nthe run goes on: millrace status {words}")
    print(f"to end it: aws sagemaker stop-pipeline-execution --pipeline-execution-arn {arn}")
    return 130


def _failures(session: Session, status: RunStatus) -> None:
    """The last lines of what failed, where CloudWatch has them."""
    from millrace.services.sagemaker.logs import read_log

    for step in status.steps:
        if step.state == "failed" and step.arn:
            try:
                found = read_log(session, step, last=_LAST_LINES)
            except ConfigError as error:
                print(f"\n{error}")
                continue
            print(f"\n{step.name} failed; the end of its log:")
            _print(found, "  | ")


def _print(found: Iterable[Lines], before: str = "") -> None:
    logs = list(found)
    for log in logs:
        if len(logs) > 1:
            print(f"== {log.stream}")
        for line in log.lines:
            print(f"{before}{line}")


def _code(status: RunStatus) -> int:
    return 0 if status.succeeded else 1
