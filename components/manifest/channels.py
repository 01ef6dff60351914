"""Channels that folders and names of tables stand for."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.objects import NOWHERE, Objects
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import ManifestParameters, PrefixLabels
from millrace.errors import DataError
from millrace.runtime.context import Context
from millrace.runtime.schemas import CHANNELS, Channel

__all__ = ["ChannelNames"]

_NAMES: dict[str, Channel] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_CODES = {name: CHANNELS.index(channel) for name, channel in _NAMES.items()}
_NAMED = rf"(?i)(?:^|/)({'|'.join(_NAMES)})(?:[-_.][^/]*)?$"


class ChannelNames:
    """Looks at keys for the names of channels, and judges when all keys have been seen.

    With labels by prefix, a folder is a channel only when folders of classes are inside: pictures that
    lie in `train` itself are of the class `train`, which is a thing to take pictures of.
    """

    def __init__(self, parameters: ManifestParameters) -> None:
        self._parameters = parameters
        self._classes_inside = not isinstance(parameters.labels, PrefixLabels)
        self._tops: set[str] = set()
        self._below: set[str] = set()
        self._beside = ""  # a table that is of no channel

    def see(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `folder`, the channel's number or `NOWHERE`, and `depth`, the folders above the object.

        Raises:
            DataError: When a table's name and its folder say different things.
        """
        parts = pl.col("key").str.split("/")
        rows = rows.with_columns(depth=pl.col("key").str.count_matches("/", literal=True))
        if self._parameters.split.folders == "ignore":
            return rows.with_columns(folder=pl.lit(NOWHERE, dtype=pl.Int8))
        top = pl.when(pl.col("depth") > 0).then(parts.list.first().str.to_lowercase())
        rows = rows.with_columns(folder=top.replace_strict(_CODES, default=NOWHERE, return_dtype=pl.Int8))
        inside = rows.filter(pl.col("depth") > 1)
        if self._parameters.of_tables:
            rows = self._by_names(rows)
        elif not self._classes_inside:
            self._classes_inside = bool((inside["folder"] != NOWHERE).any())
        if len(self._tops) < 2:
            pairs = inside.select(top=parts.list.first(), second=parts.list.get(1).str.to_lowercase()).unique()
            self._tops.update(pairs["top"].to_list())
            self._below.update(name for name in pairs["second"] if name in _NAMES)
        return rows

    def settle(self, objects: Objects, depths: NDArray[np.bool_], rejected: Rejected, context: Context) -> None:
        """Decide what the folders are, and set aside what lies beside them.

        Args:
            objects: All of them, changed in place.
            depths: Whether an object lies directly in a folder at the first level.
            rejected: Takes what is set aside.
            context: For the log.

        Raises:
            DataError: When folders of channels lie one level too deep: to mix them would be a leak that nobody sees.
        """
        if self._parameters.split.folders == "ignore":
            return
        in_folder = objects.folder != NOWHERE
        if isinstance(self._parameters.labels, PrefixLabels) and not self._parameters.of_tables:
            if self._classes_inside:
                bare = np.flatnonzero(in_folder & depths)
                aside = pl.DataFrame({"position": bare}).with_columns(detail=pl.lit("it lies in no class folder"))
                rejected.take_out(objects, aside, "no_label")
            else:
                objects.folder[:] = NOWHERE
                in_folder[:] = False
        found = sorted({CHANNELS[code] for code in np.unique(objects.folder[in_folder & objects.inside]).tolist()})
        if found:
            context.log.info("channels that have folders or tables: %s", ", ".join(found))
        else:
            self._check_level()
        if "train" in found:
            self._set_beside_aside(objects, rejected)

    def _by_names(self, rows: pl.DataFrame) -> pl.DataFrame:
        if isinstance(self._parameters.labels, PrefixLabels):  # of a table in the folder train, the class is not known
            rows = rows.with_columns(folder=pl.when(pl.col("depth") > 1).then("folder").otherwise(NOWHERE))
        name = pl.col("key").str.extract(_NAMED).str.to_lowercase()
        rows = rows.with_columns(named=name.replace_strict(_CODES, default=NOWHERE, return_dtype=pl.Int8))
        named, folder = pl.col("named"), pl.col("folder")
        contrary = rows.filter((named != NOWHERE) & (folder != NOWHERE) & (named != folder))
        if contrary.height:
            key, one, other = contrary.select("key", "folder", "named").row(0)
            raise DataError(
                f"{key} is of {CHANNELS[one]} by its folder and of {CHANNELS[other]} by its name: rename it, leave it "
                "out with manifest.exclude, or set manifest.split.folders=ignore to divide all rows anew"
            )
        rows = rows.with_columns(folder=pl.when(folder == NOWHERE).then("named").otherwise("folder")).drop("named")
        beside = rows.filter(pl.col("folder") == NOWHERE)
        if beside.height and not self._beside:
            self._beside = str(beside["key"][0])
        return rows

    def _check_level(self) -> None:
        if len(self._tops) == 1 and len(self._below) >= 2:
            (folder,) = self._tops
            raise DataError(
                f"folders of channels are in {folder}/, they count only directly below the source: set manifest.source "
                f"to that folder, or manifest.split.folders=ignore to divide all objects anew"
            )

    def _set_beside_aside(self, objects: Objects, rejected: Rejected) -> None:
        if self._beside:
            raise DataError(
                f"{self._beside} lies beside tables of train and is of no channel by its name: leave it out with "
                "manifest.exclude, rename it, or set manifest.split.folders=ignore to divide all rows anew"
            )
        outside = np.flatnonzero(objects.inside & (objects.folder == NOWHERE))
        told = pl.lit("it lies beside the folders train, validation and test")
        rejected.take_out(objects, pl.DataFrame({"position": outside}).with_columns(detail=told), "outside_channels")
