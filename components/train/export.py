"""The saved forms of a model: `model.keras`, `saved_model/` and `model.json`, the same bytes each time."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from millrace.runtime.schemas import ImageRecords, ModelCard
from millrace.runtime.task import write_atomically

__all__ = ["export"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip archive can hold


def export(model: Any, name: str, schema: ImageRecords, folder: Path) -> ModelCard:
    """Write all forms of a float32 model into `folder`.

    `saved_model/` has two signatures: `serving_default` takes encoded images, `pixels` takes uint8
    [N, H, W, C]; both give labels, probabilities and the class names.
    """
    keras_file = folder / "model.keras"
    model.save(keras_file)
    _without_clock(keras_file)
    _saved_model(model, schema, folder / "saved_model")
    card = ModelCard(
        format="keras",
        name=name,
        records=schema,
        parameters=model.count_params(),
        bytes=keras_file.stat().st_size,
    )
    write_atomically(folder / "model.json", card.model_dump_json(indent=2) + "\n")
    return card


def _saved_model(model: Any, schema: ImageRecords, folder: Path) -> None:
    shape = (schema.height, schema.width, schema.channels)

    def answer(images: Any) -> dict[str, Any]:
        probabilities = model(images, training=False)
        names = tf.constant(schema.classes)
        return {
            "labels": tf.gather(names, tf.argmax(probabilities, axis=-1)),
            "probabilities": probabilities,
            "classes": tf.tile(names[None], [tf.shape(probabilities)[0], 1]),
        }

    def pixels(images: Any) -> dict[str, Any]:
        return answer(tf.cast(images, tf.float32))

    def encoded(images: Any) -> dict[str, Any]:
        signature = tf.TensorSpec(shape, tf.uint8)
        return pixels(tf.map_fn(lambda image: _decode(image, schema), images, fn_output_signature=signature))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", encoded, [tf.TensorSpec([None], tf.string, name="images")])
    archive.add_endpoint("pixels", pixels, [tf.TensorSpec([None, *shape], tf.uint8, name="images")])
    archive.write_out(str(folder), verbose=False)
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # holds a random number


def _decode(encoded: Any, schema: ImageRecords) -> Any:
    """One encoded image as uint8 [H, W, C], brought to size as `preprocess` does it."""
    image = tf.io.decode_image(encoded, channels=schema.channels, expand_animations=False)
    image.set_shape([None, None, schema.channels])
    height, width = schema.height, schema.width
    fits = tf.reduce_all(tf.equal(tf.shape(image)[:2], [height, width]))
    return tf.cond(fits, lambda: tf.ensure_shape(image, [height, width, schema.channels]), lambda: _resize(image, schema))


def _resize(image: Any, schema: ImageRecords) -> Any:
    size = tf.constant([schema.height, schema.width])
    if schema.resize == "pad":
        resized = tf.image.resize_with_pad(image, schema.height, schema.width, antialias=True)
    elif schema.resize == "stretch":
        resized = tf.image.resize(image, size, antialias=True)
    else:
        given = tf.cast(tf.shape(image)[:2], tf.float64)
        scale = tf.reduce_max(tf.cast(size, tf.float64) / given)
        covering = tf.maximum(tf.cast(tf.round(given * scale), tf.int32), size)
        resized = tf.image.resize(image, covering, antialias=True)
        resized = tf.image.resize_with_crop_or_pad(resized, schema.height, schema.width)
    rounded = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    return tf.ensure_shape(rounded, [schema.height, schema.width, schema.channels])


def _without_clock(path: Path) -> None:
    """Write a `.keras` archive again without the times in it."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in sorted(archive.namelist())}
    metadata = json.loads(contents["metadata.json"])
    metadata.pop("date_saved", None)
    contents["metadata.json"] = json.dumps(metadata).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
