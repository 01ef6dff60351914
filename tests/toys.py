"""Small components and a pipeline for tests of the framework: real processes, no deep learning."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from millrace.errors import DataError, TransientError
from millrace.runtime.context import Context, Result
from millrace.specs import (
    Dataset,
    Distribution,
    Inputs,
    Metric,
    Metrics,
    Model,
    Outputs,
    Parameters,
    PipelineConfig,
    Resources,
    Retries,
    component,
    pipeline,
    when,
)

Behaviour = Literal[
    "well",
    "user",
    "transient",
    "transient_once",
    "crash",
    "verbose",
    "vanish",
    "disk_full",
    "nothing",
    "meet",
    "stubborn",
]


class WriteParameters(Parameters):
    text: str = "to be or not to be"
    outside: str | None = None
    """A file outside the pipeline whose text is written instead."""
    journal: Path | None = None
    """A file to which a line is added for each execution."""


class WriteInputs(Inputs):
    pass


class WriteOutputs(Outputs):
    words: Dataset
    metrics: Metrics
    length: Metric


write = component(
    name="write",
    version="1",
    description="Write words.",
    parameters=WriteParameters,
    inputs=WriteInputs,
    outputs=WriteOutputs,
    main="tests.toys:write_main",
    image="toys",
    resources=Resources(cpus=1, memory_gib=0.1),
    uncached_when=("outside",),
)


def note(journal: Path | None, line: str) -> None:
    if journal is not None:
        with journal.open("a") as stream:
            stream.write(f"{line}\n")


def write_main(parameters: WriteParameters, inputs: WriteInputs, outputs: WriteOutputs, context: Context) -> Result:
    note(parameters.journal, "write")
    text = Path(parameters.outside).read_text() if parameters.outside else parameters.text
    words = text.split()
    for index, word in enumerate(words):
        (outputs.words.path / f"{index:03d}.txt").write_text(word)
    return Result(metrics={"length": len(words)}, metadata={"words": {"objects": len(words)}})


class WorkParameters(Parameters):
    behaviour: Behaviour = "well"
    seconds: float = Field(default=0.0, ge=0)
    journal: Path | None = None
    meet: Path | None = None
    """A folder where workers wait until there are two of them."""


class WorkInputs(Inputs):
    words: Dataset
    more: tuple[Dataset, ...] = ()


class WorkOutputs(Outputs):
    words: Dataset


work = component(
    name="work",
    version="1",
    description="Copy words in upper case, or fail in a given way.",
    parameters=WorkParameters,
    inputs=WorkInputs,
    outputs=WorkOutputs,
    main="tests.toys:work_main",
    image="toys",
    resources=Resources(cpus=1, memory_gib=0.1),
    retries=Retries(limit=2, backoff_seconds=0.01),
)


def work_main(parameters: WorkParameters, inputs: WorkInputs, outputs: WorkOutputs, context: Context) -> Result:
    note(parameters.journal, "work")
    marker = context.checkpoints / "begun"
    again = marker.exists()
    marker.touch()
    deadline = time.monotonic() + parameters.seconds
    while time.monotonic() < deadline:
        time.sleep(0.02)
    for file in sorted(inputs.words.path.iterdir()):
        (outputs.words.path / file.name).write_text(file.read_text().upper())
    misbehave(parameters, again)
    if parameters.meet is not None:
        wait_for_company(parameters.meet)
    return Result(metadata={"words": {"objects": len(list(outputs.words.path.iterdir()))}})


def misbehave(parameters: WorkParameters, again: bool) -> None:
    match parameters.behaviour:
        case "user":
            raise DataError("the words are spelt wrongly: 'tobe'; allowed: real words")
        case "transient":
            raise TransientError("503 SlowDown")
        case "transient_once" if not again:
            raise TransientError("503 SlowDown")
        case "crash":
            raise RuntimeError("boom")
        case "verbose":
            raise RuntimeError("m" * 1_000_000)
        case "vanish":
            os.kill(os.getpid(), signal.SIGKILL)
        case "disk_full":
            Path("/dev/full").write_text("x")
        case "nothing":
            os._exit(0)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note(parameters.journal, "stubborn")
            time.sleep(60)


def wait_for_company(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 30
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise DataError("nobody else came")
        time.sleep(0.02)


class SplitParameters(Parameters):
    clash: bool = False
    journal: Path | None = None
    meet: Path | None = None


class SplitInputs(Inputs):
    words: Dataset


class SplitOutputs(Outputs):
    parts: Dataset


split = component(
    name="split",
    version="1",
    description="Write a worker's share of the words.",
    parameters=SplitParameters,
    inputs=SplitInputs,
    outputs=SplitOutputs,
    main="tests.toys:split_main",
    image="toys",
    resources=Resources(cpus=1, memory_gib=0.1),
    distribution=Distribution(mode="shards"),
)


def split_main(parameters: SplitParameters, inputs: SplitInputs, outputs: SplitOutputs, context: Context) -> Result:
    note(parameters.journal, f"split {context.share.index}")
    if parameters.meet is not None:
        wait_for_company(parameters.meet)
    for file in sorted(inputs.words.path.iterdir())[context.share.index :: context.share.count]:
        (outputs.parts.path / file.name).write_text(file.read_text())
    (outputs.parts.path / "schema").write_text(str(context.share.index) if parameters.clash else "words")
    return Result()


class JudgeParameters(Parameters):
    score: float = 0.5


class JudgeInputs(Inputs):
    words: Dataset


class JudgeOutputs(Outputs):
    model: Model
    metrics: Metrics
    score: Metric


judge = component(
    name="judge",
    version="1",
    description="Give a score.",
    parameters=JudgeParameters,
    inputs=JudgeInputs,
    outputs=JudgeOutputs,
    main="tests.toys:judge_main",
    image="toys",
    resources=Resources(cpus=1, memory_gib=0.1),
)


def judge_main(parameters: JudgeParameters, inputs: JudgeInputs, outputs: JudgeOutputs, context: Context) -> Result:
    return Result(metrics={"score": parameters.score})


class Play(PipelineConfig):
    write: WriteParameters = WriteParameters()
    work: WorkParameters = WorkParameters()
    again: WorkParameters = WorkParameters()
    split: SplitParameters = SplitParameters()
    judge: JudgeParameters = JudgeParameters()
    least: float = 0.4


@pipeline
def play(config: Play) -> None:
    """Words from one task to the next."""
    written = write(config.write)
    worked = work(config.work, words=written.words)
    work.with_options(name="again")(config.again, words=written.words)
    split.with_options(shares=2)(config.split, words=worked.words)
    judged = judge(config.judge, words=worked.words)
    with when(judged.score >= config.least):
        work.with_options(name="last")(WorkParameters(), words=worked.words)
