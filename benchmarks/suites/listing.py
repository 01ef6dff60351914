"""Listing a bucket beside boto3 and s3fs, from a server that stands in for S3."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.listing_server import BUCKET, PREFIX, serving
from benchmarks.plan import Case, Contender, Ratio, Setting

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "Listing s3://"
ABOUT = (
    "Keys, sizes, times and ETags of all objects below a prefix. The server is a stand-in for S3's listing: it answers "
    "with pages of 1,000 keys that were rendered ahead, each after a wait as S3 has it, any number at a time, and runs "
    "on the last core; clients have one core. With a wait of 0 ms the client alone is measured."
)

_KEYS = 300_000
_MANY = 100
_QUICK_KEYS = 20_000
_SHAPES = {"prefixes": (_MANY, 3.0), "one-prefix": (1, 1.0)}
"""How many prefixes there are, and the target beside boto3."""
_WAITS = (20, 0)


def cases(setting: Setting) -> Iterator[Case]:
    """Many prefixes and one deep prefix, each with and without a wait."""
    keys = setting.size(_KEYS, _QUICK_KEYS)
    for shape, (prefixes, target) in _SHAPES.items():
        for wait in _WAITS:
            name = f"{shape}-{wait}-ms"
            if setting.wants(name):
                with serving(keys, prefixes, wait) as variables:
                    yield _case(name, keys, prefixes, wait, variables, target if wait else 1.0)


def _case(name: str, keys: int, prefixes: int, wait: int, variables: dict[str, str], target: float) -> Case:
    below = f"{prefixes} prefixes" if prefixes > 1 else "one prefix"
    return Case(
        name=name,
        title=f"{keys:,} keys in {below}, {wait} ms a request",
        unit="keys",
        contenders=(
            Contender(
                about="millrace.runtime.storage.list_batches",
                script="ours/listing.py",
                arguments={"source": f"s3://{BUCKET}/{PREFIX}"},
                variables=variables,
                packages=("obstore", "polars"),
            ),
            _peer("boto3", "the paginator of list_objects_v2", "recipe", variables),
            _peer("s3fs", "S3FileSystem.find(detail=True)", "s3fs", variables),
        ),
        ratios=(
            Ratio(beside="boto3", target=target),
            Ratio(beside="s3fs", target=target),
            Ratio(beside="boto3", metric="peak_bytes"),
        ),
    )


def _peer(name: str, about: str, environment: str, variables: dict[str, str]) -> Contender:
    return Contender(
        name=name,
        about=about,
        script=f"peers/listing_{name}.py",
        environment=environment,
        arguments={"bucket": BUCKET, "prefix": f"{PREFIX}/"},
        variables=variables,
        packages=(name,),
    )
