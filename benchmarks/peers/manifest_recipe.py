"""The usual recipe: boto3, pandas, LabelEncoder and train_test_split of scikit-learn, json.dump."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `bucket`, `prefix` and `folder`, where the table and the manifests go."""
    bucket, folder = given["bucket"], Path(given["folder"])
    client = boto3.client("s3")

    def work() -> int:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=given["prefix"])
        listed = [
            {"key": item["Key"], "size": item["Size"], "modified": item["LastModified"], "etag": item["ETag"]}
            for page in pages
            for item in page.get("Contents", ())
        ]
        frame: Any = pd.DataFrame(listed)
        frame["uri"] = f"s3://{bucket}/" + frame["key"]
        frame["class_label"] = frame["key"].str.split("/").str[-2]
        encoder: Any = LabelEncoder()
        frame["label"] = encoder.fit_transform(frame["class_label"])
        split: Any = train_test_split
        train, rest = split(frame, test_size=0.2, stratify=frame["label"], random_state=0)
        validation, test = split(rest, test_size=0.5, stratify=rest["label"], random_state=0)
        channels = {"train": train, "validation": validation, "test": test}
        for name, rows in channels.items():
            frame.loc[rows.index, "channel"] = name
            with (folder / f"{name}.manifest").open("w") as stream:
                json.dump([{"prefix": f"s3://{bucket}/"}, *rows["key"]], stream)
        (folder / "classes.json").write_text(json.dumps(list(encoder.classes_)))
        frame.to_parquet(folder / "index.parquet")
        return len(frame)

    return work


if __name__ == "__main__":
    main(prepare)
