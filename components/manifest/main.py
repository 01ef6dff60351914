"""List, label, read, divide, write."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.contents import read_contents
from millrace.components.manifest.earlier import SETTINGS, TABLES, Settings, open_earlier
from millrace.components.manifest.labels import same_form
from millrace.components.manifest.listing import Source, find_source
from millrace.components.manifest.objects import Names, Objects
from millrace.components.manifest.parts import Parts
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import (
    ColumnLabels,
    ManifestInputs,
    ManifestOutputs,
    ManifestParameters,
)
from millrace.components.manifest.split import divide
from millrace.components.manifest.survey import survey
from millrace.components.manifest.table_rows import read_rows
from millrace.components.manifest.together import tie_together
from millrace.components.manifest.writing import write_aside, write_changes, write_index, write_tables
from millrace.data.leaks import check_leaks
from millrace.errors import DataError
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import CHANNELS, Catalogue

__all__ = ["main"]


def main(parameters: ManifestParameters, inputs: ManifestInputs, outputs: ManifestOutputs, context: Context) -> Result:
    """Make the lineage table of a source.

    Raises:
        ConfigError: When there is no source.
        DataError: When there is nothing to use in it, or it contradicts itself.
    """
    source = find_source(parameters, inputs)
    earlier = open_earlier(parameters, source, context)
    rejected, aside, names = (
        Rejected(context.scratch / "rejected"),
        Parts(context.scratch / "aside"),
        Names(_wanted(parameters)),
    )
    objects = survey(source, parameters, names, rejected, context)
    known = earlier.match(objects) if earlier is not None else None
    if parameters.of_tables:
        write_tables(outputs.manifest.path / TABLES, objects)
        tables = objects
        objects = read_rows(objects, earlier, parameters, names, rejected, aside, context)
        known = earlier.match(objects) if earlier is not None else None
        if not len(objects) and not rejected.total:
            raise DataError(_without_rows(tables, source))
    elif parameters.contents == "read":
        objects = read_contents(objects, known, parameters, rejected, aside, context)
    if not objects.inside.any():
        raise DataError(
            f"there are no usable objects below {source.place}; set aside: {rejected.summary()}; the first of each:\n"
            f"{rejected.examples()}"
        )
    duplicates = tie_together(objects, known, names.all(), parameters, rejected)
    classes = _classes(objects, names.all(), parameters, source)
    channels, repaired = divide(objects, known, parameters.split, names.all(), classes)
    _write(outputs, objects, channels, (names.all(), classes), parameters, source, rejected, aside, context)
    numbers: dict[str, int] = {name: int((channels == code).sum()) for code, name in enumerate(CHANNELS)}
    changes: dict[str, int] = {}
    if known is not None:
        path = outputs.manifest.path / "changes.parquet"
        changes = write_changes(path, objects, known, read=parameters.contents == "read")
    return _result(objects, numbers, len(classes), duplicates, repaired, changes, rejected, context)


def _without_rows(tables: Objects, source: Source) -> str:
    first = tables.parts.pick(np.zeros(1, np.int64), ["uri"])["uri"][0]
    others = f", nor have the {len(tables) - 1} other tables below {source.place}" if len(tables) > 1 else ""
    return f"{first} has no rows{others}: is there only a header?"


def _wanted(parameters: ManifestParameters) -> tuple[str, ...]:
    return tuple(same_form(pl.Series(parameters.classes or (), dtype=pl.String)))


def _classes(objects: Objects, names: Sequence[str], parameters: ManifestParameters, source: Source) -> tuple[str, ...]:
    there = np.bincount(objects.label[objects.inside], minlength=len(names)) > 0
    classes = _wanted(parameters) or tuple(sorted(name for name, any_ in zip(names, there, strict=True) if any_))
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no class"
        if isinstance(parameters.labels, ColumnLabels):
            where = f" in the column {parameters.labels.column!r} of {int(objects.inside.sum())} rows"
            advice = "add rows of other classes, or set manifest.labels.column to the column of the class"
        else:
            where, advice = "", "each in a folder of its own (or set manifest.labels)"
        raise DataError(f"there is {found}{where} below {source.place}; at least 2 are needed: {advice}")
    return classes


def _write(
    outputs: ManifestOutputs,
    objects: Objects,
    channels: NDArray[np.int8],
    classes: tuple[Sequence[str], tuple[str, ...]],
    parameters: ManifestParameters,
    source: Source,
    rejected: Rejected,
    aside: Parts,
    context: Context,
) -> None:
    folder = outputs.manifest.path
    write_index(folder, objects, channels, classes, source.prefix, parameters.entries, context)
    write_aside(folder / "aside.parquet", objects, classes[0], aside, read=parameters.contents == "read")
    rejected.write(outputs.rejects.path / "rejects.parquet")
    labels = parameters.labels
    catalogue = Catalogue(
        classes=classes[1],
        label_column=labels.column if isinstance(labels, ColumnLabels) else None,
        group_column=parameters.split.group_column,
        content_columns=parameters.columns,
    )
    text = json.dumps(catalogue.model_dump(), ensure_ascii=False, separators=(",\n", ": "))
    (folder / "classes.json").write_text(f"{text}\n", encoding="utf-8")
    (folder / SETTINGS).write_text(f"{Settings.of(parameters).model_dump_json(indent=2)}\n", encoding="utf-8")
    check = check_leaks(folder / "index.parquet")
    if not check.clean:
        raise DataError(f"the manifest has {check.verdict()}; this must not be, please report it:\n{check.details()}")


def _result(
    objects: Objects,
    numbers: dict[str, int],
    classes: int,
    duplicates: int,
    repaired: int,
    changes: dict[str, int],
    rejected: Rejected,
    context: Context,
) -> Result:
    taken = int(objects.inside.sum())
    if rejected.total:
        context.log.warning("%d objects set aside: %s", rejected.total, rejected.summary())
    context.log.info("%d objects of %d classes: %s", taken, classes, numbers)
    if changes:
        told = ", ".join(f"{number} {name}" for name, number in changes.items())
        context.log.info("since the earlier manifest: %s", told)
    return Result(
        metrics={
            "objects": taken,
            **{name: changes[name] for name in ("added", "changed", "deleted") if name in changes},
            "classes": classes,
            "rejected": rejected.total,
            "duplicates": duplicates,
            "repaired": repaired,
            **numbers,
            **changes,
        },
        metadata={"manifest": {"objects": {**numbers}, "classes": classes}},
    )
