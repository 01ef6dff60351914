"""What the framework is configured with, validated; all other keys belong to the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, JsonValue, ValidationError

from millrace.errors import ConfigError, called, did_you_mean, explain_validation
from millrace.registry import AnyPipeline, load_pipeline
from millrace.runners.local import LocalRunner
from millrace.runners.settings import Rehearse
from millrace.specs import Frozen, PipelineConfig, PipelineSpec
from millrace.specs.component import Name
from millrace.specs.runtime_parameters import open_fields
from millrace.targets.kubeflow import GivenVersion, Kubeflow
from millrace.targets.runs import Cost, EndpointChange, Schedule, Submit
from millrace.targets.sagemaker import SageMaker

__all__ = ["PipelineChoice", "Settings", "option_groups", "read_settings", "refuse_unknown", "validated"]

ModelT = TypeVar("ModelT", bound=BaseModel)


class PipelineChoice(Frozen):
    """Which pipeline, and under which name."""

    name: Name
    function: str
    """A registered pipeline's name, or `module:attribute` of your own."""


class Settings(Frozen):
    """Everything that a run needs to know."""

    pipeline: PipelineChoice
    runner: LocalRunner = LocalRunner()
    target: Annotated[Kubeflow | SageMaker, Field(discriminator="name")] | None = None
    """Where the compiled pipeline shall run: `target=kubeflow` or `target=sagemaker`."""
    runtime: tuple[str, ...] = ()
    """Keys that stay open in the compiled document: `runtime=[train.epochs,train.learning_rate]`."""
    compat: GivenVersion | None = None
    """Kubeflow: version of the backend that the document must suit; null takes the target's."""
    component: str | None = None
    """Compile this one component instead of a pipeline."""
    output: Path | None = None
    """Where a compiled document is written; null takes build/PIPELINE.TARGET.yaml (.json for SageMaker)."""
    push: str | None = None
    """Where built images are pushed: `registry.example.org/team/`."""
    images: tuple[str, ...] = ()
    """Images that are built, `images=[train]`; all when none is named."""
    document: Path | None = None
    """A compiled document to rehearse, upload, submit or schedule as it is; null compiles the pipeline."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of the parameters that a document leaves open, for a rehearsal: `parameters.train_epochs=2`."""
    rehearse: Rehearse = Rehearse()
    run: str | None = None
    """Id of the run that is asked about; null takes the pipeline's latest."""
    wait: bool = False
    """Follow the run that is asked about to its end; the exit code tells how it went."""
    logs: str | None = None
    """Show the log of this task of the run."""
    submit: Submit = Submit()
    schedule: Schedule = Schedule()
    endpoint: EndpointChange = EndpointChange()
    cost: Cost = Cost()
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """What the pipeline itself is configured with, not yet validated by its model."""

    def kubeflow(self) -> Kubeflow:
        """The target, for the backend that was asked for.

        Raises:
            ConfigError: When no target or another one is given.
        """
        if not isinstance(self.target, Kubeflow):
            raise ConfigError("target: say where the pipeline shall run: target=kubeflow")
        return self.target if self.compat is None else self.target.model_copy(update={"compat": self.compat})

    def sagemaker(self) -> SageMaker:
        """The target.

        Raises:
            ConfigError: When no target or another one is given, or something that only Kubeflow knows.
        """
        if not isinstance(self.target, SageMaker):
            raise ConfigError("target: say where the pipeline shall run: target=sagemaker")
        if self.compat is not None:
            raise ConfigError("compat: a version of Kubeflow Pipelines; SageMaker has none to choose")
        return self.target

    def compose(self) -> PipelineSpec:
        """The pipeline, with the fields named in `runtime` left open.

        Raises:
            ConfigError: Naming the key, what is wrong and what is allowed.
            CompositionError: When the pipeline can't be composed.
            UnsupportedError: When a field can't stay open.
        """
        pipeline, config = self.load()
        return open_fields(pipeline, config, self.runtime) if self.runtime else pipeline.compose(config)

    def remarks(self) -> tuple[str, ...]:
        """What is to be known of the pipeline's configuration before it runs."""
        return self.load()[1].remarks()

    def load(self) -> tuple[AnyPipeline, PipelineConfig]:
        """The pipeline, under the name chosen for it, and its validated configuration.

        Raises:
            ConfigError: Naming the key, what is wrong and what is allowed.
        """
        found = replace(load_pipeline(self.pipeline.function), name=self.pipeline.name)
        refuse_unknown(self.config, found.config)
        return found, validated(found.config, self.config)


def read_settings(composed: Mapping[str, Any]) -> Settings:
    """Validate a composed configuration: the framework's own keys apart, the rest is the pipeline's.

    Raises:
        ConfigError: Naming the key, what is wrong and what is allowed.
    """
    own = {key: composed[key] for key in Settings.model_fields if key in composed and key != "config"}
    rest = {key: value for key, value in composed.items() if key not in own}
    return validated(Settings, {**own, "config": rest})


def refuse_unknown(keys: Iterable[str], config: type[PipelineConfig], framework: Iterable[str] = ()) -> None:
    """Refuse keys that a pipeline has no field for.

    Args:
        keys: What was given.
        config: The pipeline's configuration.
        framework: Keys of the framework that are allowed beside its fields.

    Raises:
        ConfigError: With the nearest name.
    """
    fields = {*config.model_fields}
    for key in sorted({*keys} - fields):
        allowed = {*fields, *framework, *option_groups()}
        raise ConfigError(
            f"{key}: unknown key: {did_you_mean(key, allowed, (*called(key, config), *called(key, Settings)))}"
        )


def option_groups(*folders: Path) -> set[str]:
    """Names of the groups of options: ours, and those of the user's own folders."""
    places = [folder for folder in (Path(str(files("millrace.conf"))), *folders) if folder.is_dir()]
    found = {item.name for place in places for item in place.iterdir() if item.is_dir()}
    return {"runner"} | {name for name in found if name != "component" and not name.startswith("_")}


def validated(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    """Data as a model.

    Raises:
        ConfigError: Naming the key, what is wrong and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, model=model)) from error
