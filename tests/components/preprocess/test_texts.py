"""Records of texts: files, and columns of tables."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from millrace.components.analyze.spec import AnalyzeParameters, analyze
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.data.options import TextData
from millrace.errors import ConfigError, DataError
from millrace.runtime.datasets import load_arrays
from millrace.runtime.records import counts, read_records
from millrace.runtime.schemas import CHANNELS, TextRecords, read_records_schema
from millrace.runtime.texts import decode, read_vocabulary
from millrace.testing import Ran, run_component
from tests.components.chain import as_parquet, make_shards
from tests.components.preprocess.material import rejected
from tests.components.text_data import CLASSES, sentence, vocabulary
from tests.conftest import Bucket

Row = tuple[str, str]


def rows(each: int = 15, first: int = 0) -> list[Row]:
    """So many different texts of each of three classes."""
    return [(f"{sentence(label, n)} i{n}", CLASSES[label]) for label in range(3) for n in range(first, first + each)]


def as_csv(given: Sequence[Row], separator: str = ",", names: Row = ("text", "label")) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator).writerows([names, *given])
    return stream.getvalue().encode()


def as_lines(given: Sequence[Row]) -> bytes:
    return "".join(
        json.dumps({"id": n, "text": text, "label": label}) + "\n" for n, (text, label) in enumerate(given)
    ).encode()


def in_parquet(given: Sequence[Row]) -> bytes:
    return as_parquet(pl.DataFrame(given, schema=["text", "label"], orient="row"))


def data(**changes: Any) -> dict[str, Any]:
    return {"kind": "text", "vocabulary_size": 100, **changes}


def run(shards: Path, directory: Path, given: dict[str, Any], analysis: Path | None = None, **changes: Any) -> Ran:
    parameters = PreprocessParameters.model_validate({"data": given, **changes})
    if analysis is None:
        return run_component(preprocess, parameters, directory, shards=shards)
    return run_component(preprocess, parameters, directory, shards=shards, analysis=analysis)


def learn(shards: Path, directory: Path, given: dict[str, Any]) -> Path:
    parameters = AnalyzeParameters.model_validate({"data": given})
    return run_component(analyze, parameters, directory, shards=shards).outputs["analysis"]


def both(folder: Path, files: dict[str, bytes], given: dict[str, Any] | None = None, **listing: Any) -> Ran:
    """Analyzed and preprocessed."""
    shards = make_shards(folder, files, **listing)
    given = given or data()
    return run(shards, folder / "task", given, learn(shards, folder / "analyze", given))


def texts(ran: Ran) -> list[Row]:
    """Text and class of all records, as they tell them."""
    folder = ran.outputs["records"]
    schema = read_records_schema(folder)
    words = read_vocabulary((folder / "vocabulary.txt").read_bytes(), "")
    found: list[Row] = []
    for channel in CHANNELS:
        if counts(folder, channel):
            ids, labels = load_arrays(folder, channel)
            pairs = zip(ids.tolist(), labels.tolist(), strict=True)
            found += [(decode(row, words), schema.classes[label]) for row, label in pairs]
    return sorted(found)


class TestRecords:
    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.csv", as_csv(rows())), ("a.tsv", as_csv(rows(), "\t")), ("a.parquet", in_parquet(rows())),
         ("deep/a.jsonl", as_lines(rows())), ("b.CSV", b"\xef\xbb\xbf" + as_csv(rows(), ";"))],
        ids=["csv", "tsv", "parquet", "jsonl", "csv of another machine"],
    )  # fmt: skip
    def test_of_each_kind_of_table_hold_the_same(self, tmp_path: Path, name: str, content: bytes) -> None:
        ran = both(tmp_path, {name: content, "notes.txt": b"?"}, columns=["text"])
        assert texts(ran) == sorted(rows())
        assert rejected(ran) == {}

    def test_hold_quotes_commas_and_lines(self, tmp_path: Path) -> None:
        hard = [('say "hello",\nthen\r\n go', "a"), ("plain", "b")]
        ran = both(tmp_path, {"train.csv": as_csv(hard)}, split={"train": 1, "validation": 0, "test": 0})
        assert texts(ran) == [("plain", "b"), ('say " hello " , then go', "a")]

    def test_come_from_columns_of_other_names_and_types(self, tmp_path: Path) -> None:
        table = pl.DataFrame({"question": range(40), "intent": [1, 10] * 20})
        ran = both(
            tmp_path, {"t.parquet": as_parquet(table)}, data(column="question"),
            labels={"kind": "column", "column": "intent"}, split={"train": 1, "validation": 0, "test": 0},
        )  # fmt: skip
        assert sorted(int(text.replace(" ", "")) for text, _ in texts(ran)) == [*range(40)]
        assert read_records_schema(ran.outputs["records"]).classes == ("1", "10")

    def test_come_from_files(self, tmp_path: Path) -> None:
        given = {f"{label}/{n}.txt": f"{text}\n".encode() for n, (text, label) in enumerate(rows())}
        given["card/bom.txt"] = b"\xef\xbb\xbfa lost pin"
        ran = both(tmp_path, given, labels={"kind": "prefix"}, formats=["text"])
        assert texts(ran) == sorted([*rows(), ("a lost pin", "card")])
        record = next(read_records(ran.outputs["records"] / "train-00000-of-00002.tfrecord"))
        assert (tmp_path / "source").as_uri().encode() in record
        assert b"#row=" not in record

    def test_of_a_bucket_name_their_rows(self, tmp_path: Path, s3: Bucket) -> None:
        s3.put("some/train.csv", as_csv(rows()))
        here = both(tmp_path / "1", {"train.csv": as_csv(rows())})
        there = both(tmp_path / "2", {}, source=s3.uri("some"))
        assert texts(here) == texts(there)
        record = next(read_records(there.outputs["records"] / "train-00000-of-00002.tfrecord"))
        assert f"{s3.uri('some/train.csv')}#row=".encode() in record

    def test_are_in_the_order_of_their_shard(self, tmp_path: Path) -> None:
        files = {f"train/{n}.csv": as_csv(rows(3, first=10 * n)) for n in range(3)}
        shards = make_shards(tmp_path, files)
        ran = run(shards, tmp_path / "task", data(), learn(shards, tmp_path / "analyze", data()))
        for file in (shards / "shards").glob("*.parquet"):
            uris = pl.read_parquet(file)["uri"].to_list()
            made = list(read_records(ran.outputs["records"] / f"{file.stem}.tfrecord"))
            assert len(made) == len(uris)
            assert all(uri.encode() in record for uri, record in zip(uris, made, strict=True))


class TestVocabulary:
    def test_that_is_given_needs_no_analysis(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = tmp_path / "vocab.txt"
        file.write_bytes(vocabulary())
        digest = hashlib.sha256(vocabulary()).hexdigest()
        shards = make_shards(tmp_path, {"a.csv": as_csv(rows())}, shards=1)
        given = data(vocabulary=str(file), max_seq_length=8, truncation="start")
        with caplog.at_level("INFO"):
            ran = run(shards, tmp_path / "task", {**given, "sha256": digest})
        assert read_records_schema(ran.outputs["records"]) == TextRecords(
            max_seq_length=8, lower_case=True, truncation="start", vocabulary_size=33, vocabulary_sha256=digest,
            pad_id=0, classes=CLASSES,
        )  # fmt: skip
        assert (ran.outputs["records"] / "vocabulary.txt").read_bytes() == vocabulary()
        train = pl.read_parquet(shards / "shards" / "train-00000-of-00001.parquet")
        sizes = [len(rows()[row][0].split()) + 2 for row in train["row"]]
        longer = sum(size > 8 for size in sizes) / len(sizes)
        unknown = len(sizes) / sum(min(size, 8) for size in sizes)  # each ends with a word of its own
        assert f"{len(sizes)} texts: {longer:.2%} had more than 8 tokens and were cut, {unknown:.2%} of" in caplog.text
        with pytest.raises(DataError, match=rf"has SHA-256 {digest}, preprocess\.data\.sha256 asks for {'0' * 64}"):
            run(shards, tmp_path / "other", {**given, "sha256": "0" * 64})
        file.write_text("a\nb\n")
        with pytest.raises(DataError, match=r"vocab.txt is not a vocabulary of WordPiece: it lacks \[PAD\]"):
            run(shards, tmp_path / "another", given)

    def test_is_needed(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, {"a.csv": as_csv(rows())})
        with pytest.raises(ConfigError, match=r"texts need a vocabulary: set preprocess\.data\.vocabulary"):
            run(shards, tmp_path / "task", data())

    def test_of_an_analysis_with_other_options_is_refused(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, {"a.csv": as_csv(rows())})
        analysis = learn(shards, tmp_path / "analyze", data())
        with pytest.raises(
            ConfigError, match=r"preprocess\.data\.lower_case is False, analyze\.data\.lower_case was True"
        ):
            run(shards, tmp_path / "task", data(lower_case=False), analysis)
        (analysis / "vocabulary.txt").write_bytes(vocabulary())
        with pytest.raises(DataError, match="another vocabulary than the schema's"):
            run(shards, tmp_path / "again", data(), analysis)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"vocabulary": "s3://b/vocab.txt"}, "needs sha256"),
            ({"sha256": "0" * 64}, "give vocabulary as well"),
            ({"max_seq_length": 2}, "greater than or equal to 3"),
        ],
    )
    def test_options_that_contradict_are_refused(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            TextData.model_validate(given)


class TestRejects:
    def test_are_texts_that_cannot_be_taken(self, tmp_path: Path) -> None:
        file = tmp_path / "vocab.txt"
        file.write_bytes(vocabulary())
        table = pl.DataFrame(
            {
                "text": [*(text for text, _ in rows()), "x" * 100_001, " ", None],
                "more": [str(n) for n in range(48)],
                "label": [*(label for _, label in rows()), "card", "card", "card"],
            }
        )
        split = {"train": 1, "validation": 0, "test": 0}
        shards = make_shards(tmp_path, {"a.csv": table.write_csv().encode()}, split=split)
        given = data(vocabulary=str(file))
        ran = run(shards, tmp_path / "task", given, max_error_rate=0.1)
        assert rejected(ran) == {"a.csv#row=45": "too_long", "a.csv#row=46": "empty_text", "a.csv#row=47": "empty_text"}
        assert len(texts(ran)) == 45
        with pytest.raises(
            DataError, match=r"\d of the first \d+ objects were rejected .*max_error_rate=0.01 allows 1"
        ):
            run(shards, tmp_path / "strict", given)

    def test_are_files_that_changed_went_or_are_no_text(self, tmp_path: Path) -> None:
        file = tmp_path / "vocab.txt"
        file.write_bytes(vocabulary())
        given = {f"train/{label}/{n}.txt": text.encode() for n, (text, label) in enumerate(rows(4))}
        given["train/card/latin.txt"] = "caf\xe9".encode("latin-1")
        given["train/card/blank.txt"] = b" \n"
        listing: dict[str, Any] = {"labels": {"kind": "prefix"}, "formats": []}
        shards = make_shards(tmp_path, given, split={"train": 1, "validation": 0, "test": 0}, **listing)
        source = tmp_path / "source" / "train"
        (source / "card" / "0.txt").write_text("other")
        (source / "card" / "1.txt").unlink()
        ran = run(shards, tmp_path / "task", data(vocabulary=str(file)), max_error_rate=0.5)
        assert rejected(ran) == {
            "0.txt": "changed", "1.txt": "missing", "latin.txt": "not_utf8", "blank.txt": "empty_text"
        }  # fmt: skip
        assert len(texts(ran)) == 10

    def test_are_rows_that_changed_or_went(self, tmp_path: Path) -> None:
        file = tmp_path / "vocab.txt"
        file.write_bytes(vocabulary())
        split = {"train": 1, "validation": 0, "test": 0}
        shards = make_shards(tmp_path, {"a.csv": as_csv(rows(5))}, split=split)
        changed = rows(5)[:-2]
        changed[1] = ("other words", changed[1][1])
        (tmp_path / "source" / "a.csv").write_bytes(as_csv(changed))
        ran = run(shards, tmp_path / "task", data(vocabulary=str(file)), max_error_rate=0.5)
        assert rejected(ran) == {"a.csv#row=1": "changed", "a.csv#row=13": "missing", "a.csv#row=14": "missing"}

    def test_a_column_that_is_not_there_ends_the_task(self, tmp_path: Path) -> None:
        file = tmp_path / "vocab.txt"
        file.write_bytes(vocabulary())
        for name, content in {"a.csv": as_csv(rows()), "a.parquet": in_parquet(rows())}.items():
            shards = make_shards(tmp_path / name, {name: content})
            with pytest.raises(DataError, match=r"no column 'words'.* allowed: label, text"):
                run(shards, tmp_path / name / "task", data(vocabulary=str(file), column="words"))
