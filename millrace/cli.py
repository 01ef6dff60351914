"""The `millrace` command: finds the command, and turns errors into one message and an exit code."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import millrace
from millrace.errors import (
    MillraceError,
    TaskFailedError,
    UserError,
    did_you_mean,
    explain_os_error,
    report,
)

if TYPE_CHECKING:
    from millrace.runners.record import PipelineRun

__all__ = ["main"]


class _Command(NamedTuple):
    run: Callable[[Sequence[str]], int]
    summary: str
    help: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 success, 1 a failed run, 2 a mistake."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for the life of the process
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["millrace"]:  # runners that append a container's command to the image's entry point
        del words[0]
    if "--debug" in words:
        os.environ["MILLRACE_DEBUG"] = "1"
        words.remove("--debug")
    try:
        return _dispatch(words)
    except MillraceError as error:
        return report(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # nobody reads: what is still to be flushed goes nowhere
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"millrace {millrace.__version__}")
        return 0
    if words[0] in ("-sc", "--shell-completion"):
        from millrace.completion import complete

        return complete(words[1:], COMMANDS)
    command = COMMANDS.get(words[0]) or _OF_SERVICES.get(words[0])
    if command is None:
        raise UserError(f"unknown command {words[0]!r}: {did_you_mean(words[0], COMMANDS)}")
    if {"-h", "--help"} & set(words[1:]):
        print(f"{command.summary}\n\n{command.help}")
        return 0
    return command.run(words[1:])


def _overview() -> str:
    listed = "\n".join(f"  {name:<12}{command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: millrace COMMAND [arguments]\n\n"
        f"{listed}\n\n"
        "Help on one:      millrace COMMAND --help\n"
        'Tab completion:   eval "$(millrace -sc install=bash)"\n'
        "Errors in full:   add --debug"
    )


def _run(words: Sequence[str]) -> int:
    from millrace.config import compose_and_call

    return compose_and_call("run", words, partial(_run_once, words))


def _run_once(words: Sequence[str], composed: Mapping[str, Any]) -> int:
    from millrace.runners.display import Display
    from millrace.runners.local import run_pipeline
    from millrace.runners.record import RunState
    from millrace.runners.report import write_report
    from millrace.settings import read_settings

    settings = read_settings(composed)
    pipeline, config = settings.load()
    spec = pipeline.compose(config)
    several = [task.name for task in spec.tasks if task.distribution.processes > 1]
    if several and find_spec("horovod") is None:
        told = f"{', '.join(several)} with one process instead of several: make horovod"
        print(f"note: Horovod is not installed. {told}", file=sys.stderr)
    for remark in config.remarks():
        print(f"note: {remark}", file=sys.stderr)
    with Display(shlex.join(["millrace", "run", *words])) as display:
        run, directory = run_pipeline(
            spec, settings.runner, config=config.model_dump(mode="json"), watch=display.update
        )
    display.close(run)
    try:
        print(f"report: {write_report(run, directory)}")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TaskFailedError(f"the report can't be written: {explain_os_error(error)}") from error
    return {RunState.SUCCEEDED: 0, RunState.CANCELLED: 130}.get(run.state, _failed_code(run))


def _failed_code(run: PipelineRun) -> int:
    failures = [share.failure for task in run.tasks.values() for share in task.shares if share.failure]
    return 2 if any(failure.kind == "user" for failure in failures) else 1


def _components(words: Sequence[str]) -> int:
    from millrace.library import list_components

    return list_components(words)


def _describe(words: Sequence[str]) -> int:
    from millrace.library import describe

    return describe(words)


def _doctor(words: Sequence[str]) -> int:
    from millrace.doctor import examine

    return examine(words)


def _exec(words: Sequence[str]) -> int:
    from millrace.runtime.execute import end_when_told, end_with_parent, execute
    from millrace.runtime.task import append_import_path

    end_when_told()
    append_import_path()
    if "--executor-input" in words:
        from millrace.runtime.kubeflow import run

        return run(words)
    if "--remote" in words:
        from millrace.runtime.cluster.remote import run as run_remote

        return run_remote(words)
    if words and not words[0].startswith("-"):
        from millrace.runtime.sagemaker.processing import here
        from millrace.runtime.sagemaker.processing import run as run_processing

        if here():
            return run_processing(words)
    rest = [word for word in words if word not in ("--supervised", "--rank")]
    if len(rest) != 2 or rest[0] != "--task":
        raise UserError("usage: millrace exec --task DIRECTORY (a folder that holds a task.json)")
    directory = Path(rest[1])
    if not os.path.isdir(directory):  # noqa: PTH112 - Path.is_dir() raises where a folder above can't be read
        raise UserError(f"{directory} is not a folder that can be read")
    if "--supervised" in words:
        end_with_parent()
    if "--rank" in words:
        from millrace.runtime.launcher.rank import execute_rank

        return execute_rank(directory.absolute())
    from millrace.runtime.launcher.mpi import started_by_mpirun

    if started_by_mpirun(os.environ):
        from millrace.runtime.launcher.rank import execute_under_mpirun

        return execute_under_mpirun(directory.absolute())
    return execute(directory.absolute())


def _train(words: Sequence[str]) -> int:
    from millrace.runtime.execute import end_when_told
    from millrace.runtime.sagemaker.training import run
    from millrace.runtime.task import append_import_path

    end_when_told()
    append_import_path()
    return run(words)


def _serve(words: Sequence[str]) -> int:
    called: Callable[[Sequence[str]], int] = import_module("millrace.components.deploy.server").main
    return called(words)


def _later(command: str) -> Callable[[Sequence[str]], int]:
    """A command of `millrace.commands`, imported when it is called."""

    def run(words: Sequence[str]) -> int:
        called: Callable[[Sequence[str]], int] = import_module(f"millrace.commands.{command}").run
        return called(words)

    return run


_OVERRIDES = """\
Overrides are those of Hydra: key=value, group=option, --multirun, --cfg job, --info, --config-dir DIR."""


def _of_a_target(name: str, summary: str, more: str = "", target: str = "kubeflow") -> _Command:
    example = f"example:\n  millrace {name} pipeline=digits target={target}{more}"

    def run(words: Sequence[str]) -> int:
        from millrace.commands.of_target import run

        return run(name, words)

    return _Command(run, summary, f"{example}\n\n{_OVERRIDES}")


COMMANDS: dict[str, _Command] = {
    "run": _Command(
        _run,
        "run a pipeline on this machine",
        f"example:\n  millrace run pipeline=digits train.epochs=5 runner.cores=2\n\n{_OVERRIDES}",
    ),
    "build": _Command(
        _later("build"),
        "build the images of the components, and push them",
        "example:\n  millrace build push=registry.example.org/team/",
    ),
    "compile": _of_a_target("compile", "write a pipeline as a target's own document", " runtime=[train.epochs]"),
    "rehearse": _of_a_target("rehearse", "run a compiled document in containers on this machine"),
    "upload": _of_a_target("upload", "put a compiled pipeline into a target's UI"),
    "submit": _of_a_target("submit", "start a run on a target"),
    "schedule": _of_a_target("schedule", "start runs on a target again and again", " schedule.cron='0 3 * * *'"),
    "status": _of_a_target("status", "show how a run on a target goes", " run=RUN_ID"),
    "rbac": _of_a_target("rbac", "print the permissions that a pipeline needs in a cluster"),
    "iam": _of_a_target("iam", "print the policies that a pipeline needs on SageMaker", target="sagemaker"),
    "cost": _of_a_target("cost", "tell what a run on SageMaker may cost", target="sagemaker"),
    "endpoint": _of_a_target(
        "endpoint", "deploy, roll back or delete an endpoint", " endpoint.action=deploy", target="sagemaker"
    ),
    "lineage": _Command(
        _later("lineage"),
        "show where an object, a record or a metric of a local run came from",
        "examples:\n"
        "  millrace lineage                                             the newest run: artifacts, channels, leaks\n"
        "  millrace lineage latest cats/7.jpg                           an object, by its URI or a part of it\n"
        "  millrace lineage latest 'orders.csv#row=3'                   a row of a table, from 0 without the header\n"
        "  millrace lineage RUN train-00000-of-00002.tfrecord#5         a record, counted from 0\n"
        "  millrace lineage RUN cats/7.jpg.out                          a prediction of the component predict\n"
        "  millrace lineage RUN evaluate.accuracy                       a metric, and the wrong answers\n\n"
        "RUN is an id below .millrace/runs, a unique beginning of one, or latest.\n"
        "Options:  --json, --root FOLDER (runner.root of the run)",
    ),
    "components": _Command(
        _components,
        "list the components that can be used",
        "example:\n  millrace components --config-dir my_config",
    ),
    "describe": _Command(
        _describe,
        "show a component or a pipeline: parameters, inputs, outputs",
        "example:\n  millrace describe train",
    ),
    "doctor": _Command(
        _doctor,
        "tell what is missing, and the line that mends it",
        "example:\n  millrace doctor target=local",
    ),
    "exec": _Command(
        _exec,
        "run one task (for containers and runners, not for people)",
        "example:\n  millrace exec --task .millrace/tasks/train/0123456789abcdef0123",
    ),
    "serve": _Command(
        _serve,
        "serve a model over HTTP (for containers, not for people)",
        "example:\n  millrace serve --model build/model --port 8080\n\n"
        "Without --model: the folder that SageMaker (/opt/ml/model) or KServe (/mnt/models) mounts, on all addresses.\n"
        "Options:  millrace serve --options",
    ),
}

_OF_SERVICES: dict[str, _Command] = {
    "train": _Command(
        _train,
        "train in a container of SageMaker's training jobs (for the service, not for people)",
        "What is to be trained is told by the files in /opt/ml/input/config and by the variables MILLRACE_COMPONENT,\n"
        "MILLRACE_TASK and so on, which `millrace compile target=sagemaker` puts into the document.\n"
        "To train on this machine:\n  millrace run pipeline=digits",
    ),
}
"""Commands that a service calls by a name of its own choice; lists of commands leave them out."""
