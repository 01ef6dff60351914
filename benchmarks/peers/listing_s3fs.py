"""Lists a bucket with s3fs."""

from __future__ import annotations

from typing import Any

import s3fs

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `bucket` and `prefix`; the endpoint is in the environment."""
    files = s3fs.S3FileSystem(use_listings_cache=False)
    return lambda: len(files.find(f"{given['bucket']}/{given['prefix']}", detail=True))


if __name__ == "__main__":
    main(prepare)
