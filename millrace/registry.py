"""Where components and pipelines are found by name: our own tables, extended by entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from millrace.errors import ConfigError, MillraceError, did_you_mean
from millrace.specs import Component, Parameters, Pipeline, PipelineConfig
from millrace.specs.component import Outputs
from millrace.specs.locations import raising_line

__all__ = [
    "COMPONENTS",
    "PIPELINES",
    "AnyComponent",
    "AnyPipeline",
    "components",
    "load_component",
    "load_pipeline",
    "pipelines",
]

AnyComponent = Component[Parameters, ..., Outputs]
AnyPipeline = Pipeline[PipelineConfig]

COMPONENTS: Mapping[str, str] = {
    "analyze": "millrace.components.analyze.spec:analyze",
    "bert": "millrace.components.bert.spec:bert",
    "deploy": "millrace.components.deploy.spec:deploy",
    "digits": "millrace.components.digits.spec:digits",
    "evaluate": "millrace.components.evaluate.spec:evaluate",
    "gather": "millrace.components.gather.spec:gather",
    "manifest": "millrace.components.manifest.spec:manifest",
    "predict": "millrace.components.predict.spec:predict",
    "preprocess": "millrace.components.preprocess.spec:preprocess",
    "quantize": "millrace.components.quantize.spec:quantize",
    "shard": "millrace.components.shard.spec:shard",
    "train": "millrace.components.train.spec:train",
    "tune": "millrace.components.tune.spec:tune",
}

PIPELINES: Mapping[str, str] = {
    "digits": "millrace.pipelines.digits:digits",
    "image_classification": "millrace.pipelines.image_classification:image_classification",
    "tabular": "millrace.pipelines.tabular:tabular",
    "text_classification": "millrace.pipelines.text_classification:text_classification",
}


def components(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Entries (`module:attribute`) by component name: ours, installed packages', then `added`."""
    return {**COMPONENTS, **_installed("millrace.components"), **(added or {})}


def pipelines() -> dict[str, str]:
    """Entries (`module:attribute`) by pipeline name: ours and installed packages'."""
    return {**PIPELINES, **_installed("millrace.pipelines")}


def load_component(name: str, added: Mapping[str, str] | None = None) -> AnyComponent:
    """Import a component by name or by `module:attribute`.

    Raises:
        ConfigError: When there is no such component.
    """
    loaded = _load("component", name, components(added))
    if not isinstance(loaded, Component):
        raise ConfigError(f"component {name!r} is a {type(loaded).__name__}, not made by millrace.specs.component()")
    return loaded


def load_pipeline(name: str) -> AnyPipeline:
    """Import a pipeline by name or by `module:attribute`.

    Raises:
        ConfigError: When there is no such pipeline.
    """
    loaded = _load("pipeline", name, pipelines())
    if not isinstance(loaded, Pipeline):
        raise ConfigError(f"pipeline {name!r} is a {type(loaded).__name__}, not made by @millrace.specs.pipeline")
    return loaded


def _installed(group: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}


def _load(kind: str, name: str, table: Mapping[str, str]) -> Any:
    entry = name if ":" in name else table.get(name)
    if entry is None:
        raise ConfigError(f"unknown {kind} {name!r}: {did_you_mean(name, table)}")
    module, _, attribute = entry.partition(":")
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{module}.".startswith(f"{missing}."):
            raise ConfigError(f"{kind} {name!r}: there is no {entry}: {error}") from error
        raise ConfigError(f"{kind} {name!r} ({entry}) needs the package {missing!r}: install it first") from error
    except Exception as error:
        raise ConfigError(f"{kind} {name!r}: {module} can't be imported: {_explained(error)}") from error
    if not hasattr(imported, attribute):
        made = Component if kind == "component" else Pipeline
        hint = did_you_mean(attribute, (item for item, value in vars(imported).items() if isinstance(value, made)))
        raise ConfigError(f"{kind} {name!r}: there is no {entry}: {hint}")
    return getattr(imported, attribute)


def _explained(error: Exception) -> str:
    if isinstance(error, MillraceError):
        return str(error)
    place = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else raising_line(error)
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{place}: {type(error).__name__}: {message}"
