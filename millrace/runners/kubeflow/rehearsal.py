"""A rehearsal from a document's text to its record."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import millrace
from millrace.compilers.kubeflow.document import parse_document
from millrace.compilers.kubeflow.strict import strict_parse
from millrace.compilers.kubeflow.view import View
from millrace.errors import ConfigError, TaskFailedError, UnsupportedError
from millrace.runners.engine import connect
from millrace.runners.kubeflow import support
from millrace.runners.kubeflow.graph import run_graph
from millrace.runners.kubeflow.inputs import Identity, Inputs, Outcome, Scope, root_parameters
from millrace.runners.kubeflow.record import Rehearsal
from millrace.runners.kubeflow.run import Run
from millrace.runners.record import RunState, TaskState
from millrace.runners.rehearsing import (
    Ending,
    ending_on_signal,
    forget_old,
    identity_of,
    missing_images,
    named,
    refuse_settings,
)
from millrace.runners.settings import Rehearse
from millrace.runners.store import SCHEMES, open_store, seed
from millrace.targets.kubeflow import BackendVersion

__all__ = ["rehearse"]


def rehearse(
    text: str,
    settings: Rehearse,
    given: Mapping[str, Any],
    compat: BackendVersion = "2.17",
    watch: Callable[[Rehearsal], None] = lambda record: None,
) -> tuple[Rehearsal, Path]:
    """Execute a compiled document on this machine's Docker engine, by the rules of the backend.

    Args:
        text: The document.
        settings: How it is rehearsed.
        given: Values of the document's own parameters, the ones that the UI would ask for.
        compat: Version of the backend whose rules count.
        watch: Called with the record whenever something changed.

    Returns:
        The record, and the folder that holds it with all logs and outputs.

    Raises:
        ConfigError: When something is missing here: an engine, an image, a value.
        UnsupportedError: When the document has parts that can't be rehearsed.
        DataError: When it is no document.
    """
    refuse_settings(settings, ("interrupt", "hold"), "Kubeflow")
    view = _readable(text, compat)
    parameters = _parameters(view, given)
    secrets = support.read_vault(settings.secrets, "rehearse.secrets")
    config_maps = support.read_vault(settings.config_maps, "rehearse.config_maps")
    if missing := support.missing_values(view, secrets, config_maps):
        raise ConfigError(missing)
    name = str(view.pipeline["pipelineInfo"]["name"])
    began = datetime.now(UTC)
    identity = identity_of(name)
    with contextlib.ExitStack() as stack:
        ending = stack.enter_context(ending_on_signal())
        engine = connect(identity)
        stack.callback(engine.close)
        if lacking := engine.missing(support.images_of(view)):
            raise ConfigError(missing_images(lacking))
        store = stack.enter_context(open_store(settings.endpoint))
        root, told = _pipeline_root(view, settings)
        store.check(root)
        seed(store, settings.seed)
        directory = settings.root.absolute() / identity
        directory.mkdir(parents=True)
        document = directory / "document.yaml"
        document.write_text(text)
        record = Rehearsal(
            id=identity,
            pipeline=name,
            started=began,
            millrace=millrace.__version__,
            document=document,
            parameters=parameters,
            pipeline_root=f"{root}/{name}/{identity}",
            notes=[*told, *support.notes(view, engine.cpus)],
        )
        run = Run(
            view=view,
            identity=Identity(str(uuid.uuid4()), identity, name, began.strftime("%Y-%m-%dT%H:%M:%SZ")),
            root=record.pipeline_root,
            directory=directory,
            engine=engine,
            store=store,
            compat=compat,
            record=record,
            parallel=settings.parallel,
            slots=asyncio.Semaphore(settings.parallel),
            cache=settings.root.absolute() / "cache",
            reuses=settings.cache,
            secrets=secrets,
            config_maps=config_maps,
            watch=watch,
        )
        _execute(run, ending, Scope(Inputs(parameters, {})))
    forget_old(settings)
    return record, directory


def _readable(text: str, compat: BackendVersion) -> View:
    found, view = strict_parse(parse_document(text), compat)
    errors = [finding for finding in found if finding.severity == "error"]
    if view is not None and not errors:
        errors = list(support.unsupported(view))
    if view is None or errors:
        raise UnsupportedError("this document can't be rehearsed:\n" + "\n".join(f"  {error}" for error in errors))
    return view


def _parameters(view: View, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the document's own parameters."""
    try:
        definitions = view.components["root"].get("inputDefinitions", {}).get("parameters", {})
        return root_parameters(definitions, named(given, definitions))
    except TaskFailedError as error:
        raise ConfigError(f"parameters: {error}") from None


def _pipeline_root(view: View, settings: Rehearse) -> tuple[str, list[str]]:
    wanted = settings.pipeline_root or view.pipeline.get("defaultPipelineRoot", "")
    if wanted.startswith(SCHEMES):
        return wanted.partition("?")[0].rstrip("/"), []
    if settings.endpoint is not None and not wanted:
        raise ConfigError("rehearse.endpoint needs a place for artifacts: rehearse.pipeline_root=s3://BUCKET/PREFIX")
    own = "s3://mlpipeline/v2/artifacts"
    return own, [f"artifacts go to {own} of this rehearsal's own store instead of {wanted}"] if wanted else []


def _execute(run: Run, ending: Ending, scope: Scope) -> None:
    """Run the whole graph, and note how it went; a signal ends it in order."""
    record = run.record
    record.write(run.directory)

    async def whole() -> Outcome:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(run.parallel + 2))
        graph = loop.create_task(run_graph(run, "root", scope))

        def stop() -> None:
            graph.cancel()
            loop.run_in_executor(None, run.engine.stop)

        with ending.stopping(loop, stop):
            return await graph

    try:
        outcome = asyncio.run(whole())
        record.state = RunState.FAILED if outcome.state is TaskState.FAILED else RunState.SUCCEEDED
        record.reason = outcome.reason
        record.outputs = {
            **outcome.parameters,
            **{name: [item["uri"] for item in items] for name, items in outcome.artifacts.items()},
        }
    except (asyncio.CancelledError, KeyboardInterrupt):
        record.state, record.reason = RunState.CANCELLED, "stopped by a signal"
    except TaskFailedError as error:
        record.state, record.reason = RunState.FAILED, str(error)
    finally:
        record.ended = datetime.now(UTC)
        record.write(run.directory)
