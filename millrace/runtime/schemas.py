"""The small JSON files inside artifacts: what record files hold, and what a model needs to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, RootModel, ValidationError, model_validator

from millrace.errors import DataError, explain_validation
from millrace.runtime.columns import FittedColumn
from millrace.specs import Frozen

__all__ = [
    "CHANNELS",
    "MAX_FEATURES",
    "VOCABULARY",
    "Catalogue",
    "Channel",
    "Dealing",
    "ImageRecords",
    "ModelCard",
    "PlannedShard",
    "RecordsSchema",
    "ShardCounts",
    "ShardPlan",
    "TabularRecords",
    "TextRecords",
    "read_json_model",
    "read_records_schema",
]

Channel = Literal["train", "validation", "test"]
CHANNELS: tuple[Channel, ...] = ("train", "validation", "test")

MAX_FEATURES = 100_000
"""Of a row of a table."""

VOCABULARY = "vocabulary.txt"
"""Beside `schema.json` of text records, and beside `model.json` of a model that was trained on them."""


class ImageRecords(Frozen):
    """Image records: tf.train.Example with `image` (bytes), `label` (int64) and `uri` (bytes)."""

    kind: Literal["image"] = "image"
    things: ClassVar[str] = "images"
    """What the records are called in messages."""
    axes: ClassVar[str] = "height, width, channels"
    """What the numbers of the shape are."""
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: Literal[1, 3]
    """1 for grey, 3 for RGB."""
    encoding: Literal["jpeg", "png", "raw"]
    """Form of the `image` bytes; raw is uint8 in row-major height, width, channel order."""
    resize: Literal["crop", "pad", "stretch"]
    """How other sizes were brought to this one; serving does the same."""
    classes: tuple[str, ...] = Field(min_length=1)
    """Class names; the label is the index."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one decoded record: height, width, channels."""
        return self.height, self.width, self.channels

    @property
    def dtype(self) -> Literal["uint8"]:
        """Of a decoded record: pixels of 0 to 255."""
        return "uint8"

    @property
    def input_dtype(self) -> Literal["float32"]:
        """What networks take pixels as."""
        return "float32"

    @property
    def size(self) -> str:
        """The shape in words."""
        return f"{self.height} x {self.width} pixels with {self.channels} channel{'s' if self.channels > 1 else ''}"

    @property
    def made_with(self) -> str:
        """The parameters that make records of this size."""
        return " ".join(f"preprocess.data.{name}={getattr(self, name)}" for name in ("height", "width", "channels"))


class TextRecords(Frozen):
    """Text records: tf.train.Example with `tokens` (int64 list), `label` (int64) and `uri` (bytes).

    The tokens are ids of WordPiece, `[CLS] ... [SEP]`, not padded; `vocabulary.txt` beside the schema has
    one token a line, the id is the line's number from 0.
    """

    kind: Literal["text"] = "text"
    things: ClassVar[str] = "texts"
    """What the records are called in messages."""
    axes: ClassVar[str] = "tokens"
    """What the number of the shape is."""
    max_seq_length: int = Field(ge=3)
    """Most tokens of a record, `[CLS]` and `[SEP]` included; decoded records are padded to it."""
    lower_case: bool
    """Whether texts were brought to lower case without accents; serving does the same."""
    truncation: Literal["end", "start"] = "end"
    """Which part of longer texts is left out."""
    vocabulary_size: int = Field(ge=1)
    """Tokens in `vocabulary.txt`."""
    vocabulary_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of `vocabulary.txt`."""
    pad_id: int = Field(default=0, ge=0)
    """What records are padded with: the id of `[PAD]`."""
    classes: tuple[str, ...] = Field(min_length=1)
    """Class names; the label is the index."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one decoded record: `max_seq_length`."""
        return (self.max_seq_length,)

    @property
    def dtype(self) -> Literal["int32"]:
        """Of a decoded record: token ids."""
        return "int32"

    @property
    def input_dtype(self) -> Literal["int32"]:
        """What networks take tokens as."""
        return "int32"

    @property
    def size(self) -> str:
        """The shape in words."""
        return f"{self.max_seq_length} tokens"

    @property
    def made_with(self) -> str:
        """The parameter that makes records of this size."""
        return f"preprocess.data.max_seq_length={self.max_seq_length}"


class TabularRecords(Frozen):
    """Records of table rows: tf.train.Example with `features` (float list), `label` (int64) and `uri` (bytes)."""

    kind: Literal["tabular"] = "tabular"
    things: ClassVar[str] = "rows of tables"
    """What the records are called in messages."""
    axes: ClassVar[str] = "features"
    """What the number of the shape is."""
    columns: tuple[FittedColumn, ...] = Field(min_length=1)
    """What becomes of each column, with all that was learnt from training rows; serving does the same."""
    ignored: tuple[str, ...] = ()
    """Other columns of the tables, of the class and the group too: nothing becomes of them, in serving neither."""
    classes: tuple[str, ...] = Field(min_length=1)
    """Class names; the label is the index."""

    @model_validator(mode="after")
    def _narrow(self) -> TabularRecords:
        if self.shape[0] > MAX_FEATURES:
            raise ValueError(f"the columns make {self.shape[0]} features, the limit is {MAX_FEATURES}")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one decoded record: the number of features."""
        return (sum(column.width for column in self.columns),)

    @property
    def dtype(self) -> Literal["float32"]:
        """Of a decoded record: features."""
        return "float32"

    @property
    def input_dtype(self) -> Literal["float32"]:
        """What networks take features as."""
        return "float32"

    @property
    def size(self) -> str:
        """The shape in words."""
        return f"{self.shape[0]} features"

    @property
    def made_with(self) -> str:
        """What makes records of this size."""
        return "the columns that analyze and preprocess were given then"


RecordsSchema = Annotated[ImageRecords | TextRecords | TabularRecords, Field(discriminator="kind")]
"""`schema.json` of a Records artifact: what its record files hold."""


class ShardCounts(Frozen):
    """`CHANNEL-IIIII-of-NNNNN.json` beside each record file."""

    file: str
    channel: Channel
    records: int = Field(ge=0)
    bytes: int = Field(ge=0)
    rejected: int = Field(default=0, ge=0)
    by_class: dict[str, int] = Field(default_factory=dict)
    made_from: str = ""
    """Digest of all that the record file depends on: its shard's objects and how they are prepared, the code included.
    Empty when no other run may take it: objects were missing or changed, or could change without a sign."""


class PlannedShard(Frozen):
    """One shard of a plan."""

    file: str
    """Name below `shards/`."""
    objects: int = Field(ge=1)
    bytes: int = Field(ge=0)
    """Of its source objects."""


class Catalogue(Frozen):
    """`classes.json` of a Manifest artifact."""

    classes: tuple[str, ...] = Field(min_length=1)
    """Class names; the label is the index."""
    label_column: str | None = None
    """Column of tables that holds the class."""
    group_column: str | None = None
    """Column of tables that says what stays together."""
    content_columns: tuple[str, ...] | None = None
    """Columns of tables that `content` is the digest of; None for all but these two."""


class Dealing(Frozen):
    """How objects were dealt into shards."""

    shards: dict[Channel, int]
    """As they were asked for."""
    order: str
    seed: int


class ShardPlan(Catalogue):
    """`plan.json` of a Shards artifact."""

    shards: dict[Channel, tuple[PlannedShard, ...]]
    """By channel; none for a channel without objects."""
    dealing: Dealing | None = None
    """Of the first plan, where objects stay in their earlier shards; None is not known."""


class ModelCard(Frozen):
    """`model.json`: how to load a model and what it answers."""

    format: Literal["keras", "litert"]
    """keras: `model.keras` and `saved_model/`; litert: `model.tflite`."""
    name: str
    """Architecture, `cnn` for one."""
    records: RecordsSchema
    """What the model was trained on: size of its input, how inputs are made, and class names."""
    parameters: int = Field(ge=0)
    """Number of weights."""
    bytes: int = Field(ge=0)
    """Size of the model file."""
    quantization: Literal["none", "dynamic", "float16", "int8"] = "none"

    def facts(self) -> dict[str, JsonValue]:
        """The metadata of a Model artifact with this card."""
        return {
            "format": self.format,
            "classes": len(self.records.classes),
            "parameters": self.parameters,
            "bytes": self.bytes,
        }


ModelT = TypeVar("ModelT", bound=BaseModel)


def read_json_model(path: Path, model: type[ModelT]) -> ModelT:
    """Read a JSON file of an artifact.

    Raises:
        DataError: When it is missing or not of that form.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(f"{path}: {explain_validation(error)}") from error


def read_records_schema(records: Path) -> RecordsSchema:
    """The schema of a Records artifact.

    Raises:
        DataError: When `schema.json` is missing or broken.
    """
    return read_json_model(records / "schema.json", _AnyRecords).root


class _AnyRecords(RootModel[RecordsSchema]):
    """So that a union is read as a model is."""
