"""Small pipelines of all shapes that a compiler meets."""

from __future__ import annotations

from millrace.runtime.context import Context, Result
from millrace.specs import (
    Dataset,
    Distribution,
    Inputs,
    Outputs,
    Parameters,
    Pipeline,
    PipelineConfig,
    component,
    pipeline,
    when,
)
from tests.toys import (
    JudgeParameters,
    SplitParameters,
    WorkParameters,
    WriteParameters,
    judge,
    split,
    work,
    write,
)


class JoinParameters(Parameters):
    note: str = "plain"


class JoinInputs(Inputs):
    first: Dataset | None = None
    words: tuple[Dataset, ...] = ()
    words_1: Dataset | None = None


class JoinOutputs(Outputs):
    listing: Dataset


join = component(
    name="join",
    version="1",
    description="List the files of each input.",
    parameters=JoinParameters,
    inputs=JoinInputs,
    outputs=JoinOutputs,
    main="tests.compilers.kubeflow.flows:join_main",
    image="toys",
    distribution=Distribution(mode="shards"),
)


def join_main(parameters: JoinParameters, inputs: JoinInputs, outputs: JoinOutputs, context: Context) -> Result:
    for number, words in enumerate(inputs.words):
        names = sorted(file.name for file in words.path.iterdir())
        (outputs.listing.path / str(number)).write_text(" ".join(names))
    return Result(metadata={"listing": {"objects": len(inputs.words)}})


class Config(PipelineConfig):
    """All toys with their defaults."""

    write: WriteParameters = WriteParameters()
    work: WorkParameters = WorkParameters()
    judge: JudgeParameters = JudgeParameters()
    least: float = 0.4


@pipeline
def two_of_one(config: Config) -> None:
    """Two tasks of one component, one after the other."""
    written = write(config.write)
    first = work.with_options(name="work_1")(config.work, words=written.words)
    work.with_options(name="work_2")(config.work, words=first.words)
    work.with_options(name="for_loop_1")(config.work, words=first.words)
    work.with_options(name="condition_2")(config.work, words=first.words)


@pipeline
def loop_in_condition(config: Config) -> None:
    """A loop below a condition, whose consumer is skipped with it, and one that is nested below another."""
    written = write(config.write)
    with when(written.length >= 3):
        parts = split.with_options(shares=3)(SplitParameters(), words=written.words)
        judged = judge(config.judge, words=parts.parts)
        with when(judged.score > config.least):
            work.with_options(name="inner")(config.work, words=parts.parts)
    work.with_options(name="dragged")(config.work, words=parts.parts)


@pipeline
def independent_conditions(config: Config) -> None:
    """Conditions side by side, one shared by two blocks, and one task below both of a pair."""
    written = write(config.write)
    judged = judge(config.judge, words=written.words)
    with when(judged.score >= 0.9):
        good = work.with_options(name="good")(config.work, words=written.words)
    with when(judged.score < 0.9):
        work.with_options(name="bad")(config.work, words=written.words)
    with when(judged.score >= 0.9), when(written.length > 2):
        work.with_options(name="long")(config.work, words=good.words)


@pipeline
def loops_in_a_row(config: Config) -> None:
    """A loop that reads what a loop wrote, and a task after it that reads nothing."""
    written = write(config.write)
    parts = split.with_options(shares=2)(SplitParameters(), words=written.words)
    again = split.with_options(name="again", shares=4)(SplitParameters(), words=parts.parts)
    judged = judge(config.judge, words=again.parts)
    work.with_options(name="last", after=(again, judged))(config.work, words=written.words)
    with when(judged.score >= config.least):
        work.with_options(name="passed", after=(parts,))(config.work, words=parts.parts)


@pipeline
def one_share(config: Config) -> None:
    """A loop of one."""
    written = write(config.write)
    parts = split.with_options(shares=1)(SplitParameters(), words=written.words)
    judged = judge(config.judge, words=parts.parts)
    with when(judged.score >= config.least):
        work(config.work, words=parts.parts)


@pipeline
def many_producers(config: Config) -> None:
    """Ports that take many: several tasks, the shares of one, both."""
    written = write(config.write)
    worked = work(config.work, words=written.words)
    parts = split.with_options(shares=2)(SplitParameters(), words=written.words)
    join.with_options(name="single")(JoinParameters(), words=(written.words,))
    join.with_options(name="looped")(JoinParameters(), words=(parts.parts,), first=worked.words)
    judged = judge(config.judge, words=written.words)
    with when(judged.score >= config.least):
        join.with_options(name="both")(JoinParameters(), words=(written.words, worked.words, parts.parts))


@pipeline
def unjoinable(config: Config) -> None:
    """A task that needs tasks under conditions of which neither implies the other."""
    written = write(config.write)
    judged = judge(config.judge, words=written.words)
    with when(judged.score >= 0.9):
        good = work.with_options(name="good")(config.work, words=written.words)
    with when(written.length > 2):
        long = work.with_options(name="long")(config.work, words=written.words)
    work.with_options(name="needs_both")(config.work, words=good.words, more=(long.words,))


FLOWS = (two_of_one, loop_in_condition, independent_conditions, loops_in_a_row, one_share, many_producers)

Flow = Pipeline[Config]
