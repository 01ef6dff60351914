"""Reads picture records with tensorflow-datasets, which is told what is in them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from benchmarks.measure import Work, main

_TEMPLATE = "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}"


def prepare(given: dict[str, Any]) -> Work:
    """Given `folder`, `files`, `shape` of JPEG pictures, `classes` and `counts`: records of each train file."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=tuple(given["shape"]), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=given["classes"]),
            "uri": tfds.features.Text(),
        }
    )

    def work() -> int:
        with tempfile.TemporaryDirectory() as described:
            for name in given["files"]:
                (Path(described) / name).symlink_to(Path(given["folder"]) / name)
            split = tfds.core.SplitInfo(
                name="train",
                shard_lengths=given["counts"],
                num_bytes=0,
                filename_template=tfds.core.ShardedFileTemplate(
                    template=_TEMPLATE, data_dir=described, dataset_name="records", split="train",
                    filetype_suffix="tfrecord",
                ),
            )  # fmt: skip
            tfds.folder_dataset.write_metadata(
                data_dir=described, features=features, split_infos=[split], filename_template=_TEMPLATE
            )
            dataset = tfds.builder_from_directory(described).as_dataset(split="train")
            return sum(tuple(one["image"].shape) == tuple(given["shape"]) for one in dataset)

    return work


if __name__ == "__main__":
    main(prepare)
