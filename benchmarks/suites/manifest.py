"""A manifest of a million keys beside the usual recipe, and one of ten million."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.listing_server import BUCKET, PREFIX, serving
from benchmarks.plan import Case, Contender, Limit, Ratio, Setting

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "Manifest"
ABOUT = (
    "List a bucket, label each object by its folder, divide the objects among three channels in equal parts of each "
    "class, and write a Parquet table and three manifests in S3's form. Both list the same server, which stands in for "
    "S3's listing: pages of 1,000 keys, each after 20 ms, any number at a time. No object is read. The server runs on "
    "the last core, which clients share with it."
)

_KEYS = 1_000_000
_QUICK_KEYS = 20_000
_PREFIXES = 100
_WAIT = 20
_CORES = 2
_MOST_BYTES = 4e9


def cases(setting: Setting) -> Iterator[Case]:
    """A million keys beside the recipe; ten million of our own, for the memory."""
    keys = setting.size(_KEYS, _QUICK_KEYS)
    if setting.wants("recipe"):
        with serving(keys, _PREFIXES, _WAIT) as variables:
            yield Case(
                name="recipe",
                title=f"A manifest of {keys:,} keys",
                unit="keys",
                contenders=(_ours(setting, variables), _recipe(setting, variables)),
                ratios=(
                    Ratio(beside="recipe", target=5.0),
                    Ratio(beside="recipe", metric="peak_bytes", target=3.0),
                ),
                rounds=min(setting.rounds, 3),
            )
    if setting.wants("ten-times"):
        with serving(10 * keys, _PREFIXES, _WAIT) as variables:
            yield Case(
                name="ten-times",
                title=f"A manifest of {10 * keys:,} keys",
                unit="keys",
                contenders=(_ours(setting, variables),),
                limits=(Limit(figure="peak_bytes", most=_MOST_BYTES),),
                rounds=1,
            )


def _ours(setting: Setting, variables: dict[str, str]) -> Contender:
    return Contender(
        about="the component manifest, contents: listed",
        script="ours/manifest.py",
        arguments={"source": f"s3://{BUCKET}/{PREFIX}", "folder": str(setting.scratch / "millrace")},
        cores=_CORES,
        variables=variables,
        packages=("obstore", "polars"),
    )


def _recipe(setting: Setting, variables: dict[str, str]) -> Contender:
    folder = setting.scratch / "recipe"
    folder.mkdir(exist_ok=True)
    return Contender(
        name="recipe",
        about="boto3's paginator, a pandas frame, scikit-learn's LabelEncoder and train_test_split, json.dump",
        script="peers/manifest_recipe.py",
        environment="recipe",
        arguments={"bucket": BUCKET, "prefix": f"{PREFIX}/", "folder": str(folder)},
        cores=_CORES,
        variables=variables,
        packages=("boto3", "pandas", "scikit-learn", "pyarrow"),
    )
