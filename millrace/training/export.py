"""The saved forms of a model: `model.keras`, `saved_model/` and `model.json`, the same bytes each time."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from millrace.runtime.schemas import VOCABULARY, ImageRecords, ModelCard, RecordsSchema, TabularRecords, TextRecords
from millrace.runtime.task import write_atomically

__all__ = ["export"]

_Answer = Callable[[Any], dict[str, Any]]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip archive can hold


def export(model: Any, name: str, schema: RecordsSchema, folder: Path, records: Path | None = None) -> ModelCard:
    """Write all forms of a float32 model into `folder`.

    `saved_model/` has two signatures, which give labels, probabilities and the class names. Of images
    `serving_default` takes encoded ones, `pixels` takes uint8 [N, H, W, C]; of texts `serving_default` and
    `tokens` take int32 token ids [N, L]; of rows `serving_default` and `features` take float32 features [N, F].

    Args:
        model: A Keras model.
        name: Of its architecture.
        schema: Of the records that it was trained on.
        folder: Where it is written.
        records: The Records artifact, whose vocabulary a model of texts is saved with.
    """
    if records is not None and isinstance(schema, TextRecords):
        shutil.copyfile(records / VOCABULARY, folder / VOCABULARY)
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


def _saved_model(model: Any, schema: RecordsSchema, folder: Path) -> None:
    def answer(examples: Any) -> dict[str, Any]:
        probabilities = model(examples, training=False)
        names = tf.constant(schema.classes)
        count: Any = tf.shape(probabilities)[0]
        return {
            "labels": tf.gather(names, tf.argmax(probabilities, axis=-1)),
            "probabilities": probabilities,
            "classes": tf.tile(names[None], [count, 1]),
        }

    module: Any = tf.Module(name=model.name)
    # keras.export.ExportArchive orders variables by memory address, so its bytes differ each time
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(folder), _signatures(answer, schema))
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # holds a random number


def _signatures(answer: _Answer, schema: RecordsSchema) -> dict[str, Any]:
    if isinstance(schema, ImageRecords):
        return _of_images(answer, schema)
    name = "features" if isinstance(schema, TabularRecords) else "tokens"
    function = tf.function(answer, [tf.TensorSpec([None, *schema.shape], schema.dtype, name=name)])
    return {"serving_default": function, name: function}


def _of_images(answer: _Answer, schema: ImageRecords) -> dict[str, Any]:
    def pixels(images: Any) -> dict[str, Any]:
        return answer(tf.cast(images, tf.float32))

    def encoded(images: Any) -> dict[str, Any]:
        signature = tf.TensorSpec(schema.shape, tf.uint8)
        return pixels(tf.map_fn(lambda image: _decode(image, schema), images, fn_output_signature=signature))

    return {
        "serving_default": tf.function(encoded, [tf.TensorSpec([None], tf.string, name="images")]),
        "pixels": tf.function(pixels, [tf.TensorSpec([None, *schema.shape], tf.uint8, name="images")]),
    }


def _decode(encoded: Any, schema: ImageRecords) -> Any:
    """One encoded image as uint8 [H, W, C], brought to size as `millrace.runtime.images` does it.

    TensorFlow's decoders do not read the orientation in EXIF data; the rest is the same but for rounding.
    """
    image = tf.io.decode_image(encoded, channels=0, expand_animations=False)
    image.set_shape([None, None, None])
    colours = _coloured(_opaque(tf.cast(image, tf.float32)), schema.channels)
    fits = tf.reduce_all(tf.equal(tf.shape(image)[:2], [schema.height, schema.width]))
    sized = tf.cond(fits, lambda: colours, lambda: _resize(colours, schema))
    pixels = tf.cast(tf.clip_by_value(tf.round(sized), 0, 255), tf.uint8)
    return tf.ensure_shape(pixels, [schema.height, schema.width, schema.channels])


def _opaque(image: Any) -> Any:
    """Grey or RGB; what shows through is white."""
    channels: Any = tf.shape(image)[2]
    colours = channels - (channels + 1) % 2  # an even number of channels has alpha as the last
    alpha = tf.cond(channels > colours, lambda: image[..., colours:] / 255, lambda: tf.ones_like(image[..., :1]))
    return image[..., :colours] * alpha + 255 * (1 - alpha)


def _coloured(image: Any, channels: int) -> Any:
    grey = tf.equal(tf.shape(image)[2], 1)
    if channels == 3:
        return tf.ensure_shape(tf.cond(grey, lambda: tf.tile(image, [1, 1, 3]), lambda: image), [None, None, 3])
    luma = tf.constant([0.299, 0.587, 0.114])
    mixed = tf.cond(grey, lambda: image, lambda: tf.reduce_sum(image * luma, axis=2, keepdims=True))
    return tf.ensure_shape(mixed, [None, None, 1])


def _resize(image: Any, schema: ImageRecords) -> Any:
    size = tf.constant([schema.height, schema.width], tf.float32)
    given = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = size / given
    if schema.resize == "crop":
        scale = tf.fill([2], tf.reduce_max(scale))
    if schema.resize == "pad":
        inner = tf.maximum(1.0, tf.round(given * tf.reduce_min(scale)))
        scale, offset = inner / given, tf.floor((size - inner) / 2)
    else:
        offset = (size - given * scale) / 2
    return tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[schema.height, schema.width],
        scale=scale,
        translation=offset,
        kernel_type="keyscubic",
        antialias=True,
    )[0]


def _without_clock(path: Path) -> None:
    """Write a `.keras` archive again without the times and memory addresses in it."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in sorted(archive.namelist())}
    metadata = json.loads(contents["metadata.json"])
    metadata.pop("date_saved", None)
    contents["metadata.json"] = json.dumps(metadata).encode()
    contents["config.json"] = _renumbered(contents["config.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)


def _renumbered(config: bytes) -> bytes:
    """Keras marks what layers share by its memory address: count instead."""
    numbers: dict[bytes, int] = {}
    return re.sub(
        rb'("shared_object_id": )(\d+)',
        lambda match: match[1] + str(numbers.setdefault(match[2], len(numbers) + 1)).encode(),
        config,
    )
