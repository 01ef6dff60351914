"""What analyze learns of columns and of texts, and from which rows."""

from __future__ import annotations

import datetime as dt
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.components.analyze.spec import AnalyzeParameters, analyze
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.components.shard.spec import ChannelShards, ShardParameters, shard
from millrace.data.fit import Fitted, fit_columns
from millrace.data.options import TabularData
from millrace.data.options.tables import Category, Column, Numeric
from millrace.errors import ConfigError, DataError
from millrace.runtime.columns import BinnedColumn, CategoryColumn, DateColumn, FittedColumn, HashedColumn, NumericColumn
from millrace.runtime.schemas import TabularRecords, read_records_schema
from millrace.runtime.texts import read_vocabulary
from millrace.specs.charts import charts_adapter
from millrace.testing import Ran, run_component
from tests.components.chain import as_csv, as_lines, as_parquet, make_shards
from tests.components.text_data import CLASSES, sentence
from tests.conftest import Bucket

TRAIN = 40


def table(rows: int = TRAIN, first: int = 0) -> pl.DataFrame:
    """Rows of every kind of column."""
    numbers = range(first, first + rows)
    return pl.DataFrame(
        {
            "id": [f"id-{n}" for n in numbers],
            "age": [None if n % 8 == 7 else str(20 + n % 30) for n in numbers],
            "size": [f"{n / 7:.3f}" for n in numbers],
            "kind": [("red", "blue", "green", "red")[n % 4] for n in numbers],
            "day": [(dt.date(2024, 1, 1) + dt.timedelta(n)).isoformat() for n in numbers],
            "same": ["x"] * rows,
            "never": pl.Series([None] * rows, dtype=pl.String),
            "label": [("a", "b")[n % 2] for n in numbers],
        }
    )


def files(train: pl.DataFrame | None = None, validation: int = 10, test: int = 10) -> dict[str, bytes]:
    return {
        "train.csv": as_csv(table() if train is None else train),
        "validation.csv": as_csv(table(validation, 1000)),
        "test.csv": as_csv(table(test, 2000)),
    }


def run(shards: Path, directory: Path, data: dict[str, Any] | None = None, kind: str = "tabular") -> Ran:
    parameters = AnalyzeParameters.model_validate({"data": {"kind": kind, **(data or {})}})
    return run_component(analyze, parameters, directory, shards=shards)


def written(ran: Ran) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in ran.outputs["analysis"].iterdir()}


def columns(ran: Ran) -> dict[str, FittedColumn]:
    schema = read_records_schema(ran.outputs["analysis"])
    assert isinstance(schema, TabularRecords)
    return {column.name: column for column in schema.columns}


class TestColumns:
    def test_are_taken_by_their_values(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            ran = run(make_shards(tmp_path, files()), tmp_path / "task")
        found = columns(ran)
        ages = [20 + n % 30 for n in range(TRAIN) if n % 8 != 7]
        age = found["age"]
        assert isinstance(age, NumericColumn)
        assert (age.shift, age.scale) == pytest.approx((statistics.fmean(ages), statistics.pstdev(ages)))
        assert (age.missing, age.indicator) == (statistics.median(ages), True)
        assert isinstance(found["size"], NumericColumn)
        assert not found["size"].indicator
        assert found["kind"] == CategoryColumn(name="kind", values=("red", "blue", "green"))
        days = [19723 + n for n in range(TRAIN)]
        day = found["day"]
        assert isinstance(day, DateColumn)
        assert (day.format, day.parts) == (None, ("days", "month", "weekday"))
        assert (day.shifts["days"], day.scales["days"]) == pytest.approx((np.mean(days), np.std(days)))
        assert list(found) == ["age", "day", "kind", "size"]
        assert ran.metrics == {"objects": TRAIN, "features": 2 + 6 + 5 + 1, "left_out": 3}
        schema = read_records_schema(ran.outputs["analysis"])
        assert isinstance(schema, TabularRecords)
        assert schema.ignored == ("id", "label", "never", "same")
        assert "column 'same' is left out: one value" in caplog.text
        assert "column 'never' is left out: no values" in caplog.text
        assert "column 'id' is left out: nearly every row has its own value (40 of 40)" in caplog.text
        assert read_records_schema(ran.outputs["analysis"]).classes == ("a", "b")

    def test_of_other_channels_change_no_byte(self, tmp_path: Path) -> None:
        few = written(run(make_shards(tmp_path / "1", files()), tmp_path / "1" / "task"))
        other = files(validation=33, test=21)
        other["test.csv"] = other["test.csv"].replace(b"red", b"never seen").replace(b"20", b"1e9")
        many = written(run(make_shards(tmp_path / "2", other), tmp_path / "2" / "task"))
        assert few == many

    def test_do_not_depend_on_order_shards_files_or_format(self, tmp_path: Path) -> None:
        rows = table()
        mixed = rows.sample(fraction=1, shuffle=True, seed=3).select(reversed(rows.columns))
        reference = written(run(make_shards(tmp_path / "1", files(rows)), tmp_path / "1" / "task"))
        forms = [
            {**files(mixed)},
            {"train.jsonl": as_lines(mixed), **{name: files()[name] for name in ("validation.csv", "test.csv")}},
            {**files(mixed[:15]), "train/more.csv": as_csv(mixed[15:])},
        ]  # fmt: skip
        for number, form in enumerate(forms):
            folder = tmp_path / f"form{number}"
            listing = {"columns": ["id"]} if "train.jsonl" in form else {}
            shards = make_shards(folder, form, shards=number + 1, **listing)
            found = written(run(shards, folder / "task"))
            assert found == reference, number

    def test_with_types_are_taken_by_them(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(
            {
                "label": ["a", "b"] * 20,
                "flag": [True, False, None, True] * 10,
                "float": [n / 4 for n in range(40)],
                "price": pl.Series([f"{n}.50" for n in range(40)]).cast(pl.Decimal(10, 2)),
                "when": [dt.datetime(2024, 1, 1, n % 24) for n in range(40)],
                "sort": pl.Series(["x", "y"] * 20, dtype=pl.Categorical),
                "list": [[n] for n in range(40)],
            }
        )
        shards = make_shards(
            tmp_path, {"all.parquet": as_parquet(frame)}, split={"train": 1, "validation": 0, "test": 0}
        )
        found = columns(run(shards, tmp_path / "task", {"exclude": ["list"]}))
        assert {name: column.kind for name, column in found.items()} == {
            "flag": "category", "float": "numeric", "price": "numeric", "sort": "category", "when": "date",
        }  # fmt: skip
        assert found["flag"] == CategoryColumn(name="flag", values=("true", "false"))
        with pytest.raises(DataError, match=r"column 'list' holds List.*, of which no feature can be made"):
            run(shards, tmp_path / "again")

    def test_of_label_and_group_are_no_features(self, tmp_path: Path) -> None:
        rows = table().with_columns(group=pl.Series([str(n // 2) for n in range(TRAIN)]))
        shards = make_shards(
            tmp_path, {"all.csv": as_csv(rows)},
            split={"group_column": "group", "train": 0.8, "validation": 0.2, "test": 0, "minimum": 0},
        )  # fmt: skip
        assert not {"group", "label"} & set(columns(run(shards, tmp_path / "task")))
        for name in ("group", "label"):
            with pytest.raises(ConfigError, match=rf"columns.{name}: the column holds the class or the group"):
                run(shards, tmp_path / name, {"columns": {name: {"kind": "category"}}})


class TestOptions:
    data: ClassVar[dict[str, Any]] = {
        "columns": {
            "age": {"kind": "bins", "count": 4},
            "size": {"kind": "numeric", "scaling": "min_max", "missing": "zero"},
            "kind": {"kind": "category", "minimum": 11},
            "id": {"kind": "hashed", "buckets": 8},
            "day": {"kind": "date", "format": "%Y-%m-%d", "parts": ["year", "day"]},
            "same": {"kind": "category"},
        },
        "others": "ignore",
    }

    def test_are_followed(self, tmp_path: Path) -> None:
        found = columns(run(make_shards(tmp_path, files()), tmp_path / "task", self.data))
        ages = [20.0 + n % 30 for n in range(TRAIN) if n % 8 != 7]
        assert found["age"] == BinnedColumn(name="age", edges=tuple(np.quantile(ages, [0.25, 0.5, 0.75]).tolist()))
        largest = round((TRAIN - 1) / 7, 3)
        assert found["size"] == NumericColumn(name="size", shift=0, scale=largest, missing=0, indicator=False)
        assert found["kind"] == CategoryColumn(name="kind", values=("red",))
        assert found["id"] == HashedColumn(name="id", buckets=8)
        assert found["day"].width == 4
        assert found["same"] == CategoryColumn(name="same", values=("x",))
        assert len(found) == 6

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"columns": {"agee": {"kind": "numeric"}}}, "columns: there is no column 'agee': did you mean 'age'"),
            ({"exclude": ["Id"]}, r"preprocess\.data\.exclude: there is no column 'Id': did you mean 'id'"),
            ({"columns": {"age": {"kind": "numeric"}}, "exclude": ["age"]}, "'age' is both in columns and in exclude"),
            ({"columns": {"kind": {"kind": "numeric"}}}, "'kind' shall be numeric, and no training row has a number"),
            ({"columns": {"kind": {"kind": "date"}}}, "'kind' shall be date, and no training row has a date in it"),
            (
                {"columns": {"day": {"kind": "date", "format": "%d.%m.%Y"}}},
                r"'day' shall be date, .* a date in the format %d\.%m\.%Y in it; '2024-01-01' for one: give",
            ),
            ({"columns": {"size": {"kind": "numeric"}}, "decimal": ","}, r"set preprocess\.data\.decimal=\"\."),
            ({"others": "ignore"}, "no column is left to learn from: name some in preprocess"),
            ({"columns": {"id": {"kind": "hashed", "buckets": 100_000}}}, r"limit is 100000.*widest is 'id'"),
        ],
    )  # fmt: skip
    def test_that_fit_no_column_are_refused(self, tmp_path: Path, data: dict[str, Any], message: str) -> None:
        with pytest.raises((ConfigError, DataError), match=message):
            run(make_shards(tmp_path, files()), tmp_path / "task", data)

    def test_and_what_was_learnt_are_told_in_a_table(self, tmp_path: Path) -> None:
        run(make_shards(tmp_path, files()), tmp_path / "task")
        (chart,) = charts_adapter.validate_json(next((tmp_path / "task").rglob("charts.json")).read_bytes())
        assert chart.kind == "table"
        rows = {row[0]: row[1:] for row in chart.rows}
        assert rows["kind"] == ("category", "0.0%", "3", "5", "'red' (20), 'blue' (10), 'green' (10)")
        assert rows["age"][:4] == ("numeric", "12.5%", "28", "2")
        assert rows["never"] == ("-", "100.0%", "0", "0", "left out: no values")


class TestFit:
    @staticmethod
    def fitted(values: list[str], option: Column | None = None) -> Fitted:
        data = TabularData(columns={} if option is None else {"c": option})
        return fit_columns({"c": [pl.Series("c", values)]}, data)[0]

    @pytest.mark.parametrize("scaling", ["standard", "min_max", "none"])
    @pytest.mark.parametrize("values", [["0.1", "0.1", "0.10"], ["0.1", "0.10000000000000002"] * 5, ["1e-300"] * 3])
    def test_numbers_that_do_not_vary_are_not_blown_up(self, values: list[str], scaling: Any) -> None:
        column = self.fitted(values, Numeric(scaling=scaling)).column
        assert isinstance(column, NumericColumn)
        assert column.scale == 1

    def test_numbers_that_vary_little_are_scaled(self) -> None:
        column = self.fitted([str(10**18 + 10**6 * n) for n in range(100)], Numeric()).column
        assert isinstance(column, NumericColumn)
        assert column.scale == pytest.approx(28.866e6, rel=1e-3)

    @pytest.mark.parametrize(
        ("good", "what"), [([str(20 + n % 60) for n in range(199)], "numbers"), (["2024-01-31"] * 199, "dates")]
    )
    def test_one_mistake_among_numbers_or_dates_is_told(self, good: list[str], what: str) -> None:
        told = f"{what} but for 1 of 200 values, 'unknown' for one"
        assert (self.fitted([*good, "unknown"]).nearly, self.fitted(good).nearly) == (told, "")
        assert self.fitted([*good[:50], "unknown"]).nearly == ""

    def test_a_mistake_is_told_in_the_log_and_the_report(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = table(200).with_columns(size=pl.Series(["?", "big", *(str(n) for n in range(198))]))
        run(make_shards(tmp_path, files(rows)), tmp_path / "task")
        told = "numbers but for 1 of 199 values, 'big' for one"
        assert (
            f"column 'size' is left out, yet it holds {told}: to take it as such, which rejects the others, name"
            in caplog.text
        )
        (chart,) = charts_adapter.validate_json(next((tmp_path / "task").rglob("charts.json")).read_bytes())
        assert chart.kind == "table"
        assert {row[0]: row[-1] for row in chart.rows}["size"].endswith(told)

    @pytest.mark.parametrize(
        ("values", "decimal", "told", "remedy"),
        [
            ([f"{n},5" for n in range(40)] + ["3"], ".", "numbers with decimal commas, '0,5' for one", 'decimal=","'),
            ([f"{n % 3},5" for n in range(40)], ".", "numbers with decimal commas, '0,5' for one", 'decimal=","'),
            ([f"{n}.5" for n in range(40)], ",", "numbers with decimal points, '0.5' for one", 'decimal="."'),
            ([f"{n % 28 + 1:02}.01.2024" for n in range(80)], ".", "like dates, '01.01.2024' for one", "%d.%m.%Y"),
            ([f"v{n}" for n in range(40)], ".", "", ""),
            (["1,2,3"] * 20 + ["x"] * 20, ".", "", ""),
        ],
    )  # fmt: skip
    def test_other_ways_to_write_are_told(self, values: list[str], decimal: Any, told: str, remedy: str) -> None:
        found = fit_columns({"c": [pl.Series("c", values)]}, TabularData(decimal=decimal))[0]
        assert told in found.nearly
        assert remedy in found.remedy
        assert bool(found.nearly) == bool(told)

    def test_decimal_commas_are_numbers_where_they_are_asked_for(self) -> None:
        given = pl.Series("c", ["1,5", " -2 ", "1e3", "NA", "1.5"])
        (fitted,) = fit_columns({"c": [given]}, TabularData(decimal=",", columns={"c": Numeric()}))
        assert isinstance(fitted.column, NumericColumn)
        assert (fitted.column.decimal, fitted.column.missing, fitted.unusable) == (",", 1.5, 1)

    def test_values_of_categories_are_counted_however_numbers_are_written(self) -> None:
        column = self.fitted(["1.0", "1", "1.00", "2", "x", "x"], Category(minimum=2)).column
        assert column == CategoryColumn(name="c", values=("1", "x"))

    def test_columns_together_are_learnt_as_each_alone(self) -> None:
        kinds: dict[str, pl.Series] = {
            "number": pl.Series([f"{n / 7:.2f}" for n in range(200)]),
            "whole": pl.Series([n % 9 for n in range(200)]),
            "float": pl.Series([None if n % 5 == 0 else n / 3 for n in range(200)]),
            "mistaken": pl.Series([*map(str, range(199)), "oops"]),
            "comma": pl.Series([f"{n},5" for n in range(200)]),
            "word": pl.Series(["True", "FALSE", "na", "x"] * 50),
            "mixed": pl.Series(["a", "1"] * 100),
            "late": pl.Series([*("x" * 4), *map(str, range(196))]),
            "date": pl.Series([str(dt.date(2024, 1, 1) + dt.timedelta(n)) for n in range(200)]),
            "local": pl.Series([f"{n % 28 + 1}.3.2024" for n in range(200)]),
            "day": pl.Series([dt.date(2024, 1, 1) + dt.timedelta(n) for n in range(200)]),
            "truth": pl.Series([True, False] * 100),
            "sort": pl.Series(["a", "b"] * 100, dtype=pl.Categorical()),
            "id": pl.Series([f"id-{n}" for n in range(200)]),
            "empty": pl.Series(["NA", None] * 100),
            "nothing": pl.Series([None] * 200),
            "large": pl.Series(["1e300", "-1e300", "4"] * 66 + ["inf", "nan"]),
        }
        data = TabularData.model_validate(
            {
                "columns": {
                    "whole1": {"kind": "bins", "count": 3}, "word1": {"kind": "hashed"},
                    "number2": {"kind": "category", "most": 2}, "mixed2": {"kind": "numeric"},
                    "large0": {"kind": "bins"}, "large1": {"kind": "bins"}, "large2": {"kind": "category"},
                }
            }
        )  # fmt: skip
        columns = {
            f"{name}{copy}": [values.alias(f"{name}{copy}")[: copy * 60], values[copy * 60 :]][copy == 0 :]
            for copy in range(3)
            for name, values in kinds.items()
        }
        alone = [fit_columns({name: parts}, data)[0] for name, parts in columns.items()]
        assert fit_columns(columns, data) == alone
        learnt = {one.name: one for one in alone}
        assert learnt["mistaken2"].nearly == "numbers but for 1 of 200 values, 'oops' for one"
        assert learnt["comma1"].nearly.startswith("numbers with decimal commas, '0,5' for one")
        assert learnt["local0"].nearly.startswith("what looks like dates")
        left_out = {one.name[:-1] for one in alone if one.column is None}
        assert left_out == {"id", "empty", "nothing", "mistaken", "comma", "late"}


class TestShards:
    def test_with_rows_that_were_changed_since_are_refused(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        path = tmp_path / "source" / "train.csv"
        path.write_bytes(path.read_bytes().replace(b"id-3,", b"id-x,"))
        with pytest.raises(
            DataError, match=r"1 of 40 training rows can't be read.*another than when .*train.csv was listed"
        ):
            run(shards, tmp_path / "task")
        path.unlink()
        with pytest.raises(DataError, match=r"40 of 40 training rows can't be read.* Run manifest again"):
            run(shards, tmp_path / "again")

    def test_without_training_shards_are_refused(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        (shards / "shards" / "train-00000-of-00002.parquet").unlink()
        with pytest.raises(DataError, match=r"lacks train-00000-of-00002.parquet; give the whole output"):
            run(shards, tmp_path / "task")

    def test_tables_without_the_same_columns_are_refused(self, tmp_path: Path) -> None:
        given = {**files(table(20)), "train/more.csv": as_csv(table(20, 20).drop("age"))}
        shards = make_shards(tmp_path, given, columns=["id", "size"])
        with pytest.raises(DataError, match=r"train\.csv has the column 'age', other tables have not"):
            run(shards, tmp_path / "task")

    def test_of_files_are_no_rows(self, tmp_path: Path) -> None:
        given = {f"{label}/{n}.txt": f"{n}".encode() for label in "ab" for n in range(6)}
        shards = make_shards(tmp_path, given, labels={"kind": "prefix"}, formats=["text"])
        with pytest.raises(ConfigError, match=r"txt is no row of a table: for kind=tabular manifest\.formats"):
            run(shards, tmp_path / "task")


class TestPrevious:
    def keep(self, shards: Path, directory: Path, previous: Path | str, **data: Any) -> Ran:
        given = {"data": {"kind": "tabular", **data}, "previous": str(previous)}
        return run_component(analyze, AnalyzeParameters.model_validate(given), directory, shards=shards)

    def test_is_taken_as_it_is_whatever_the_training_rows_are(self, tmp_path: Path) -> None:
        first = run(make_shards(tmp_path / "1", files()), tmp_path / "1" / "task")
        more = make_shards(tmp_path / "2", files(table(90)))
        kept = self.keep(more, tmp_path / "kept", first.outputs["analysis"])
        assert written(kept) == written(first) != written(run(more, tmp_path / "anew"))
        assert kept.metrics == {"objects": 0, "features": first.metrics["features"], "left_out": 0}

    def test_of_a_bucket(self, tmp_path: Path, s3: Bucket) -> None:
        shards = make_shards(tmp_path, files())
        first = run(shards, tmp_path / "task")
        for name, content in written(first).items():
            s3.put(f"earlier/{name}", content)
        assert written(self.keep(shards, tmp_path / "kept", s3.uri("earlier"))) == written(first)

    def test_spares_the_shards_of_tables_that_grow(self, tmp_path: Path) -> None:
        first = make_shards(tmp_path / "1", files())
        records = self.records(first, tmp_path / "1", None, None)
        (tmp_path / "1" / "source" / "train").mkdir()
        (tmp_path / "1" / "source" / "train" / "more.csv").write_bytes(as_csv(table(30, 300)))
        earlier = tmp_path / "1"
        before = next((earlier / "manifest").rglob("index.parquet")).parent
        listed = run_component(
            manifest, ManifestParameters.model_validate({
                "source": str(earlier / "source"), "formats": ["csv"], "conflicts": "keep", "split": {"minimum": 0},
                "labels": {"kind": "column", "column": "label"}, "previous": str(before),
            }), tmp_path / "manifest",
        )  # fmt: skip
        dealt = run_component(
            shard, ShardParameters(shards=ChannelShards(train=2), previous=str(first)), tmp_path / "shard",
            manifest=listed.outputs["manifest"],
        ).outputs["shards"]  # fmt: skip
        made = len(list((dealt / "shards").iterdir())) - 4
        kept = self.records(dealt, tmp_path / "kept", records, earlier)
        assert (kept.metrics["shards_kept"], kept.metrics["shards_made"]) == (4, made)
        anew = self.records(dealt, tmp_path / "anew", records, None)
        assert anew.metrics["shards_kept"] == 0

    def records(self, shards: Path, folder: Path, before: Ran | None, analysis: Path | None) -> Ran:
        """Of rows, with what an earlier run learnt if it is given."""
        if analysis is None:
            learnt = run(shards, folder / "task")
        else:
            learnt = self.keep(shards, folder / "task", next((analysis / "task").rglob("schema.json")).parent)
        earlier = None if before is None else {name: str(before.outputs[name]) for name in ("records", "rejects")}
        given = {"data": {"kind": "tabular"}, "previous": earlier}
        return run_component(
            preprocess, PreprocessParameters.model_validate(given), folder / "records", shards=shards,
            analysis=learnt.outputs["analysis"],
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "data", "message"),
        [
            ({"train.csv": table().drop("age")}, {}, r"analyze\.previous knows column 'age', which the tables lack"),
            (
                {},
                {"exclude": ["id"]},
                r"analyze\.data\.exclude is \['id'\], then it was \[\]: leave analyze\.previous out",
            ),
            ({}, {"kind": "text"}, r"analyze\.data\.kind is text, the analysis is of kind=tabular: leave"),
            (
                {"train.csv": table().with_columns(label=pl.col("label").replace("a", "c"))},
                {},
                r"the classes \['a', 'b'\], .* manifest\.classes",
            ),
        ],
    )
    def test_that_does_not_fit_is_refused(
        self, tmp_path: Path, given: dict[str, pl.DataFrame], data: dict[str, Any], message: str
    ) -> None:
        first = run(make_shards(tmp_path / "1", files()), tmp_path / "1" / "task")
        other = {name: as_csv(frame) for name, frame in given.items()} or files()
        shards = make_shards(tmp_path / "2", other)
        with pytest.raises(ConfigError, match=message):
            self.keep(shards, tmp_path / "kept", first.outputs["analysis"], **data)

    def test_that_took_the_class_for_a_feature_is_refused(self, tmp_path: Path) -> None:
        first = run(make_shards(tmp_path / "1", files()), tmp_path / "1" / "task")
        shards = make_shards(
            tmp_path / "2", {"train.csv": as_csv(table().with_columns(kind=pl.col("label")))},
            labels={"kind": "column", "column": "kind"},
        )  # fmt: skip
        with pytest.raises(ConfigError, match="took column 'kind' for a feature, here it holds the class"):
            self.keep(shards, tmp_path / "kept", first.outputs["analysis"])

    def test_that_is_none_is_refused(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"holds no analysis, it has no schema\.json"):
            self.keep(shards, tmp_path / "kept", tmp_path / "empty")
        with pytest.raises(ConfigError, match=r"analyze\.data is needed"):
            run_component(analyze, AnalyzeParameters(), tmp_path / "none", shards=shards)

    def test_vocabularies_are_kept(self, tmp_path: Path) -> None:
        given = {"kind": "text", "vocabulary_size": 100}
        first = run(
            make_shards(tmp_path / "1", {"train.csv": as_csv(TestTexts().rows())}), tmp_path / "t", given, "text"
        )
        rare = pl.DataFrame({"text": ["zebra", "yak zoo"] * 3, "label": CLASSES * 2})
        more = make_shards(tmp_path / "2", {"train.csv": as_csv(rare)})
        kept = self.keep(more, tmp_path / "kept", first.outputs["analysis"], **given)
        assert written(kept) == written(first)


class TestTexts:
    def rows(self, each: int = 30) -> pl.DataFrame:
        found = [(f"{sentence(label, n)} i{n}", CLASSES[label]) for label in range(3) for n in range(each)]
        return pl.DataFrame(found, schema=["text", "label"], orient="row")

    def test_of_training_make_the_vocabulary_whatever_their_order(self, tmp_path: Path) -> None:
        more = pl.DataFrame({"text": ["zebra"], "label": ["card"]})
        given = {"train.csv": as_csv(self.rows()), "test.csv": as_csv(more)}
        here = run(make_shards(tmp_path, given), tmp_path / "task", {"vocabulary_size": 100}, "text")
        words = read_vocabulary((here.outputs["analysis"] / "vocabulary.txt").read_bytes(), "")
        assert len(words) == 100 == len(set(words)) == here.metrics["features"]
        assert {"t", "##t", "is"} <= set(words)
        assert not {"z", "##z"} & set(words), "of training texts only"
        script = (
            "import sys; from pathlib import Path; from millrace.testing import run_component\n"
            "from millrace.components.analyze.spec import *\n"
            "parameters = AnalyzeParameters.model_validate({'data': {'kind': 'text', 'vocabulary_size': 100}})\n"
            "run_component(analyze, parameters, Path(sys.argv[2]), shards=Path(sys.argv[1]))"
        )
        shards = make_shards(tmp_path / "b", given, shards=5)
        subprocess.run([sys.executable, "-c", script, str(shards), str(tmp_path / "there")], check=True)
        there = tmp_path / "there" / here.outputs["analysis"].relative_to(tmp_path / "task")
        assert {file.name: file.read_bytes() for file in there.iterdir()} == written(here)

    def test_may_be_files_and_unusable_ones_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        given = {f"train/{label}/{n}.txt": f"{label} {n} word".encode() for label in "ab" for n in range(12)}
        given["train/a/blank.txt"] = b" \n"
        given["train/b/long.txt"] = b"x" * 100_001
        shards = make_shards(tmp_path, given, labels={"kind": "prefix"}, formats=["text"])
        train = pl.concat(pl.read_parquet(file) for file in (shards / "shards").glob("train-*"))
        ran = run(shards, tmp_path / "task", {"vocabulary_size": 100}, "text")
        bad = train["key"].str.contains("blank|long").sum()
        assert ran.metrics["objects"] == train.height - bad
        assert ("are not learnt from" in caplog.text) == (bad > 0)
        words = read_vocabulary((ran.outputs["analysis"] / "vocabulary.txt").read_bytes(), "")
        assert "word" in words

    def test_have_the_vocabulary_that_is_given(self, tmp_path: Path) -> None:
        file = tmp_path / "vocab.txt"
        file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ncard\n")
        shards = make_shards(tmp_path, {"train.csv": as_csv(self.rows(8))}, columns=["text"])
        ran = run(shards, tmp_path / "task", {"vocabulary": str(file)}, "text")
        assert (ran.outputs["analysis"] / "vocabulary.txt").read_bytes() == file.read_bytes()
        with pytest.raises(DataError, match=r"analyze\.data\.sha256 asks for 0000"):
            run(shards, tmp_path / "other", {"vocabulary": str(file), "sha256": "0" * 64}, "text")
        file.write_text("a\nb\n")
        with pytest.raises(DataError, match=r"vocab.txt is not a vocabulary of WordPiece: it lacks \[PAD\]"):
            run(shards, tmp_path / "another", {"vocabulary": str(file)}, "text")

    def test_without_their_column_are_refused_with_those_there_are(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, {"train.csv": as_csv(self.rows(8))})
        with pytest.raises(DataError, match=r"no column 'words': .*allowed: label, text"):
            run(shards, tmp_path / "task", {"column": "words"}, "text")


cells = st.one_of(
    st.none(),
    st.sampled_from(["1", "2.5", "-3e2", "NA", "x", "y", "2024-01-31"]),
    st.floats().map(str),
    st.text(max_size=3),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(cells, min_size=1, max_size=30), cut=st.integers(0, 30), random=st.randoms(use_true_random=False)
)
def test_any_column_is_learnt_the_same_in_any_order_and_in_any_parts(
    values: list[str | None], cut: int, random: Any
) -> None:
    def fitted(given: list[str | None], at: int) -> str:
        whole = pl.Series("c", given, dtype=pl.String)
        parts = [part for part in (whole[:at], whole[at:]) if len(part)]
        try:
            return json.dumps(fit_columns({"c": parts}, TabularData())[0], default=lambda one: one.model_dump())
        except DataError as error:
            return str(error)

    mixed = random.sample(values, len(values))
    assert fitted(mixed, cut) == fitted(values, 0)
