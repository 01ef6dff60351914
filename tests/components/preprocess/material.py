"""Objects, shards and parameters that the tests of preprocess are made of."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars

from millrace.components.preprocess.spec import ImageData, PreprocessParameters, preprocess
from millrace.runtime.context import Share
from millrace.runtime.schemas import (
    CHANNELS,
    PlannedShard,
    ShardPlan,
)
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.testing import Ran
from tests.pictures import noise, saved

CLASSES = ("cat", "dog")


class Listed(NamedTuple):
    """A row of a shard's table."""

    uri: str
    label: int
    content: str | None


def put(folder: Path, name: str, data: bytes, label: int = 0) -> Listed:
    """Store an object and list it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return Listed((folder / name).as_uri(), label, hashlib.sha256(data).hexdigest())


def make_shards(folder: Path, shards: Mapping[str, Sequence[Listed]]) -> Path:
    """A Shards artifact."""
    (folder / "shards").mkdir(parents=True)
    for name, rows in shards.items():
        table = {
            "uri": [row.uri for row in rows],
            "prefix": ["" for _ in rows],
            "key": [row.uri.rpartition("/")[2] for row in rows],
            "class_label": [CLASSES[row.label] for row in rows],
            "label": [row.label for row in rows],
            "channel": [name.partition("-")[0] for _ in rows],
            "content": [row.content for row in rows],
        }
        polars.DataFrame(table, schema_overrides={"content": polars.String, "label": polars.Int64}).write_parquet(
            folder / "shards" / f"{name}.parquet"
        )
    plan: dict[Any, Any] = {channel: [] for channel in CHANNELS}
    for name, rows in shards.items():
        planned = PlannedShard(file=f"{name}.parquet", objects=len(rows), bytes=0)
        plan[name.partition("-")[0]].append(planned)
    (folder / "plan.json").write_text(ShardPlan(classes=CLASSES, shards=plan).model_dump_json())
    return folder


def pictures(folder: Path, number: int) -> list[Listed]:
    return [
        put(folder, f"{index:03d} ä#.png", saved(noise(index), "PNG"), label=index % len(CLASSES))
        for index in range(number)
    ]


def small(**changes: Any) -> PreprocessParameters:
    data = ImageData(height=10, width=12, encoding="png", resize="crop")
    return PreprocessParameters(**{"data": data, **changes})


def contents(*folders: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for folder in folders for file in sorted(folder.iterdir())}


def rejected(ran: Ran) -> dict[str, str]:
    """Reasons by object name."""
    table = polars.read_parquet(ran.outputs["rejects"] / "*.parquet")
    assert table.columns == ["uri", "reason", "detail"]
    assert all(table["detail"].str.len_chars() > 0)
    return {uri.rpartition("/")[2]: reason for uri, reason in zip(table["uri"], table["reason"], strict=True)}


def worker(
    directory: Path,
    shards: Path,
    afterwards: str = "",
    *,
    share: Share = Share(),
    parameters: PreprocessParameters | None = None,
) -> subprocess.Popen[bytes]:
    """A process at work on a task directory, as a runner starts it; its output goes into a pipe."""
    TaskRequest(
        name="preprocess",
        component=preprocess.spec.entry,
        parameters=(parameters or small()).model_dump(mode="json"),
        inputs={"shards": (GivenArtifact(path=shards),)},
        share=share,
        cores=1,
    ).write(directory)
    code = f"""
import sys
from pathlib import Path
from millrace.runtime.execute import execute
code = execute(Path(sys.argv[1]))
{afterwards}
sys.exit(code)
"""
    return subprocess.Popen([sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE)
