"""A component that reads outside of its pipeline, as training reads weights and shard reads earlier shards."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from millrace.runtime.context import Context, Result
from millrace.runtime.earlier import earlier_folder
from millrace.specs import Dataset, Inputs, Outputs, Parameters, PipelineConfig, component, pipeline
from millrace.specs.earlier import Earlier
from tests import toys


class Model(Parameters):
    weights: str | None = Field(default=None, json_schema_extra={"format": "location"})
    sha256: str | None = None


class BorrowParameters(Parameters):
    model: Model = Model()
    previous: Earlier | None = None


class BorrowInputs(Inputs):
    pass


class BorrowOutputs(Outputs):
    words: Dataset


borrow = component(
    name="borrow",
    version="1",
    description="Copy what is somewhere else.",
    parameters=BorrowParameters,
    inputs=BorrowInputs,
    outputs=BorrowOutputs,
    main="tests.runners.borrowing:main",
    image="toys",
    uncached_when=("model.weights", "previous"),
)


def main(parameters: BorrowParameters, inputs: BorrowInputs, outputs: BorrowOutputs, context: Context) -> Result:
    told = []
    if parameters.model.weights is not None:
        place = Path(parameters.model.weights.removeprefix("file://"))
        told += [(place / "model.keras" if place.is_dir() else place).read_text()]
    if parameters.previous is not None:
        folder = earlier_folder(parameters.previous, "words", context.scratch)
        told += [file.read_text() for file in sorted(folder.iterdir())]
    (outputs.words.path / "told.txt").write_text(" ".join(told))
    return Result(metadata={"words": {"objects": 1}})


class Borrowing(PipelineConfig):
    borrow: BorrowParameters = BorrowParameters()


@pipeline
def borrowing(config: Borrowing) -> None:
    """Nothing but what is borrowed."""
    borrow(config.borrow)


class Writing(PipelineConfig):
    write: toys.WriteParameters = toys.WriteParameters()


@pipeline
def writing(config: Writing) -> None:
    """Words to borrow."""
    toys.write(config.write)
