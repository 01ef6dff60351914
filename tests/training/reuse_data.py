"""Small trained models as artifacts, and records with classes of other names."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from millrace.runtime.context import Context
from millrace.runtime.schemas import ImageRecords, ModelCard
from millrace.training.models import build_model
from millrace.training.options.models import Cnn
from millrace.training.parameters import TrainParameters
from tests.components.train_data import CLASSES

SCHEMA = ImageRecords(height=8, width=8, channels=1, encoding="png", resize="stretch", classes=CLASSES)
SMALL = Cnn(filters=(4,), units=(6,), dropout=0)


def loaded(path: Path) -> Any:
    """The model of an artifact, as anybody loads it."""
    return keras.models.load_model(path / "model.keras")


def context_in(folder: Path) -> Context:
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    return Context(scratch=folder / "scratch", checkpoints=folder / "checkpoints")


def write_model(folder: Path, schema: ImageRecords = SCHEMA, model: Any = None) -> Path:
    """A Model artifact; of random weights and statistics when no Keras model is given."""
    folder.mkdir(parents=True)
    if model is None:
        model = build_model(TrainParameters(model=SMALL, seed=5), schema, policy="float32")
        random = np.random.default_rng(5)
        model.set_weights([value + random.uniform(0, 0.1, value.shape) for value in model.get_weights()])
    model.save(folder / "model.keras")
    size = (folder / "model.keras").stat().st_size
    card = ModelCard(format="keras", name="cnn", records=schema, parameters=model.count_params(), bytes=size)
    (folder / "model.json").write_text(card.model_dump_json())
    return folder


def packed(folder: Path, archive: Path) -> Path:
    """A folder as SageMaker stores what a training made."""
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(folder, arcname=".")
    return archive


def renamed(records: Path, names: tuple[str, ...]) -> Path:
    """Give the classes of a Records artifact other names."""
    schema = json.loads((records / "schema.json").read_text())
    new = dict(zip(schema["classes"], names, strict=True))
    (records / "schema.json").write_text(json.dumps({**schema, "classes": names}))
    for file in records.glob("*-of-*.json"):
        counts = json.loads(file.read_text())
        counts["by_class"] = {new[name]: count for name, count in counts["by_class"].items()}
        file.write_text(json.dumps(counts))
    return records
