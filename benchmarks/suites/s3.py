"""Records of photographs in a bucket: one core, two cores, and eight times as many objects."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.machine import cores
from benchmarks.object_server import BUCKET, serving
from benchmarks.picture_shards import write_picture_shards
from benchmarks.plan import Case, Contender, Limit, Measured, Ratio, Setting
from benchmarks.results import Check

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "Preprocess from S3"
ABOUT = (
    "Photographs of about 400x533 in a bucket become JPEG pictures of 224x224 in record files. The store is a server "
    "on this machine, on the first of the cores that the client has, that answers 10 ms after each request: its own "
    "work is the same for each object in all cases."
)

_SIDE = 224
_WAIT = 0.01
_CONCURRENCY = 64
_COUNT, _QUICK_COUNT = 3000, 40
_DIFFERENT, _QUICK_DIFFERENT = 600, 40
_SHARDS, _GROWTH = 4, 8
_MEMORY_GROWTH = 1.15


def cases(setting: Setting) -> Iterator[Case]:
    """Two cores beside one; memory for more objects."""
    count = setting.size(_COUNT, _QUICK_COUNT)
    photographs = setting.photographs(setting.size(_DIFFERENT, _QUICK_DIFFERENT))
    paths = sorted(photographs.rglob("*.jpg"))
    named = [(f"s3://{BUCKET}/{path.relative_to(photographs).as_posix()}", path.parent.name) for path in paths]
    places = (named * (count * _GROWTH // len(named) + 1))[: count * _GROWTH]
    with serving(photographs, wait=_WAIT, core=cores()[0]) as variables:
        if setting.wants("cores") and len(cores()) > 1:
            yield _two_cores(write_picture_shards(setting.scratch / "shards", places[:count], _SHARDS), variables)
        if setting.wants("memory"):
            yield _memory(setting.scratch / "memory", places, variables)


def _ours(name: str, shards: Path, variables: dict[str, str], count: int) -> Contender:
    return Contender(
        name=name,
        about=f"the preprocess component, concurrency={_CONCURRENCY}",
        script="ours/preprocess.py",
        arguments={"shards": str(shards), "side": _SIDE, "cores": count, "concurrency": _CONCURRENCY},
        cores=count,
        variables=variables,
        packages=("obstore", "simplejpeg"),
    )


def _two_cores(shards: Path, variables: dict[str, str]) -> Case:
    def checks(found: Measured) -> Iterator[Check]:
        url = f"{variables['AWS_ENDPOINT_URL']}/{BUCKET}/most"
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server, by HTTP
            most = int(answer.read())
        bounded = most <= _CONCURRENCY if any(found.values()) else None
        yield Check(name="requests in flight are bounded", passed=bounded, detail=f"{most} at most of {_CONCURRENCY}")

    return Case(
        name="cores",
        title="Photographs in a bucket to records, on one core and on two",
        unit="pictures",
        contenders=(_ours("two cores", shards, variables, 2), _ours("one core", shards, variables, 1)),
        ratios=(Ratio(name="two cores", beside="one core", target=1.8),),
        checks=checks,
    )


def _memory(folder: Path, places: Sequence[tuple[str, str]], variables: dict[str, str]) -> Case:
    few = places[: len(places) // _GROWTH]
    return Case(
        name="memory",
        title=f"Peak memory for {len(few):,} objects and for {len(places):,}",
        about="Shards are of the same size.",
        unit="pictures",
        rounds=1,
        same_work=False,
        contenders=(
            _ours("few", write_picture_shards(folder / "few" / "shards", few, _SHARDS), variables, len(cores()[:2])),
            _ours(
                "many",
                write_picture_shards(folder / "many" / "shards", places, _SHARDS * _GROWTH),
                variables,
                len(cores()[:2]),
            ),
        ),
        ratios=(Ratio(name="many", beside="few", metric="peak_bytes", target=1 / _MEMORY_GROWTH),),
        limits=(Limit(name="many", figure="peak_bytes"),),
    )
