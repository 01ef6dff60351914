"""Networks by name. They take float pixels of 0 to 255, tokens of texts or features of rows, and give probabilities."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from millrace.errors import ConfigError, DataError
from millrace.runtime.schemas import ImageRecords, RecordsSchema, TabularRecords, TextRecords
from millrace.runtime.storage import read
from millrace.training.bert import bert_features, load_bert
from millrace.training.options.images import Pixels
from millrace.training.options.models import Application, Bert, Cnn, Custom, Mlp, ModelChoice
from millrace.training.parameters import TrainParameters

__all__ = ["Statistics", "build_model", "load_pretrained"]

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and variance of each colour channel on the 0 to 255 scale."""

_BACKBONE = "backbone"
_MOMENTUM = 0.9  # the default, 0.99, needs hundreds of steps before validation means anything
layers = keras.layers


def build_model(
    parameters: TrainParameters,
    schema: RecordsSchema,
    *,
    policy: str,
    statistics: Statistics | None = None,
) -> Any:
    """A new network with weights drawn from `parameters.seed`, made of stock Keras layers.

    Args:
        parameters: Which network.
        schema: Gives the input size and the classes.
        policy: Keras dtype policy; inputs and probabilities are float32 under each.
        statistics: Of the training images, for featurewise normalisation.

    Raises:
        ConfigError: When the network can't take what the records hold, or its function can't be used.
    """
    keras.utils.clear_session()  # layer names count up from the same start each time
    keras.utils.set_random_seed(parameters.seed + 1)  # tf.data can't combine a global seed of 0 with its own
    keras.config.set_dtype_policy(policy)
    try:
        match schema:
            case ImageRecords():
                inputs, outputs = _of_pictures(parameters, schema, statistics)
            case TextRecords():
                inputs, outputs = _of_texts(parameters, schema)
            case TabularRecords():
                inputs, outputs = _of_rows(parameters, schema)
        return keras.Model(inputs, outputs, name=parameters.model.kind)
    finally:
        keras.config.set_dtype_policy("float32")


def _of_texts(parameters: TrainParameters, schema: TextRecords) -> tuple[Any, Any]:
    """Input and output of a network for texts."""
    model = parameters.model
    if not isinstance(model, Bert):
        raise ConfigError(f"model.kind={model.kind} is not for texts, which the records hold: use model.kind=bert")
    shape = schema.shape if parameters.buckets is None else (None,)
    tokens = keras.Input(shape, name="tokens", dtype="int32")
    return tokens, _probabilities(bert_features(model, tokens, schema), len(schema.classes))


def _of_rows(parameters: TrainParameters, schema: TabularRecords) -> tuple[Any, Any]:
    """Input and output of a network for rows of tables."""
    model, classes = parameters.model, len(schema.classes)
    features = keras.Input(schema.shape, name="features", dtype="float32")
    if isinstance(model, Mlp):
        return features, _probabilities(_mlp(model, features), classes)
    if isinstance(model, Custom):
        return features, _custom(model, features, classes)
    raise ConfigError(
        f"model.kind={model.kind} is not for rows of tables, which the records hold: use model.kind=mlp or custom"
    )


def _of_pictures(parameters: TrainParameters, schema: ImageRecords, statistics: Statistics | None) -> tuple[Any, Any]:
    """Input and output of a network for pictures."""
    model, classes = parameters.model, len(schema.classes)
    if isinstance(model, Bert):
        raise ConfigError(
            "model.kind=bert is a network for texts, the records hold pictures: use cnn, mlp, application or custom"
        )
    pixels = keras.Input(schema.shape, name="pixels", dtype="float32")
    if isinstance(model, Application):
        return pixels, _probabilities(_application(model, pixels), classes)
    scaled = _scaled(parameters.pixels, pixels, statistics)
    if isinstance(model, Custom):
        return pixels, _custom(model, scaled, classes)
    features = _cnn(model, scaled, schema) if isinstance(model, Cnn) else _mlp(model, scaled)
    return pixels, _probabilities(features, classes)


def _probabilities(features: Any, classes: int) -> Any:
    return layers.Activation("softmax", dtype="float32", name="probabilities")(
        layers.Dense(classes, name="logits")(features)
    )


def _scaled(pixels: Pixels, inputs: Any, statistics: Statistics | None) -> Any:
    scaled = layers.Rescaling(pixels.rescale, name="rescale")(inputs)
    if pixels.normalise == "samplewise":
        # without its own scale and centre this is (image - mean) / deviation
        every: Any = (1, 2, 3)
        return layers.LayerNormalization(axis=every, center=False, scale=False, epsilon=1e-6)(scaled)
    if pixels.normalise == "featurewise":
        if statistics is None:
            raise ConfigError("pixels.normalise=featurewise needs the statistics of the training images")
        mean, variance = statistics
        return layers.Normalization(
            mean=(mean * pixels.rescale).tolist(), variance=(variance * pixels.rescale**2).tolist()
        )(scaled)
    return scaled


def _cnn(model: Cnn, x: Any, schema: ImageRecords) -> Any:
    stages = model.filters or _stages(max(schema.height, schema.width))
    smallest = 2 ** len(stages)
    if min(schema.height, schema.width) < smallest:
        raise ConfigError(
            f"model.filters has {len(stages)} stages, which need images of {smallest}x{smallest} at least; "
            f"the records have {schema.height}x{schema.width}: use fewer stages or larger images"
        )
    for filters in stages:
        for _ in range(2):
            x = layers.Conv2D(filters, model.kernel, padding="same", use_bias=not model.batch_norm)(x)
            x = layers.BatchNormalization(momentum=_MOMENTUM)(x) if model.batch_norm else x
            x = layers.ReLU()(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x) if model.pooling == "flatten" else _global_pooling(model.pooling)(x)
    for units in model.units:
        x = layers.Dropout(model.dropout)(x)
        x = layers.Dense(units, activation="relu")(x)
    return x


def _stages(size: int) -> tuple[int, ...]:
    """Filters that suit images of that height or width in pixels."""
    if size <= 32:
        return (32, 64)
    return tuple(min(128, 16 * 2**stage) for stage in range(math.ceil(math.log2(size / 8))))


def _mlp(model: Mlp, x: Any) -> Any:
    x = layers.Flatten()(x)
    for units in model.units:
        x = layers.Dense(units, use_bias=not model.batch_norm)(x)
        x = layers.BatchNormalization(momentum=_MOMENTUM)(x) if model.batch_norm else x
        x = layers.ReLU()(x)
        x = layers.Dropout(model.dropout)(x)
    return x


def _global_pooling(kind: str) -> Any:
    return layers.GlobalAveragePooling2D() if kind == "average" else layers.GlobalMaxPooling2D()


def _application(model: Application, inputs: Any) -> Any:
    coloured = layers.Concatenate(name="colour")([inputs] * 3) if inputs.shape[-1] == 1 else inputs
    try:
        backbone = getattr(keras.applications, model.name)(
            include_top=False, weights=None, input_shape=tuple(coloured.shape[1:])
        )
    except ValueError as error:
        height, width = inputs.shape[1:3]
        raise ConfigError(
            f"model.name={model.name} can't take images of {height}x{width}: {error}; "
            f"set the size in `preprocess`, or choose a model for small images"
        ) from error
    backbone.name = _BACKBONE
    backbone.trainable = model.trainable
    family = next(
        (
            item
            for item in vars(keras.applications).values()
            if hasattr(item, "preprocess_input") and hasattr(item, model.name)
        ),
        None,
    )  # those without a family module (MobileNetV3) scale inside the backbone
    x = family.preprocess_input(coloured) if family is not None else coloured
    x = _global_pooling(model.pooling)(backbone(x))
    return layers.Dropout(model.dropout)(x)


def load_pretrained(network: Any, choice: ModelChoice, schema: RecordsSchema, scratch: Path) -> None:
    """Put the weights that the parameters name into the part of a network that they are for.

    Raises:
        DataError: When the file is missing, has another digest or is for another network.
        ConfigError: When the parameters name another size than the weights have.
    """
    if isinstance(choice, Application) and choice.weights is not None:
        _load_backbone(network, choice, choice.weights, scratch)
    if isinstance(choice, Bert) and isinstance(schema, TextRecords):
        load_bert(network, choice, schema, scratch)


def _load_backbone(network: Any, choice: Application, weights: str, scratch: Path) -> None:
    path = Path(weights)
    if "://" in weights:
        path = scratch / Path(weights).name
        path.write_bytes(read(weights))
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"model.weights={weights}: {error.strerror}") from error
    if choice.sha256 not in (None, found):
        raise DataError(f"model.weights={weights} has SHA-256 {found}, model.sha256 asks for {choice.sha256}")
    try:
        network.get_layer(_BACKBONE).load_weights(path)
    except (ValueError, OSError) as error:
        raise DataError(
            f"model.weights={weights} does not fit {choice.name} without its top at this input size: {error}"
        ) from error


def _custom(choice: Custom, scaled: Any, classes: int) -> Any:
    model = _function(choice.function)(tuple(scaled.shape[1:]), classes)
    kinds = (keras.Sequential, keras.Model)
    if not isinstance(model, kinds) or not getattr(model, "inputs", None):
        raise ConfigError(
            f"model.function={choice.function} must return a functional or sequential keras.Model with its input "
            f"defined, so that it can be saved without its code; it returned {type(model).__name__}"
        )
    outputs = model(scaled)
    if tuple(outputs.shape) != (None, classes):
        raise ConfigError(
            f"model.function={choice.function} gives shape {tuple(outputs.shape)}, needed: (None, {classes}), "
            f"a probability for each class"
        )
    return layers.Activation("linear", dtype="float32", name="probabilities")(outputs)


def _function(entry: str) -> Callable[[tuple[int, ...], int], Any]:
    module, _, name = entry.partition(":")
    try:
        function: Callable[[tuple[int, ...], int], Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"model.function={entry} can't be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"model.function={entry} is a {type(function).__name__}, needed: a function")
    return function
