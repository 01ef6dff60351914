"""A rehearsal from a definition's text to its record."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import millrace
from millrace.compilers.sagemaker.check import check_document
from millrace.errors import ConfigError, UnsupportedError
from millrace.runners.engine import Engine, connect
from millrace.runners.record import RunState
from millrace.runners.rehearsing import (
    Ending,
    ending_on_signal,
    forget_old,
    identity_of,
    missing_images,
    named,
    refuse_settings,
)
from millrace.runners.sagemaker import support
from millrace.runners.sagemaker.definition import Definition, read_definition
from millrace.runners.sagemaker.endpoints import Hosting, open_hosting, sagemaker_client
from millrace.runners.sagemaker.expressions import Values, evaluate
from millrace.runners.sagemaker.front import open_front
from millrace.runners.sagemaker.graph import run_graph
from millrace.runners.sagemaker.parameters import parameter_values, refuse_roles
from millrace.runners.sagemaker.place import open_place
from millrace.runners.sagemaker.record import Rehearsal
from millrace.runners.sagemaker.relay import for_containers
from millrace.runners.sagemaker.run import Run
from millrace.runners.settings import Rehearse
from millrace.runners.store import Store, open_moto, open_store, seed

__all__ = ["rehearse"]

_ACCOUNT = "123456789012"
"""The one that moto's server has."""
_NOT_OURS = ("pipeline_root", "secrets", "config_maps", "cache")
_OTHER_SERVICES = ("SAGEMAKER", "APPLICATION_AUTO_SCALING", "CLOUDWATCH", "CLOUDWATCH_LOGS", "STS")


def rehearse(
    text: str,
    settings: Rehearse,
    given: Mapping[str, Any],
    region: str = "us-east-1",
    name: str = "pipeline",
    watch: Callable[[Rehearsal], None] = lambda record: None,
) -> tuple[Rehearsal, Path]:
    """Execute a pipeline definition on this machine's Docker engine, by the contracts of the service.

    Args:
        text: The definition.
        settings: How it is rehearsed.
        given: Values of the definition's parameters.
        region: Where the definition believes to be.
        name: Of the pipeline: a definition has none.
        watch: Called with the record whenever something changed.

    Returns:
        The record, and the folder that holds it with all logs and outputs.

    Raises:
        ConfigError: When something is missing here: an engine, an image, a value.
        UnsupportedError: When the definition has parts that can't be rehearsed.
        DataError: When it is no definition.
    """
    refuse_settings(settings, _NOT_OURS, "SageMaker")
    definition = _readable(text)
    _refuse_interruptions(definition, settings)
    known = [str(item["Name"]) for item in definition.parameters]
    own = settings.endpoint is None
    parameters, told = parameter_values(definition.parameters, named(given, known), own_store=own)
    refuse_roles(definition, parameters)
    began = datetime.now(UTC)
    identity = identity_of(name)
    values = Values(parameters, _execution(name, region, began))
    with contextlib.ExitStack() as stack:
        ending = stack.enter_context(ending_on_signal())
        engine = connect(identity)
        stack.callback(engine.close)
        images = support.images_of(definition, values)
        if lacking := engine.missing(images):
            raise ConfigError(missing_images(lacking))
        store = stack.enter_context(open_store(settings.endpoint))
        if not own:
            store.check(f"s3://{parameters['bucket']}" if "bucket" in parameters else _a_bucket(definition, values))
        seed(store, settings.seed)
        directory = settings.root.absolute() / identity
        directory.mkdir(parents=True)
        document = directory / "definition.json"
        document.write_text(text)
        record = Rehearsal(
            id=identity,
            pipeline=name,
            execution=values.execution["PipelineExecutionId"],
            started=began,
            millrace=millrace.__version__,
            document=document,
            parameters=parameters,
            notes=[*told, *support.notes(definition, engine.cpus), *support.user_notes(images, engine.user)],
        )
        hosting = _open_hosting(stack, engine, store, directory, region)
        run = Run(
            definition=definition,
            place=hosting.place,
            hosting=hosting,
            values=values,
            record=record,
            directory=directory,
            parallel=settings.parallel,
            slots=asyncio.Semaphore(settings.parallel),
            interrupt=settings.interrupt,
            keeps_outputs=own,
            watch=watch,
        )
        _execute(run, ending, settings.hold)
    forget_old(settings)
    return record, directory


def _readable(text: str) -> Definition:
    definition = read_definition(text)
    errors = [str(finding) for finding in check_document(text) if finding.severity == "error"]
    errors = errors or support.unsupported(definition)
    if errors:
        raise UnsupportedError("this definition can't be rehearsed:\n" + "\n".join(f"  {error}" for error in errors))
    return definition


def _refuse_interruptions(definition: Definition, settings: Rehearse) -> None:
    """Refuse to take machines away that are none, or that are not spot machines."""
    spot = [
        step.name
        for step in definition.steps.values()
        if step.type == "Training" and step.arguments.get("EnableManagedSpotTraining")
    ]
    for name in settings.interrupt:
        if name not in spot:
            allowed = f"those on spot machines are {', '.join(spot)}" if spot else "none runs on spot machines"
            raise ConfigError(f"rehearse.interrupt: no training step {name!r} on spot machines; {allowed}")


def _execution(name: str, region: str, began: datetime) -> dict[str, str]:
    execution = uuid.uuid4().hex[:12]
    arn = f"arn:aws:sagemaker:{region}:{_ACCOUNT}:pipeline/{name.lower()}"
    return {
        "PipelineExecutionId": execution,
        "PipelineExecutionArn": f"{arn}/execution/{execution}",
        "PipelineName": name,
        "PipelineArn": arn,
        "StartDateTime": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "CurrentDateTime": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _a_bucket(definition: Definition, values: Values) -> str:
    """The first place that the definition writes to, for a look at whether it is there."""
    for step in definition.steps.values():
        outputs = (step.arguments.get("ProcessingOutputConfig") or {}).get("Outputs") or [{}]
        for uri in (
            (outputs[0].get("S3Output") or {}).get("S3Uri"),
            (step.arguments.get("OutputDataConfig") or {}).get("S3OutputPath"),
        ):
            if uri is not None:
                with contextlib.suppress(Exception):
                    return "/".join(str(evaluate(uri, values)).split("/")[:3])
    raise ConfigError("rehearse.endpoint: the definition writes nothing whose bucket is known")


def _open_hosting(stack: contextlib.ExitStack, engine: Engine, store: Store, directory: Path, region: str) -> Hosting:
    """SageMaker's own API, and the way to endpoints; containers find both."""
    place = stack.enter_context(open_place(engine, store, directory, region=region, account=_ACCOUNT))
    control = store.endpoint if store.makes_buckets else stack.enter_context(open_moto())
    hosting = stack.enter_context(open_hosting(place, sagemaker_client(control, region)))
    front = stack.enter_context(for_containers(stack.enter_context(open_front(hosting)), engine))
    more = {"AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": front}
    if not store.makes_buckets:
        reached = stack.enter_context(for_containers(control, engine))
        more |= {f"AWS_ENDPOINT_URL_{service}": reached for service in _OTHER_SERVICES}
    hosting.place = dataclasses.replace(place, environment={**place.environment, **more})
    return hosting


def _execute(run: Run, ending: Ending, hold: bool) -> None:
    """Run the whole graph, and note how it went; a signal ends it in order."""
    record = run.record
    record.write(run.directory)

    async def whole() -> str:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(run.parallel + 8))
        ended = asyncio.Event()
        graph = loop.create_task(run_graph(run))

        def stop() -> None:
            ended.set()
            if not graph.done():
                graph.cancel()
                loop.run_in_executor(None, run.place.engine.stop)

        with ending.stopping(loop, stop):
            reason = await graph
            if hold and record.endpoints:
                record.notes.append("endpoints answer until Ctrl-C (rehearse.hold=true)")
                record.write(run.directory)
                run.changed()
                await ended.wait()
            return reason

    try:
        record.reason = asyncio.run(whole())
        record.state = RunState.FAILED if record.reason else RunState.SUCCEEDED
    except (asyncio.CancelledError, KeyboardInterrupt):
        record.state, record.reason = RunState.CANCELLED, "stopped by a signal"
    except BaseException as error:
        record.state, record.reason = RunState.FAILED, f"the rehearsal itself failed: {type(error).__name__}"
        raise
    finally:
        record.ended = datetime.now(UTC)
        record.write(run.directory)
