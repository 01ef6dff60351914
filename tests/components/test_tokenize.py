"""The tokenize component on tables of each kind."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from millrace.components.tokenize.spec import TokenizeParameters, tokenize
from millrace.errors import DataError, MillraceError
from millrace.runtime.datasets import load_arrays
from millrace.runtime.records import counts, read_records
from millrace.runtime.schemas import CHANNELS, Channel, TextRecords, read_records_schema
from millrace.runtime.texts import decode, read_vocabulary
from millrace.testing import Ran, run_component
from tests.components.text_data import CLASSES, sentence, vocabulary
from tests.conftest import Bucket

Row = tuple[str | None, str | None]


def rows(each: int = 30, first: int = 0) -> list[Row]:
    """So many different texts of each of three classes."""
    return [(f"{sentence(label, n)} i{n}", CLASSES[label]) for label in range(3) for n in range(first, first + each)]


def as_csv(given: Sequence[Row], names: Row = ("text", "label"), separator: str = ",") -> bytes:
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator).writerows([names, *given])
    return stream.getvalue().encode()


def as_lines(given: Sequence[Row]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text, "label": label}) + "\n" for text, label in given).encode()


def as_parquet(given: Sequence[Row]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(given, schema=["text", "label"], orient="row").write_parquet(stream)
    return stream.getvalue()


def run(tmp_path: Path, files: dict[str, bytes], task: str = "task", **parameters: Any) -> Ran:
    source = tmp_path / "source"
    for key, content in files.items():
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / key).write_bytes(content)
    given = {"source": str(source), "vocabulary_size": 100, **parameters}
    return run_component(tokenize, TokenizeParameters.model_validate(given), tmp_path / task)


def texts(ran: Ran, channel: Channel) -> dict[str, tuple[str, str]]:
    """Text and class by row, as the record files tell them."""
    folder = ran.outputs["records"]
    schema = read_records_schema(folder)
    words = read_vocabulary((folder / "vocabulary.txt").read_bytes(), "")
    if not counts(folder, channel):
        return {}
    ids, labels = load_arrays(folder, channel)
    return {
        f"{channel}{index}": (decode(row.tolist(), words), schema.classes[label])
        for index, (row, label) in enumerate(zip(ids, labels.tolist(), strict=True))
    }


def digests(ran: Ran) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in ran.outputs["records"].iterdir()}


class TestTables:
    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.csv", as_csv(rows())), ("a.tsv", as_csv(rows(), separator="\t")), ("a.parquet", as_parquet(rows())),
         ("deep/a.jsonl", as_lines(rows())), ("b.CSV", b"\xef\xbb\xbf" + as_csv(rows()))],
        ids=["csv", "tsv", "parquet", "jsonl", "csv of another machine"],
    )  # fmt: skip
    def test_of_each_kind_hold_the_same(self, tmp_path: Path, name: str, content: bytes) -> None:
        ran = run(tmp_path, {name: content, "notes.txt": b"?", "._a.csv": b"\x00"})
        found = [pair for channel in CHANNELS for pair in texts(ran, channel).values()]
        assert sorted(found) == sorted((text, label) for text, label in rows() if text and label)
        assert (ran.metrics["texts"], ran.metrics["classes"], ran.metrics["rejected"]) == (90, 3, 0)

    def test_values_may_hold_quotes_commas_and_lines(self, tmp_path: Path) -> None:
        hard: list[Row] = [('say "hello",\nthen\r\n go', "a"), ("plain", "b")]
        ran = run(tmp_path, {"train.csv": as_csv(hard)}, split={"train": 1, "validation": 0, "test": 0})
        assert sorted(texts(ran, "train").values()) == [("plain", "b"), ('say " hello " , then go', "a")]

    def test_columns_may_have_other_names_and_types(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        pl.DataFrame({"question": ["x", "y"] * 20, "intent": [1, 10] * 20}).write_parquet(stream)
        split = {"train": 1, "validation": 0, "test": 0}
        ran = run(tmp_path, {"t.parquet": stream.getvalue()}, text="question", label="intent", split=split)
        assert read_records_schema(ran.outputs["records"]).classes == ("1", "10")

    def test_without_a_column_are_refused_with_those_there_are(self, tmp_path: Path) -> None:
        for number, (name, content) in enumerate({"a.csv": as_csv(rows()), "a.jsonl": as_lines(rows())}.items()):
            with pytest.raises(
                DataError, match=r"no column 'category'; it has: .*'text', 'label'.* set tokenize\.label"
            ):
                run(tmp_path / str(number), {name: content}, label="category")

    @pytest.mark.parametrize(
        "content", [b"text,label\n\xff\xfe,b\n", b'text,label\n"a,b\n', b"text,label\na,b,c\n", b""]
    )
    def test_that_are_damaged_are_named(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(DataError, match=r"source/a\.csv can't be read as csv in UTF-8: "):
            run(tmp_path, {"a.csv": content})

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
    def test_in_another_encoding_are_refused(self, tmp_path: Path, encoding: str) -> None:
        with pytest.raises(DataError, match=r"source/a\.csv is UTF-16, UTF-8 is needed"):
            run(tmp_path, {"a.csv": as_csv(rows()).decode().encode(encoding)})

    def test_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no tables of texts at .*the first of 1 keys there is 'a.txt'"):
            run(tmp_path, {"a.txt": b"?"})
        with pytest.raises(MillraceError, match=r"set tokenize\.source"):
            run_component(tokenize, TokenizeParameters(), tmp_path / "none")

    def test_come_from_a_dataset_a_file_or_a_bucket(self, tmp_path: Path, s3: Bucket) -> None:
        parameters = TokenizeParameters(vocabulary_size=100)
        (tmp_path / "data").mkdir()
        file = tmp_path / "data" / "all.csv"
        file.write_bytes(as_csv(rows()))
        s3.put("some/all.csv", file.read_bytes())
        of_dataset = run_component(tokenize, parameters, tmp_path / "1", dataset=tmp_path / "data")
        of_file = run_component(tokenize, parameters.model_copy(update={"source": str(file)}), tmp_path / "2")
        assert digests(of_dataset) == digests(of_file)
        for number, uri in enumerate((s3.uri("some"), s3.uri("some/all.csv"))):
            of_bucket = run_component(tokenize, parameters.model_copy(update={"source": uri}), tmp_path / f"s{number}")
            record = next(read_records(of_bucket.outputs["records"] / "train-00000-of-00004.tfrecord"))
            assert f"{s3.uri('some/all.csv')}#row=".encode() in record
            assert texts(of_bucket, "test") == texts(of_file, "test")


class TestChannels:
    def test_files_keep_theirs_and_validation_is_split_off(self, tmp_path: Path) -> None:
        given = {"train.csv": as_csv(rows(40)), "test/part.csv": as_csv(rows(5, first=100))}
        ran = run(tmp_path, given)
        assert {name: ran.metrics[name] for name in CHANNELS} | {"test": 15} == {
            "train": 120 - ran.metrics["validation"], "validation": ran.metrics["validation"], "test": 15,
        }  # fmt: skip
        assert 3 <= ran.metrics["validation"] <= 30
        assert {int(text.rpartition(" i")[2]) for text, _ in texts(ran, "test").values()} == {*range(100, 105)}

    def test_never_share_a_text(self, tmp_path: Path) -> None:
        """Equal texts of one table, texts of train that are in test too, and other spaces and capitals."""
        twice: list[Row] = [(f"  {str(text).upper()}\n", label) for text, label in rows()]
        files = {"train.csv": as_csv(rows() + twice), "test.csv": as_csv(rows(3) + rows(2, first=50))}
        ran = run(tmp_path, files)
        found = {channel: {text for text, _ in texts(ran, channel).values()} for channel in CHANNELS}
        assert not found["train"] & found["validation"]
        assert not found["test"] & (found["train"] | found["validation"])
        assert (ran.metrics["leaks"], ran.metrics["duplicates"], ran.metrics["test"]) == (18, 81, 15)
        rejects = pl.read_parquet(ran.outputs["rejects"] / "rejects.parquet")
        assert set(rejects["reason"]) == {"leak"}
        assert all("train.csv#row=" in uri for uri in rejects["uri"])

    def test_of_a_text_stay_when_others_are_added(self, tmp_path: Path) -> None:
        split = {"minimum": 0}
        few = run(tmp_path, {"a.csv": as_csv(rows(20))}, "few", split=split)
        many = run(tmp_path, {"a.csv": as_csv(rows(20) + rows(20, first=40))}, "many", split=split)
        for channel in CHANNELS:
            before = {text for text, _ in texts(few, channel).values()}
            assert before <= {text for text, _ in texts(many, channel).values()}

    def test_have_the_least_of_each_class(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"a.csv": as_csv(rows(8))}, split={"minimum": 2})
        for channel in CHANNELS:
            per_class = [label for _, label in texts(ran, channel).values()]
            assert min(per_class.count(name) for name in CLASSES) >= 2, channel
        with pytest.raises(DataError, match=r"class '\w+' has 1 texts for test, at least 2 .* tokenize.split.minimum"):
            run(tmp_path, {"a.csv": as_csv(rows(5))}, "small", split={"minimum": 2})

    def test_need_texts_to_train_on(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="files of test but no texts to train on"):
            run(tmp_path, {"test.csv": as_csv(rows())})

    def test_of_files_must_be_clear(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"other.csv lies beside train files .*tokenize.exclude"):
            run(tmp_path, {"train.csv": as_csv(rows()), "other.csv": as_csv(rows())})
        with pytest.raises(DataError, match=r"test/train.csv is a file of train and of test"):
            run(tmp_path / "b", {"test/train.csv": as_csv(rows())})


class TestRecords:
    def test_are_dealt_evenly_and_counted(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"train.csv": as_csv(rows(11)), "test.csv": as_csv(rows(1, first=90))}, shards=4)
        folder = ran.outputs["records"]
        train = counts(folder, "train")
        assert max(item.records for item in train) - min(item.records for item in train) <= 1
        assert (
            sum(item.records for item in train) == ran.metrics["train"] == sum(sum(i.by_class.values()) for i in train)
        )
        assert [item.records for item in counts(folder, "test")] == [1, 1, 1]

    def test_have_the_given_vocabulary(self, tmp_path: Path) -> None:
        file = tmp_path / "vocab.txt"
        file.write_bytes(vocabulary())
        digest = hashlib.sha256(vocabulary()).hexdigest()
        given: dict[str, Any] = {"vocabulary": str(file), "max_seq_length": 8, "truncation": "start"}
        ran = run(tmp_path, {"a.csv": as_csv(rows())}, sha256=digest, **given)
        schema = read_records_schema(ran.outputs["records"])
        assert schema == TextRecords(
            max_seq_length=8, lower_case=True, truncation="start", vocabulary_size=33, vocabulary_sha256=digest,
            pad_id=0, classes=CLASSES,
        )  # fmt: skip
        assert (ran.outputs["records"] / "vocabulary.txt").read_bytes() == vocabulary()
        assert 0.1 < ran.metrics["unknown"] < 0.3  # each text ends with a word of its own
        sizes = [len(text.split()) + 2 for text, _ in rows() if text]
        assert sizes.count(8) > 0
        assert ran.metrics["truncated"] == pytest.approx(sum(size > 8 for size in sizes) / 90)
        with pytest.raises(DataError, match=f"has SHA-256 {digest}, tokenize.sha256 asks for {'0' * 64}"):
            run(tmp_path, {}, "other", sha256="0" * 64, **given)
        file.write_text("a\nb\n")
        with pytest.raises(DataError, match=r"vocab.txt is not a vocabulary of WordPiece: it lacks \[PAD\]"):
            run(tmp_path, {}, "another", **given)

    def test_and_the_vocabulary_that_is_built_are_the_same_bytes_in_another_process(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"train.csv": as_csv(rows()), "test.csv": as_csv([("zebra", "card")])}, "here")
        words = read_vocabulary((ran.outputs["records"] / "vocabulary.txt").read_bytes(), "")
        assert len(words) == 100 == len(set(words))
        assert {"t", "##t", "is"} <= set(words)
        assert not {"z", "##z"} & set(words), "of training texts only"
        script = (
            "import sys; from pathlib import Path; from millrace.testing import run_component\n"
            "from millrace.components.tokenize.spec import *\n"
            "parameters = TokenizeParameters(source=sys.argv[1], vocabulary_size=100)\n"
            "run_component(tokenize, parameters, Path(sys.argv[2]))"
        )
        there = tmp_path / "there"
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "source"), str(there)], check=True)
        again = Ran({"records": there / ran.outputs["records"].relative_to(tmp_path / "here")}, {}, {})
        assert digests(again) == digests(ran)


class TestRejects:
    BAD: Sequence[Row] = ((None, "card"), (" \n", "card"), ("hello", None), ("hello", " "), ("x" * 100_001, "card"))

    def test_are_told_up_to_a_rate(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"a.csv": as_csv([*self.BAD, *rows()])}, max_error_rate=0.05)
        table = pl.read_parquet(ran.outputs["rejects"] / "rejects.parquet")
        assert table["reason"].to_list() == ["empty_text", "empty_text", "no_label", "no_label", "too_long"]
        assert table["uri"][4] == (tmp_path / "source" / "a.csv").as_uri() + "#row=4"
        assert (ran.metrics["rejected"], ran.metrics["texts"]) == (5, 90)

    def test_over_the_rate_fail_the_task(self, tmp_path: Path) -> None:
        message = (
            r"(?s)5 of 95 rows were rejected \(2 empty_text, 2 no_label, 1 too_long\); max_error_rate=0.01 allows 1"
        )
        with pytest.raises(DataError, match=message):
            run(tmp_path, {"a.csv": as_csv([*self.BAD, *rows()])})

    def test_hold_labels_that_are_not_asked_for(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"a.csv": as_csv(rows())}, classes=["weather", "card"], max_error_rate=0.4)
        assert read_records_schema(ran.outputs["records"]).classes == ("weather", "card")
        assert {label for _, label in texts(ran, "train").values()} == {"weather", "card"}
        assert ran.metrics["rejected"] == 30

    def test_leave_two_classes_at_least(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="only one class, 'card'"):
            run(tmp_path, {"a.csv": as_csv([("a", "card"), ("b", "card")])})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocabulary": "s3://b/vocab.txt"}, "needs sha256"),
        ({"sha256": "0" * 64}, "give vocabulary as well"),
        ({"split": {"train": 0.5}}, "must add up to 1"),
        ({"classes": ["a", "a"]}, "twice"),
    ],
)
def test_parameters_that_contradict_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenizeParameters.model_validate(given)
