"""Artifact types: what travels between tasks.

An artifact is a folder (or one file) with a typed handle. While composing, a handle says which task
will produce it; inside a container it says where the bytes are.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, JsonValue

from millrace.errors import MillraceError
from millrace.specs.frozen import Frozen
from millrace.specs.references import TaskOutput

__all__ = [
    "Artifact",
    "ArtifactType",
    "Dataset",
    "Endpoint",
    "Logs",
    "Manifest",
    "Metadata",
    "Metrics",
    "Model",
    "Predictions",
    "Records",
    "Rejects",
    "Report",
    "Shards",
    "Study",
]


class Metadata(Frozen):
    """Small JSON facts about an artifact, shown in UIs beside it."""


class ArtifactType(Frozen):
    """An artifact type as data, so that edges can be compared without importing its class."""

    title: str
    version: str
    bases: tuple[str, ...] = ()
    """Titles of the types this one may stand in for."""
    suffix: str = ""
    """Suffix of the file for one-file artifacts; empty for folders."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    """JSON schema of the metadata."""

    def fits(self, wanted: ArtifactType) -> bool:
        """Whether an artifact of this type may be given where `wanted` is asked for."""
        if self.title == wanted.title:
            return self.version == wanted.version and self.metadata == wanted.metadata
        return wanted.title in self.bases

    def __str__(self) -> str:
        return f"{self.title.rpartition('.')[2]} (version {self.version})"


class Artifact(Frozen):
    """A typed handle.

    Subclasses may set `version` (raise it when the layout changes), `suffix` (for one-file artifacts)
    and `facts` (a `Metadata` model).
    """

    version: ClassVar[str] = "1"
    suffix: ClassVar[str] = ""
    facts: ClassVar[type[Metadata]] = Metadata

    producer: TaskOutput | None = None
    """The task output this handle refers to; set while composing."""
    location: Path | None = None
    """Where the bytes are on this machine; set inside a container."""
    uri: str = ""
    """Where the bytes are for other machines, `s3://...` for one; empty when only this one has them."""
    parts: tuple[str, ...] = ()
    """URIs of the artifacts that it was put together from, for other machines, where there are several."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The folder or file on this machine.

        Raises:
            MillraceError: While composing, when nothing exists yet.
        """
        if self.location is None:
            raise MillraceError(f"{type(self).__name__} {self.producer} has no path while a pipeline is composed")
        return self.location

    @classmethod
    def artifact_type(cls) -> ArtifactType:
        """This artifact type as data."""
        bases = (base for base in cls.__mro__[1:] if issubclass(base, Artifact))
        schema = cls.facts.model_json_schema()
        return ArtifactType(
            title=_title(cls),
            version=cls.version,
            bases=tuple(_title(base) for base in bases),
            suffix=cls.suffix,
            metadata=schema,
        )


def _title(cls: type[Artifact]) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


class _DatasetFacts(Metadata):
    objects: int = Field(ge=0)


class Dataset(Artifact):
    """A folder of source objects: `CLASS/OBJECT`, or `CHANNEL/CLASS/OBJECT`."""

    facts = _DatasetFacts


class _ManifestFacts(Metadata):
    objects: dict[str, int]
    """Objects a channel."""
    classes: int = Field(ge=0)


class Manifest(Artifact):
    """What was listed: `index.parquet` (lineage), `classes.json`, `CHANNEL.manifest`."""

    facts = _ManifestFacts


class _ShardsFacts(Metadata):
    shards: dict[str, int]
    """Shards a channel."""


class Shards(Artifact):
    """Balanced shards: `plan.json`, and for each shard `manifests/NAME.manifest` (S3 form) and
    `shards/NAME.parquet` (its rows of the lineage table), NAME being `CHANNEL-IIIII-of-NNNNN`."""

    facts = _ShardsFacts


class Analysis(Artifact):
    """What was learnt from training objects: `schema.json` of the records to be made, and what stands beside it."""


class Records(Artifact):
    """TFRecord files, one a shard, each with its counts, and the schema that training reads."""


class Rejects(Artifact):
    """What was set aside and why: Parquet files with the columns uri, reason and detail."""


class _ModelFacts(Metadata):
    format: str
    """keras or litert."""
    classes: int = Field(ge=1)
    parameters: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Model(Artifact):
    """A trained model with everything that answering needs: weights, labels and input schema."""

    facts = _ModelFacts


class Predictions(Artifact):
    """A model's answers. About the objects of a folder: for each `KEY.out`, KEY being its path below the dataset, as
    JSON: `{"predictions": [{"label": ..., "index": ..., "probabilities": [...]}]}`. About records: the same as a table
    in parts, `answers-NNNNN.parquet`, with `uri`, `true_label`, `true_index` and `right`."""


class Logs(Artifact):
    """TensorBoard event files."""


class Metrics(Artifact):
    """`metrics.json` (name to number) and `charts.json` (see `millrace.specs.charts`)."""


class Report(Artifact):
    """One self-contained HTML page."""

    suffix = ".html"


class _StudyFacts(Metadata):
    trials: int = Field(ge=0)
    best: float


class Study(Artifact):
    """A finished parameter search: `best.json`, `trials.json` and the resumable `study.db`."""

    facts = _StudyFacts


class _EndpointFacts(Metadata):
    url: str
    running: bool


class Endpoint(Artifact):
    """Where a model answers: `endpoint.json`."""

    facts = _EndpointFacts
