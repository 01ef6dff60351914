"""Answers about records as a table in parts, whose bytes do not depend on how many were asked about at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from millrace.errors import DataError
from millrace.runtime.answer_tables import AnswerWriter, answer_files, answer_table, confusions
from millrace.runtime.answers import predictions

CLASSES = ("cat", 'a "dog"', "öwl")


def answers(count: int, classes: int = 3) -> tuple[list[bytes], NDArray[np.int64], NDArray[np.float32]]:
    random = np.random.default_rng(7)
    uris = [f"s3://bucket/ü {index}.png".encode() for index in range(count)]
    return uris, random.integers(classes, size=count), random.dirichlet(np.ones(classes), count).astype(np.float32)


def write(folder: Path, count: int, at_once: int) -> Path:
    uris, labels, probabilities = answers(count)
    with AnswerWriter(folder, CLASSES) as writer:
        for begin in range(0, count, at_once):
            end = begin + at_once
            writer.add(uris[begin:end], labels[begin:end], probabilities[begin:end])
    return folder


def test_columns_are_those_of_an_answer_and_the_truth(tmp_path: Path) -> None:
    uris, labels, probabilities = answers(50)
    rows = answer_table(write(tmp_path / "answers", 50, 7)).collect().to_dicts()
    assert [row["uri"].encode() for row in rows] == uris
    told = predictions(probabilities, CLASSES)
    assert [{name: row[name] for name in told[0]} for row in rows] == told
    assert [row["probability"] for row in rows] == [max(one["probabilities"]) for one in told]
    assert [row["true_index"] for row in rows] == labels.tolist()
    assert [row["true_label"] for row in rows] == [CLASSES[label] for label in labels]
    assert [row["right"] for row in rows] == [one["index"] == label for one, label in zip(told, labels, strict=True)]
    assert 0 < sum(row["right"] for row in rows) < 50


def test_parts_have_the_same_bytes_however_many_were_asked_about_at_once(tmp_path: Path) -> None:
    few, many = (write(tmp_path / str(at_once), 140_000, at_once) for at_once in (997, 139_000))
    assert [file.name for file in answer_files(few)] == [f"answers-0000{part}.parquet" for part in range(3)]
    assert [pl.read_parquet(file).height for file in answer_files(few)] == [65_536, 65_536, 8_928]
    assert [file.read_bytes() for file in answer_files(few)] == [file.read_bytes() for file in answer_files(many)]
    assert answer_table(few).select("uri").collect()["uri"].to_list() == [uri.decode() for uri in answers(140_000)[0]]


def test_parts_of_many_classes_have_fewer_records(tmp_path: Path) -> None:
    uris, labels, probabilities = answers(25, 500_000)
    with AnswerWriter(tmp_path, [str(number) for number in range(500_000)]) as writer:
        writer.add(uris, labels, probabilities)
    assert [pl.read_parquet(file, columns=["uri"]).height for file in answer_files(tmp_path)] == [8, 8, 8, 1]


def test_a_folder_of_other_things_is_told(tmp_path: Path) -> None:
    (tmp_path / "cat.png.out").write_text("{}")
    with pytest.raises(DataError, match=r"has no answers: answers-\*.parquet is missing"):
        answer_table(tmp_path)


def test_confusions_name_the_most_confident(tmp_path: Path) -> None:
    table = answer_table(write(tmp_path / "answers", 300, 300))
    found = confusions(table, pairs=100, uris=2)
    wrong = [row for row in table.collect().to_dicts() if not row["right"]]
    assert sum(one.records for one in found) == len(wrong)
    assert [one.records for one in found] == sorted((one.records for one in found), reverse=True)
    assert len(found) == 6
    for one in found:
        same = [row for row in wrong if (row["true_label"], row["label"]) == (one.true, one.predicted)]
        same.sort(key=lambda row: -row["probability"])
        assert (one.records, one.uris) == (len(same), tuple(row["uri"] for row in same[:2]))
    assert confusions(table, pairs=2, uris=2) == found[:2]
