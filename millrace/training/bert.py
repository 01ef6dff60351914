"""BERT for texts: keras-hub's encoder laid out as stock Keras layers, so that a saved model loads with Keras alone.

`keras_hub.models.BertBackbone` says what the network is: it is made first, with its own initial or pretrained
weights, and every weight is then put into the layer of the same name here. Both give the same numbers to the bit.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import keras

from millrace.errors import ConfigError, DataError
from millrace.runtime.schemas import TextRecords
from millrace.runtime.storage import read
from millrace.training.options.models import Bert

__all__ = ["bert_features", "load_bert"]

_BACKBONE = "backbone"
_SEGMENTS = 2
_EPSILON = 1e-12
_SIZES = {
    "layers": "num_layers",
    "heads": "num_heads",
    "hidden": "hidden_dim",
    "intermediate": "intermediate_dim",
    "positions": "max_sequence_length",
}
"""Parameters of `Bert` by what `BertBackbone` calls them."""
_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
"""Files of a preset."""
layers, ops = keras.layers, keras.ops


def bert_features(choice: Bert, tokens: Any, records: TextRecords) -> Any:
    """What the network makes of texts before the classes.

    Args:
        choice: Its size, and what makes one vector of the tokens.
        tokens: int32 [N, L] token ids, padded with `records.pad_id`.
        records: Gives L, the size of the vocabulary and the padding.

    Returns:
        [N, `choice.hidden`].

    Raises:
        ConfigError: When the texts are longer than there are positions for, or keras-hub is not installed.
    """
    if records.max_seq_length > choice.positions:
        raise ConfigError(
            f"model.positions={choice.positions}, but the records have texts of up to {records.max_seq_length} tokens: "
            "make it at least that, or the texts shorter"
        )
    given = keras.Input(tokens.shape[1:], dtype="int32", name="token_ids")
    encoder = keras.Model(given, _encoder(choice, given, records), name=_BACKBONE)
    _copy(_backbone(choice, records.vocabulary_size), encoder)
    encoder.trainable = choice.trainable
    return layers.Dropout(choice.dropout, name="features_dropout")(encoder(tokens))


def load_bert(model: Any, choice: Bert, records: TextRecords, scratch: Path) -> None:
    """Put the weights that the parameters name into the encoder of a network.

    Raises:
        ConfigError: When the parameters name another size than the weights have.
        DataError: When the file is missing, has another digest, or is for another vocabulary.
    """
    if choice.weights is None:
        return
    folder = choice.weights.removesuffix("/")
    file = folder if folder.endswith(".h5") else f"{folder}/{_WEIGHTS}"
    if file != folder:
        _check_preset(folder, choice, records)
    content = _read(file)
    found = hashlib.sha256(content).hexdigest()
    if choice.sha256 not in (None, found):
        raise DataError(f"model.weights={choice.weights} has SHA-256 {found}, model.sha256 asks for {choice.sha256}")
    backbone = _backbone(choice, records.vocabulary_size)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / _WEIGHTS
        path.write_bytes(content)
        try:
            backbone.load_weights(path)
        except (ValueError, OSError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(
                f"model.weights={choice.weights} does not fit a BertBackbone of {_shown(choice)} and a vocabulary of "
                f"{records.vocabulary_size}: {reason}"
            ) from error
    _copy(backbone, model.get_layer(_BACKBONE))


def _encoder(choice: Bert, tokens: Any, records: TextRecords) -> Any:
    x = layers.Embedding(records.vocabulary_size, choice.hidden, name="token_embedding")(tokens)
    row = ops.sum(tokens, axis=0, keepdims=True)  # positions and segments are those of any text: [1, L]
    x += _looked_up(ops.cumsum(ops.ones_like(row), axis=1) - 1, choice.positions, choice, "position_embedding")
    x += _looked_up(ops.zeros_like(row), _SEGMENTS, choice, "segment_embedding")
    x = layers.LayerNormalization(epsilon=_EPSILON, name="embeddings_layer_norm")(x)
    x = layers.Dropout(choice.dropout, name="embeddings_dropout")(x)
    mask = ops.not_equal(tokens, records.pad_id)
    for number in range(choice.layers):
        x = _transformer_layer(choice, x, ops.expand_dims(mask, 1), f"transformer_layer_{number}")
    if choice.pooling == "average":
        return layers.GlobalAveragePooling1D(name="average")(x, mask=mask)
    return layers.Dense(choice.hidden, activation="tanh", name="pooled_dense")(x[:, 0])


def _looked_up(numbers: Any, size: int, choice: Bert, name: str) -> Any:
    """Rows of a table that every text takes the same of.

    `Embedding` would have sparse gradients, which Adam squares one by one: several ranks would learn something else.
    """
    table = layers.Dense(choice.hidden, use_bias=False, name=name)
    return table(ops.one_hot(numbers, size, dtype=table.compute_dtype))


def _transformer_layer(choice: Bert, x: Any, mask: Any, name: str) -> Any:
    def added(before: Any, after: Any, part: str) -> Any:
        dropped = layers.Dropout(choice.dropout, name=f"{name}_{part}_dropout")(after)
        total = layers.Add(name=f"{name}_{part}_add")([dropped, before])
        return layers.LayerNormalization(epsilon=_EPSILON, name=f"{name}_{part}_layer_norm")(total)

    attention = layers.MultiHeadAttention(
        choice.heads, choice.hidden // choice.heads, dropout=choice.dropout, name=f"{name}_self_attention_layer"
    )
    x = added(x, attention(x, x, attention_mask=mask), "self_attention")
    wide = layers.Dense(choice.intermediate, name=f"{name}_feedforward_intermediate_dense")(x)
    narrow = layers.Dense(choice.hidden, name=f"{name}_feedforward_output_dense")(ops.gelu(wide, approximate=True))
    return added(x, narrow, "feedforward")


def _backbone(choice: Bert, vocabulary: int) -> Any:
    try:
        from keras_hub.models import BertBackbone
    except ImportError as error:
        raise ConfigError(f"model.kind=bert needs keras-hub, as `millrace[train]` installs it: {error}") from error
    sizes = {theirs: getattr(choice, ours) for ours, theirs in _SIZES.items()}
    return BertBackbone(vocabulary_size=vocabulary, num_segments=_SEGMENTS, dropout=choice.dropout, **sizes)


def _copy(backbone: Any, encoder: Any) -> None:
    """Take every weight of the encoder from the backbone's of the same name."""
    weights = {_name(variable): variable for variable in backbone.weights}
    for variable in encoder.weights:
        variable.assign(weights[_name(variable)])


def _name(variable: Any) -> str:
    """`transformer_layer_0/self_attention_layer/query/kernel`, wherever its parts are separated."""
    return str(variable.path.replace("_embedding/kernel", "_embedding/embeddings").replace("/", "_"))


def _read(source: str) -> bytes:
    try:
        return read(source)
    except DataError as error:
        raise DataError(f"model.weights: {error}") from error


def _check_preset(folder: str, choice: Bert, records: TextRecords) -> None:
    """Compare what a preset says of itself with what it shall be used for."""
    source = f"{folder}/{_CONFIG}"
    try:
        preset = json.loads(_read(source))
        config = preset["config"]
        sizes = {ours: config[theirs] for ours, theirs in _SIZES.items()}
        kind, segments, vocabulary = preset["class_name"], config["num_segments"], config["vocabulary_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"model.weights: {source} does not describe a BertBackbone: {error!r}") from error
    if (kind, segments) != ("BertBackbone", _SEGMENTS):
        raise DataError(
            f"model.weights: {source} describes a {kind} of {segments} segments, needed: a BertBackbone of 2"
        )
    different = {name: size for name, size in sizes.items() if getattr(choice, name) != size}
    if different:
        asked = ", ".join(f"model.{name}={size}" for name, size in different.items())
        raise ConfigError(f"model.weights={choice.weights} has another size than the parameters: set {asked}")
    if vocabulary != records.vocabulary_size:
        raise DataError(
            f"model.weights={choice.weights} knows {vocabulary} tokens, the records' vocabulary has "
            f"{records.vocabulary_size}: make the records with the vocabulary that the weights were trained with"
        )


def _shown(choice: Bert) -> str:
    return ", ".join(f"{name}={getattr(choice, name)}" for name in _SIZES)
