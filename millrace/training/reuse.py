"""Trained models that a run starts from or learns from: found, checked against their digest, and read.

Nothing of them is trusted: no pickle, no code of theirs, no file outside of the scratch folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from millrace.errors import DataError
from millrace.runtime.buckets import Patience, copy_from_bucket
from millrace.runtime.context import Context
from millrace.runtime.earlier import output_of_run
from millrace.runtime.models import check_fits
from millrace.runtime.sagemaker.archives import unpack
from millrace.runtime.schemas import ModelCard, RecordsSchema, read_json_model
from millrace.runtime.storage import parse_source
from millrace.specs.earlier import RUN
from millrace.training.options.models import Cnn
from millrace.training.options.reuse import REGISTRY, FineTuning, Teacher
from millrace.training.parameters import TrainInputs, TrainParameters
from millrace.training.refusals import check_reuse

__all__ = ["Reused", "Sources", "find", "find_all", "load", "with_inputs"]

_FILE, _CARD, _QUANTIZED = "model.keras", "model.json", "model.tflite"
_ARCHIVES = (".tar.gz", ".tgz")
_MOST_BYTES = 32 * 2**30
_MOST_CONFIG = 64 * 2**20
_PACKAGES = ("keras", "builtins")
"""Whose classes a foreign model may be made of."""


@dataclass(frozen=True)
class Reused:
    """A trained model that was found."""

    title: str
    """What it is called in messages: the parameter or the input."""
    file: Path
    """Its `.keras` file."""
    digest: str
    """SHA-256 of that file."""
    card: ModelCard | None
    """None for a `.keras` file without a `model.json` beside it."""
    card_digest: str | None = None
    """SHA-256 of `model.json`."""

    @property
    def name(self) -> str:
        """Architecture."""
        return self.file.stem if self.card is None else self.card.name


@dataclass(frozen=True)
class Sources:
    """What a run starts from and learns from."""

    base: Reused | None = None
    teacher: Reused | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Of each role's model, and of what describes it; empty when nothing is reused."""
        found = {"base": self.base, "teacher": self.teacher}
        models = {role: reused.digest for role, reused in found.items() if reused is not None}
        cards = {f"{role} {_CARD}": one.card_digest for role, one in found.items() if one and one.card_digest}
        return models | cards


def with_inputs(parameters: TrainParameters, inputs: TrainInputs, log: logging.Logger) -> TrainParameters:
    """The parameters, with defaults for what the inputs `base` and `teacher` ask for, and without what is not used.

    Raises:
        ConfigError: As `check_reuse` does.
    """
    check_reuse(parameters, [name for name in ("base", "teacher") if getattr(inputs, name) is not None])
    filled: dict[str, Any] = {}
    if inputs.base is not None and parameters.fine_tuning is None:
        filled["fine_tuning"] = FineTuning()
    if inputs.teacher is not None and parameters.teacher is None:
        filled["teacher"] = Teacher()
    named = parameters.fine_tuning is not None and parameters.fine_tuning.model is not None
    if (inputs.base is not None or named) and parameters.model != Cnn():
        log.info("model is not used: the trained model that training starts from brings its own network")
        filled["model"] = Cnn()
    return parameters.model_copy(update=filled)


def find_all(parameters: TrainParameters, inputs: TrainInputs, context: Context) -> Sources:
    """The models that completed parameters name, on this machine.

    Raises:
        UserError: When one can't be read, has another digest, or is no Keras model.
        TransientError: When a store stays unreachable.
    """
    found: dict[str, Reused] = {}
    for port, handle, name, choice in (
        ("base", inputs.base, "fine_tuning", parameters.fine_tuning),
        ("teacher", inputs.teacher, "teacher", parameters.teacher),
    ):
        if handle is not None:
            found[port] = find(str(handle.path), None, context, title=f"the input {port!r}")
        elif choice is not None and choice.model is not None:
            found[port] = find(choice.model, choice.sha256, context, title=f"{name}.model={choice.model}")
    for reused in found.values():
        context.log.info("%s is %s, SHA-256 %s", reused.title, reused.file.name, reused.digest)
    return Sources(**found)


def find(model: str, sha256: str | None, context: Context, *, title: str) -> Reused:
    """A trained model by what `fine_tuning.model` may say.

    Raises:
        UserError: When it can't be read, has another digest, or is no Keras model.
        TransientError: When a store stays unreachable.
    """
    folder = Path(tempfile.mkdtemp(prefix="reused-", dir=context.scratch))  # for each role one
    if match := RUN.fullmatch(model):
        place = output_of_run(match["id"], match["task"], "model", context.checkpoints, title=title)
    else:
        source = _of_registry(model, match["region"]) if (match := REGISTRY.fullmatch(model)) else model
        scheme, path = parse_source(source)
        place = Path(path) if scheme == "file" else _downloaded(scheme, path, folder)
    file = place / _FILE if place.is_dir() else place
    if not file.is_file():
        raise DataError(_missing(title, place))
    _check_digest(title, file, sha256)
    if file.name.endswith(_ARCHIVES):
        file = _unpacked(title, file, folder / "archive")
    told = file.with_name(_CARD)
    card = read_json_model(told, ModelCard) if told.is_file() else None
    if card is not None and card.format != "keras":
        raise DataError(_missing(title, file.parent))
    _check_archive(title, file)
    return Reused(title, file, _digest(file), card, None if card is None else _digest(told))


def load(reused: Reused, schema: RecordsSchema, *, same_classes: bool) -> Any:
    """The Keras model, all of it trainable, if it takes records like these.

    Args:
        reused: What was found.
        schema: Of the records.
        same_classes: Whether it must know these classes, in this order.

    Raises:
        DataError: When it can't be loaded without code of its own, or does not fit.
    """
    if reused.card is not None:
        classes = schema.classes if same_classes else reused.card.records.classes
        check_fits(reused.title, reused.card, schema.model_copy(update={"classes": classes}))
    try:
        model: Any = keras.models.load_model(reused.file, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{reused.title} can't be loaded as a model: {reason}") from error
    inputs: list[Any] = getattr(model, "inputs", None) or []
    outputs: list[Any] = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise DataError(
            f"{reused.title} has {len(inputs)} inputs and {len(outputs)} outputs, needed: a functional or sequential "
            "model with one of each"
        )
    given, needed = tuple(inputs[0].shape[1:]), tuple(schema.shape)
    if len(given) != len(needed) or any(size not in (None, wanted) for size, wanted in zip(given, needed, strict=True)):
        raise DataError(
            f"{reused.title} takes records of shape {given}, these have {needed}: make them with the model's size: "
            f"{_size(given, schema)}"
        )
    if same_classes and tuple(outputs[0].shape[1:]) != (len(schema.classes),):
        raise DataError(
            f"{reused.title} answers with {tuple(outputs[0].shape[1:])} numbers, the records have "
            f"{len(schema.classes)} classes"
        )
    model.trainable = True  # whatever was frozen when it was trained
    return model


def _size(shape: tuple[Any, ...], schema: RecordsSchema) -> str:
    """The parameters that make records of a shape."""
    names = {"image": ("height", "width", "channels"), "text": ("max_seq_length",)}.get(schema.kind, ())
    if len(names) != len(shape):
        return "preprocess makes them"
    found = zip(names, shape, strict=True)
    return " ".join(f"preprocess.data.{name}={size}" for name, size in found if size is not None)


def _of_registry(arn: str, region: str) -> str:
    """URI of the model data of a SageMaker model package."""
    from millrace.runtime.sagemaker.endpoints import clients

    ask = clients(region)
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        told = ask("sagemaker").describe_model_package(ModelPackageName=arn)
    except (ClientError, BotoCoreError) as error:
        raise DataError(f"{arn} can't be described: {error}") from error
    containers = told.get("InferenceSpecification", {}).get("Containers", [])
    if len(containers) != 1:
        raise DataError(f"{arn} has {len(containers)} containers, needed: one with a model")
    data = containers[0].get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri")
    uri = containers[0].get("ModelDataUrl") or data
    if not uri:
        raise DataError(f"{arn} names no model data")
    return str(uri)


def _downloaded(scheme: str, place: str, folder: Path) -> Path:
    """A file or an archive of a store; of a folder the model and what describes it."""
    bucket, _, key = place.partition("/")
    name = key.rpartition("/")[2]
    if name.endswith((".keras", *_ARCHIVES)):
        copy_from_bucket(scheme, bucket, key, folder / name, Patience())
        return folder / name
    prefix = key.rstrip("/")
    copy_from_bucket(scheme, bucket, f"{prefix}/{_FILE}", folder / _FILE, Patience())
    copy_from_bucket(scheme, bucket, f"{prefix}/{_CARD}", folder / _CARD, Patience())
    return folder


def _unpacked(title: str, archive: Path, folder: Path) -> Path:
    unpack(archive, folder, most_bytes=_MOST_BYTES)
    found = sorted(folder.rglob(_FILE))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
        raise DataError(f"{title} holds {len(found)} models: {names}; needed: one")
    raise DataError(_missing(title, next((path.parent for path in folder.rglob(_QUANTIZED)), folder)))


def _missing(title: str, place: Path) -> str:
    if place.is_dir() and (place / _QUANTIZED).exists():
        return f"{title} is a quantized model, which can't be trained: take the model that was quantized"
    if not place.exists():
        return f"{title}: there is nothing at {place}"
    return f"{title}: there is no {_FILE} in {place}"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_digest(title: str, file: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := _digest(file)) != sha256:
        raise DataError(f"{title}: {file.name} has SHA-256 {found}, asked for is {sha256}")


def _check_archive(title: str, file: Path) -> None:
    """Look into a `.keras` file before Keras does."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            if not {"config.json", "metadata.json", "model.weights.h5"} <= sizes.keys():
                raise DataError(f"{title} is no Keras model: {file.name} holds {', '.join(sorted(sizes)[:5])}")
            if sum(sizes.values()) > _MOST_BYTES or sizes["config.json"] > _MOST_CONFIG:
                raise DataError(f"{title}: {file.name} unpacks to {sum(sizes.values())} bytes, which is too much")
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(
            f"{title} is no Keras model: {file.name}: {error}; needed: a .keras file of Keras 3, a folder with a "
            f"{_FILE}, or a model.tar.gz of either"
        ) from error
    for module, name in _classes(config):
        if module is not None and module.partition(".")[0] not in _PACKAGES:
            raise DataError(f"{title} needs code of its own, {module}.{name}: only layers of Keras itself are loaded")
        if name in ("Lambda", "__lambda__"):
            raise DataError(f"{title} has a Lambda layer, whose code is not run: build it from stock Keras layers")


def _classes(config: Any) -> Iterator[tuple[str | None, str]]:
    """Module and name of each class in a model's configuration."""
    if isinstance(config, dict):
        name = config.get("class_name")
        if isinstance(name, str):
            module = config.get("module")
            yield (module if isinstance(module, str) else None), name
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)
