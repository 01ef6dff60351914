"""For authors of components: run one without a pipeline, and the checks that every component passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from millrace.registry import load_component
from millrace.runtime.context import Context, Result, Share
from millrace.runtime.execute import attempt
from millrace.runtime.schemas import Channel, RecordsSchema, ShardCounts
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.specs import Component, ComponentSpec, Parameters
from millrace.specs.schema import parameter_rows

if TYPE_CHECKING:
    from millrace.runtime.records import FeatureRecord, ImageRecord, TextRecord

__all__ = ["ComponentContract", "Ran", "run_component", "write_records"]

HEAVY = ("tensorflow", "keras", "numpy", "polars", "PIL", "kfp", "sagemaker", "boto3", "horovod", "optuna")
"""Packages that a spec must not import."""


@dataclass(frozen=True)
class Ran:
    """What a component left behind."""

    outputs: dict[str, Path]
    metrics: dict[str, float]
    metadata: dict[str, dict[str, Any]]


def run_component(
    component: Component[Any, ..., Any],
    parameters: Parameters,
    directory: Path,
    *,
    share: Share = Share(),
    cores: int = 1,
    **inputs: Path | tuple[Path, ...],
) -> Ran:
    """Run a component in this process, in a fresh task directory, exactly as a worker does.

    Args:
        component: The component.
        parameters: Its parameters.
        directory: A folder to work in; outputs stay there.
        share: Which share of the shards to take, for components that are spread.
        cores: Processor cores it may use.
        **inputs: Folders or files by input port.

    Raises:
        MillraceError: What the component raised.
    """
    request = TaskRequest(
        name=component.spec.name,
        component=component.spec.entry,
        parameters=parameters.model_dump(mode="json"),
        inputs={
            port: tuple(GivenArtifact(path=path) for path in (given if isinstance(given, tuple) else (given,)))
            for port, given in inputs.items()
        },
        share=share,
        cores=cores,
    )
    request.write(directory)
    result = attempt(directory, request)
    return Ran(
        outputs={name: directory / made.path for name, made in result.outputs.items()},
        metrics=result.metrics,
        metadata={name: made.metadata for name, made in result.outputs.items()},
    )


def write_records(
    folder: Path,
    schema: RecordsSchema,
    channels: Mapping[Channel, Sequence[Iterable[ImageRecord | TextRecord | FeatureRecord]]],
) -> Path:
    """Write a Records artifact as `preprocess` does, for components that read records.

    Args:
        folder: Of the artifact; made when it is not there.
        schema: What the records hold.
        channels: By channel, the records of each of its record files.

    Returns:
        The folder.
    """
    from millrace.runtime.records import RecordWriter, pack

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(schema.model_dump_json())
    for channel, files in channels.items():
        for number, records in enumerate(files):
            name = f"{channel}-{number:05d}-of-{len(files):05d}"
            labels: Counter[int] = Counter()
            with RecordWriter(folder / f"{name}.tfrecord") as writer:
                for record in records:
                    writer.write(pack(record))
                    labels[record.label] += 1
            counts = ShardCounts(
                file=f"{name}.tfrecord",
                channel=channel,
                records=writer.records,
                bytes=writer.bytes,
                by_class={schema.classes[label]: labels[label] for label in sorted(labels)},
            )
            (folder / f"{name}.json").write_text(counts.model_dump_json())
    return folder


class ComponentContract:
    """What every component keeps to. Subclass it in your tests and set `component`.

    ```python
    class TestBlur(ComponentContract):
        component = blur
    ```
    """

    component: ClassVar[Component[Any, ..., Any]]

    def test_is_found_by_its_entry(self) -> None:
        assert load_component(self.component.spec.entry) is self.component

    def test_spec_round_trips_through_json(self) -> None:
        spec = self.component.spec
        assert ComponentSpec.model_validate_json(spec.model_dump_json()) == spec

    def test_parameters_round_trip_through_json(self) -> None:
        model = self.component.parameters
        if not any(field.is_required() for field in model.model_fields.values()):
            assert model.model_validate_json(model().model_dump_json()) == model()

    def test_everything_is_described(self) -> None:
        spec = self.component.spec
        described = {item.name: item.description for item in parameter_rows(spec.parameters)}
        described |= {port.name: port.description for port in spec.inputs}
        described |= {metric.name: metric.description for metric in spec.metrics}
        assert spec.description.endswith(".")
        assert [name for name, description in described.items() if not description] == []

    def test_spec_imports_nothing_heavy(self) -> None:
        module = self.component.spec.entry.partition(":")[0]
        script = f"import json, sys, {module}; print(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
        path = os.pathsep.join(filter(None, sys.path))  # pytest may have added to it
        answer = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout) == []

    def test_main_takes_and_returns_what_the_runtime_gives_and_expects(self) -> None:
        module, _, name = self.component.spec.main.partition(":")
        hints = get_type_hints(getattr(import_module(module), name))
        returned = hints.pop("return")
        expected = [self.component.parameters, self.component.inputs, self.component.outputs, Context]
        assert (list(hints.values()), returned) == (expected, Result)

    def test_has_a_readme(self) -> None:
        module = import_module(self.component.spec.entry.partition(":")[0])
        readme = Path(str(module.__file__)).with_name("README.md")
        assert readme.read_text().startswith(f"# {self.component.spec.name}")
