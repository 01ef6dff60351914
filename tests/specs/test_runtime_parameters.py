"""Fields left open are found by tracing; what shapes the pipeline is refused."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from millrace.errors import ConfigError, MillraceError, UnsupportedError
from millrace.pipelines.digits import Digits, digits
from millrace.specs import (
    Dataset,
    Inputs,
    OpenField,
    Outputs,
    Parameters,
    PipelineConfig,
    PipelineSpec,
    Resources,
    RuntimeParameter,
    component,
    pipeline,
    when,
)
from millrace.specs.runtime_parameters import open_fields
from tests.toys import JudgeParameters, Play, WorkParameters, WriteParameters, judge, play, work, write


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Round(Parameters):
    kind: Literal["round"] = "round"
    radius: float = Field(default=1, gt=0, le=2)
    """In metres."""


class Square(Parameters):
    kind: Literal["square"] = "square"
    side: float = 1.0


class PaintParameters(Parameters):
    shape: Annotated[Round | Square, Field(discriminator="kind")] = Round()
    colour: Colour = Colour.RED
    coats: int = Field(default=4, ge=2, le=6, multiple_of=2)
    code: str = Field(default="A-17", pattern=r"^[A-Z]-\d\d$")
    length: float = 3.0
    shine: int | float = 1
    file: Path | None = Path("/x")
    dry: bool = False
    wet: bool = True
    ends: tuple[int, int] = (1, 2)
    by_name: dict[str, Annotated[int, Field(ge=0, le=1)]] = Field(default_factory=lambda: {"one": 1, "a.b": 0})
    number: Literal[1, 2] = 1
    mixed: Literal["none"] | dict[str, int] | None = "none"
    hours: int = Field(default=8, ge=8, le=8)

    @model_validator(mode="after")
    def _coupled(self) -> PaintParameters:
        if self.dry == self.wet:
            raise ValueError("dry or wet, one of them")
        return self


class PaintInputs(Inputs):
    pass


class PaintOutputs(Outputs):
    words: Dataset


paint = component(
    name="paint",
    version="1",
    description="Paint.",
    parameters=PaintParameters,
    inputs=PaintInputs,
    outputs=PaintOutputs,
    main="tests.toys:write_main",
    image="toys",
)


class Config(PipelineConfig):
    paint: PaintParameters = PaintParameters()
    """What to paint."""
    text: str = "abc"
    """The words
    to write."""
    least: int = 1
    share: float = 0.5
    copies: int = Field(default=2, ge=1)
    cpus: float = 1
    floor: int = 5
    unused: int = 0
    extra: bool = False


@pipeline
def painting(config: Config) -> None:
    """Paint and write."""
    paint(config.paint)
    first = write(WriteParameters(text=config.text))
    write.with_options(name="second")(WriteParameters(text=config.text))
    work.with_options(resources=Resources(cpus=config.cpus))(
        WorkParameters(seconds=config.share * 2), words=first.words
    )
    for index in range(config.copies):
        write.with_options(name=f"copy{index}")(WriteParameters(text="x"))
    if config.extra:
        write.with_options(name="extra")(WriteParameters())
    judged = judge(JudgeParameters(score=max(config.floor, 4)), words=first.words)
    with when(judged.score >= config.least):
        work.with_options(name="last")(WorkParameters(), words=first.words)


def opened(name: str, config: Config | None = None) -> RuntimeParameter:
    spec = open_fields(painting, config or Config(), [name])
    (parameter,) = spec.runtime_parameters
    assert parameter.name == name
    assert PipelineSpec.from_json(spec.to_json()) == spec
    return parameter


def refused(name: str, config: Config | None = None, kind: type[MillraceError] = UnsupportedError) -> str:
    with pytest.raises(kind) as caught:
        open_fields(painting, config or Config(), [name])
    return str(caught.value)


class TestAField:
    def test_fills_the_places_where_its_value_goes(self) -> None:
        parameter = opened("text")
        assert parameter == RuntimeParameter(
            name="text",
            kind="string",
            default="abc",
            description="The words to write.",
            fills=(OpenField(task="write", path="text"), OpenField(task="second", path="text")),
        )

    @pytest.mark.parametrize(
        ("name", "kind", "default", "choices"),
        [
            ("shape.radius", "float", 1.0, ()),
            ("colour", "string", "red", ("red", "blue")),
            ("coats", "integer", 4, ()),
            ("code", "string", "A-17", ()),
            ("length", "float", 3.0, ()),
            ("shine", "float", 1.0, ()),
            ("file", "string", "/x", ()),
            ("dry", "boolean", False, ()),
            ("by_name.one", "integer", 1, ()),
            ("number", "integer", 1, (1, 2)),
        ],
    )
    def test_keeps_type_and_choices(
        self, name: str, kind: str, default: object, choices: tuple[str | int | float, ...]
    ) -> None:
        parameter = opened(f"paint.{name}")
        assert (parameter.kind, parameter.default, parameter.choices) == (kind, default, choices)
        assert type(parameter.default) is type(default)
        assert parameter.fills == (OpenField(task="paint", path=name),)

    def test_has_its_own_description(self) -> None:
        assert opened("paint.shape.radius").description == "In metres."

    def test_of_another_variant_of_a_union(self) -> None:
        config = Config(paint=PaintParameters(shape=Square(side=2)))
        assert opened("paint.shape.side", config).default == 2.0
        assert "unknown key 'paint.shape.radius'" in refused("paint.shape.radius", config, ConfigError)

    def test_can_be_a_threshold(self) -> None:
        spec = open_fields(painting, Config(), ["least"])
        assert [c.runtime for c in spec.task("last").conditions] == ["least"]
        assert spec.runtime_parameters == (RuntimeParameter(name="least", kind="float", default=1.0),)
        assert spec.task("last").conditions[0].threshold == 1.0

    def test_leaves_the_rest_as_it_was(self) -> None:
        spec = open_fields(play, Play(), ["least", "judge.score"])
        bare = spec.model_copy(update={"runtime_parameters": ()})
        assert [task.parameters for task in bare.tasks] == [task.parameters for task in play.compose(Play()).tasks]
        assert open_fields(play, Play(), []) == play.compose(Play())


class TestRefused:
    def test_number_of_tasks(self) -> None:
        message = refused("copies")
        assert "'copies' decides on the shape of the pipeline" in message
        assert "with 3 instead of 2, the list of tasks" in message

    def test_a_switch(self) -> None:
        assert "decides on the shape" in refused("extra")

    def test_resources(self) -> None:
        assert "task 'work': resources.cpus becomes 2.0 for 1.0" in refused("cpus")

    def test_a_value_made_of_it(self) -> None:
        message = refused("share")
        assert "it is not passed on as it is" in message
        assert "task 'work': parameters.seconds becomes 3.0 for 1.0" in message

    def test_a_value_that_is_used_sometimes(self) -> None:
        assert "uses some of its values only" in refused("floor", Config(floor=4))

    def test_unused(self) -> None:
        assert "'unused' changes nothing" in refused("unused", kind=ConfigError)

    def test_the_kind_of_a_variant(self) -> None:
        assert "decides which other keys there are" in refused("paint.shape.kind")

    def test_null(self) -> None:
        assert "is null: give it a value" in refused("paint.file", Config(paint=PaintParameters(file=None)))

    def test_a_group(self) -> None:
        assert "name one of paint.shape.kind, paint.shape.radius" in refused("paint.shape")

    def test_a_list(self) -> None:
        assert "only single values can stay open" in refused("paint.ends")

    def test_a_key_with_a_dot(self) -> None:
        assert "a key with a dot" in refused("paint.by_name.a.b")

    def test_the_only_allowed_value(self) -> None:
        assert "takes no other value" in refused("paint.hours")
        assert "takes no other value" in refused("paint.mixed")

    def test_unknown(self) -> None:
        message = refused("paint.coat", kind=ConfigError)
        assert "unknown key 'paint.coat': did you mean 'paint.coats'?" in message
        assert "text has no keys below it" in refused("text.more", kind=ConfigError)

    def test_twice(self) -> None:
        with pytest.raises(ConfigError, match="'text' is given twice"):
            open_fields(painting, Config(), ["text", "least", "text"])


class TestDigits:
    def test_gate_and_learning_rate(self) -> None:
        names = ["train.learning_rate", "gate.accuracy", "pictures.limit", "train.model.dropout"]
        config = Digits.model_validate({"pictures": {"limit": 10}})
        spec = open_fields(digits, config, names)
        assert [parameter.name for parameter in spec.runtime_parameters] == names
        assert {task.name for task in spec.tasks if any(c.runtime for c in task.conditions)} == {"quantize", "deploy"}
        assert spec.runtime_parameters[0].description == "Highest learning rate."

    def test_a_search_copies_parameters(self) -> None:
        space = {"learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2}}
        config = Digits.model_validate({"tune": {"space": space, "trial": {"epochs": 3}}})
        spec = open_fields(digits, config, ["train.epochs", "train.batch_size", "tune.trial.epochs"])
        assert [parameter.fills for parameter in spec.runtime_parameters] == [
            (OpenField(task="train", path="epochs"),),
            (OpenField(task="tune", path="trial.batch_size"), OpenField(task="train", path="batch_size")),
            (OpenField(task="tune", path="trial.epochs"),),
        ]

    def test_fields_that_must_change_together(self) -> None:
        spec = open_fields(digits, Digits(), ["manifest.split.train", "manifest.split.test"])
        assert [parameter.default for parameter in spec.runtime_parameters] == [0.8, 0.1]

    def test_workers(self) -> None:
        with pytest.raises(UnsupportedError, match=r"task 'preprocess': for_each\.shares becomes 3 for 2"):
            open_fields(digits, Digits(), ["workers"])
