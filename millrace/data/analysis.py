"""What an Analysis artifact holds beside `schema.json`: the options it was made with."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field

from millrace.data.options import TabularData, TextData
from millrace.errors import ConfigError
from millrace.runtime.schemas import TabularRecords, TextRecords, read_json_model, read_records_schema
from millrace.runtime.task import write_atomically
from millrace.specs import Frozen

__all__ = ["read_analysis", "write_analysis"]

SchemaT = TypeVar("SchemaT", TextRecords, TabularRecords)

_OPTIONS = "options.json"


class _Options(Frozen):
    data: TextData | TabularData = Field(discriminator="kind")


def write_analysis(folder: Path, schema: TextRecords | TabularRecords, data: TextData | TabularData) -> None:
    """Write `options.json` and, last, `schema.json`."""
    write_atomically(folder / _OPTIONS, _written(_Options(data=data)))
    write_atomically(folder / "schema.json", _written(schema))


def read_analysis(
    folder: Path, data: TextData | TabularData, classes: tuple[str, ...], form: type[SchemaT], *, earlier: bool = False
) -> SchemaT:
    """The schema of records that an analysis made.

    Args:
        folder: The artifact.
        data: Options of the task that needs it.
        classes: Of its shards.
        form: The schema that is needed.
        earlier: Whether `analyze` asks, of an earlier run's; else `preprocess` does.

    Raises:
        ConfigError: When it was made with other options, or of other classes.
        DataError: When a file of it is missing or broken.
    """
    made = read_json_model(folder / _OPTIONS, _Options).data
    task = "analyze" if earlier else "preprocess"
    both = "leave analyze.previous out to learn anew" if earlier else "give both tasks the same data"
    if made.kind != data.kind:
        raise ConfigError(f"{task}.data.kind is {data.kind}, the analysis is of kind={made.kind}: {both}")
    ours, theirs = data.model_dump(mode="json"), made.model_dump(mode="json")
    for name, value in ours.items():
        if theirs[name] != value:
            raise ConfigError(
                f"{task}.data.{name} is {value!r:.200}, {'then it' if earlier else f'analyze.data.{name}'} was "
                f"{theirs[name]!r:.200}: {both}"
            )
    schema = read_records_schema(folder)
    if not isinstance(schema, form) or schema.classes != classes:
        raise ConfigError(
            f"the analysis is of {schema.kind} with the classes {list(schema.classes)!s:.200}, the shards have "
            f"{list(classes)!s:.200}: "
            + ("name its classes in manifest.classes, or " + both if earlier else "give analyze the same shards")
        )
    return schema


def _written(model: BaseModel) -> str:
    return model.model_dump_json(indent=2) + "\n"
