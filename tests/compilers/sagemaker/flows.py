"""Components and pipelines that the compiler meets in tests: trainings and searches of one's own."""

from __future__ import annotations

from pydantic import Field

from millrace.components.train.spec import TrainParameters, train
from millrace.components.tune.spec import TuneParameters, tune
from millrace.specs import (
    Inputs,
    Model,
    Outputs,
    Parameters,
    PipelineConfig,
    Records,
    Report,
    Study,
    component,
    pipeline,
    when,
)
from tests.toys import WriteParameters, write


class FitParameters(Parameters):
    name: str = "plain"
    notes: dict[str, str] = Field(default_factory=dict)


class FitInputs(Inputs):
    words: Records | None = None
    many: tuple[Model, ...] = ()


class FitOutputs(Outputs):
    model: Model


fit = component(
    name="fit",
    version="1",
    description="Train on what comes through a pipe.",
    parameters=FitParameters,
    inputs=FitInputs,
    outputs=FitOutputs,
    main="tests.compilers.sagemaker.flows:main",
    image="registry.example.org/team/fit:1",
    delegates=("training",),
)


class MakeParameters(Parameters):
    pass


class MakeInputs(Inputs):
    pass


class MakeOutputs(Outputs):
    records: Records
    study: Study


make = component(
    name="make",
    version="1",
    description="Make records, and a study of an unknown search.",
    parameters=MakeParameters,
    inputs=MakeInputs,
    outputs=MakeOutputs,
    main="tests.compilers.sagemaker.flows:main",
    image="data",
)


class ReadParameters(Parameters):
    pass


class ReadInputs(Inputs):
    study: Study


class ReadOutputs(Outputs):
    page: Report


read = component(
    name="read",
    version="1",
    description="Tell of a search.",
    parameters=ReadParameters,
    inputs=ReadInputs,
    outputs=ReadOutputs,
    main="tests.compilers.sagemaker.flows:main",
    image="data",
)


class Fits(PipelineConfig):
    """Trainings."""

    fit: FitParameters = FitParameters()


@pipeline
def fits(config: Fits) -> None:
    """A training of a component of one's own, and two that go on from its model."""
    first = fit(config.fit)
    write(WriteParameters())
    second = fit.with_options(name="second", after=("write",))(config.fit, many=(first.model,))
    fit.with_options(name="third")(config.fit, many=(first.model, second.model))


class Searches(PipelineConfig):
    """Searches."""

    tune: TuneParameters = TuneParameters()
    train: TrainParameters = TrainParameters(epochs=9)
    foreign: bool = False
    """Learn from a study that no search has made."""
    read: bool = False
    """Have the study read by a component that does not train."""
    least: float | None = None
    """Write something when the objective is that good."""
    count: float | None = None
    """The same for the number of trials."""


@pipeline
def searches(config: Searches) -> None:
    """A search, one that learns from it, and a training with the best values."""
    made = make(MakeParameters())
    parameters = config.tune.of(train, config.train)
    first = tune(parameters, records=made.records)
    earlier = made.study if config.foreign else first.study
    second = tune.with_options(name="second")(parameters, records=made.records, warm_start=(earlier,))
    train(config.train, records=made.records, study=second.study)
    if config.read:
        read(ReadParameters(), study=second.study)
    if config.least is not None:
        with when(second.objective >= config.least):
            write.with_options(name="good")(WriteParameters())
    if config.count is not None:
        with when(second.trials >= config.count):
            write.with_options(name="many")(WriteParameters())
