"""Lists a bucket with boto3's paginator, as its documentation shows."""

from __future__ import annotations

from typing import Any

import boto3

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `bucket` and `prefix`; the endpoint is in the environment."""
    client = boto3.client("s3")

    def work() -> int:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=given["bucket"], Prefix=given["prefix"])
        found = [
            (item["Key"], item["Size"], item["LastModified"], item["ETag"])
            for page in pages
            for item in page.get("Contents", ())
        ]
        return len(found)

    return work


if __name__ == "__main__":
    main(prepare)
