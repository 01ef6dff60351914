"""Record files as tf.data datasets and arrays."""

from __future__ import annotations

import io
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from millrace.errors import DataError
from millrace.runtime.datasets import decode_records, decoded_dataset, load_arrays, record_dataset, total_records
from millrace.runtime.records import ImageRecord, TextRecord
from millrace.runtime.schemas import ImageRecords, read_records_schema
from millrace.testing import write_records
from tests.components.text_data import LENGTH, sentence, text_schema, tokens, write_text_records
from tests.pictures import saved

HEIGHT, WIDTH = 6, 9


def picture(number: int, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    ramp = np.arange(HEIGHT * WIDTH * channels).reshape(HEIGHT, WIDTH, channels)
    return ((ramp + 10 * number) % 251).astype(np.uint8)


def encode(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], encoding: str) -> bytes:
    if encoding == "raw":
        return pixels.tobytes()
    return saved(Image.fromarray(pixels.squeeze()), encoding, **({"quality": 95} if encoding == "jpeg" else {}))


def make_records(
    folder: Path, shards: tuple[int, ...], encoding: Literal["png", "jpeg", "raw"] = "png", channels: Literal[1, 3] = 3
) -> Path:
    """Record files of consecutively numbered pictures, labelled with their number."""
    classes = tuple(f"class {number}" for number in range(max(sum(shards), 1)))
    schema = ImageRecords(
        height=HEIGHT, width=WIDTH, channels=channels, encoding=encoding, resize="crop", classes=classes
    )
    files = [
        [ImageRecord(encode(picture(number, channels), encoding), number, f"file:///{number}") for number in some]
        for some in (range(end - size, end) for size, end in zip(shards, accumulate(shards), strict=True))
    ]
    return write_records(folder, schema, {"train": files})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_lossless_pictures_come_back_exactly(
    tmp_path: Path, encoding: Literal["png", "raw"], channels: Literal[1, 3]
) -> None:
    records = make_records(tmp_path, (3, 4), encoding, channels)
    images, labels = load_arrays(records, "train")
    assert labels.tolist() == list(range(7))
    np.testing.assert_array_equal(images, [picture(number, channels) for number in range(7)])


def test_jpeg_is_decoded_as_pillow_does(tmp_path: Path) -> None:
    records = make_records(tmp_path, (4,), "jpeg", 1)
    images, _ = load_arrays(records, "train")
    for number, image in enumerate(images):
        with Image.open(io.BytesIO(encode(picture(number, 1), "jpeg"))) as expected:
            np.testing.assert_allclose(image[..., 0].astype(int), np.asarray(expected, int), atol=1)


def test_elements_have_a_fixed_type_and_a_known_number(tmp_path: Path) -> None:
    dataset = decoded_dataset(make_records(tmp_path, (3, 4)), "train", with_uri=True)
    image, label, uri = dataset.element_spec
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), tf.uint8)
    assert (label.shape, label.dtype, uri.dtype) == ((), tf.int64, tf.string)
    assert len(dataset) == 7
    assert [uri.decode() for _, _, uri in dataset.as_numpy_iterator()] == [f"file:///{number}" for number in range(7)]


def test_order_is_that_of_the_files_asked_for(tmp_path: Path) -> None:
    records = make_records(tmp_path, (2, 0, 3, 2))
    files = ["train-00003-of-00004.tfrecord", "train-00001-of-00004.tfrecord", "train-00000-of-00004.tfrecord"]
    labels = [int(label) for _, label in decoded_dataset(records, "train", files=files).as_numpy_iterator()]
    assert labels == [5, 6, 0, 1]
    assert total_records(records, "train", files=files) == 4
    assert total_records(records, "train") == 7
    assert total_records(records, "validation") == 0


def test_an_epoch_can_be_shuffled_and_entered_in_the_middle(tmp_path: Path) -> None:
    records = make_records(tmp_path, (20, 20))
    schema = read_records_schema(records)

    def labels(skip: int) -> list[int]:
        shuffled = record_dataset(records, "train").shuffle(40, seed=5, reshuffle_each_iteration=False)
        return [int(label) for _, label in decode_records(shuffled.skip(skip), schema).as_numpy_iterator()]

    whole = labels(0)
    assert sorted(whole) == list(range(40))
    assert whole != list(range(40))
    assert labels(17) == whole[17:]


def test_limit_takes_the_first(tmp_path: Path) -> None:
    records = make_records(tmp_path, (3, 4))
    assert load_arrays(records, "train", limit=5)[1].tolist() == list(range(5))
    assert load_arrays(records, "train", limit=50)[0].shape == (7, HEIGHT, WIDTH, 3)


def test_a_channel_without_records_is_refused(tmp_path: Path) -> None:
    records = make_records(tmp_path, (0, 0))
    with pytest.raises(DataError, match="channel 'validation' has no records"):
        decoded_dataset(records, "validation")
    with pytest.raises(DataError, match="channel 'train' has no records"):
        load_arrays(records, "train")


def test_an_unknown_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file 'train-1': allowed: train-00000-of-00001\.tfrecord"):
        decoded_dataset(make_records(tmp_path, (1,)), "train", files=["train-1"])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    records = make_records(tmp_path, (5,))
    file = records / "train-00000-of-00001.tfrecord"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="channel 'train' can't be read: corrupted record"):
        load_arrays(records, "train")


def test_pictures_of_another_size_than_the_schemas_are_refused(tmp_path: Path) -> None:
    records = make_records(tmp_path, (5,))
    schema = read_records_schema(records).model_copy(update={"height": 7})
    (records / "schema.json").write_text(schema.model_dump_json())
    with pytest.raises(DataError, match="can't be read"):
        load_arrays(records, "train")


class TestTexts:
    def test_are_padded_in_order_with_their_uri(self, tmp_path: Path) -> None:
        records = write_text_records(tmp_path)
        ids, labels = load_arrays(records, "train")
        assert (str(ids.dtype), ids.shape, labels.shape) == ("int32", (64, LENGTH), (64,))
        expected = tokens(sentence(0, 0))
        assert ids[0].tolist() == expected + [0] * (LENGTH - len(expected))
        _, label, uri = next(decoded_dataset(records, "test", with_uri=True).as_numpy_iterator())
        assert (label, uri) == (0, b"file:///test.csv#row=36")

    @pytest.mark.parametrize("count", [0, LENGTH + 1])
    def test_of_a_wrong_length_are_damage(self, tmp_path: Path, count: int) -> None:
        records = write_text_records(tmp_path, train=(1, 0, 0))
        wrong = TextRecord([2] * count, 0, "file:///x")
        write_records(records, text_schema(), {"train": [[wrong], []]})
        with pytest.raises(DataError, match=rf"a record has tokens:\] \[{count}\].*; make the records anew$"):
            load_arrays(records, "train")
