"""A folder of pictures is answered as an endpoint answers each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from millrace.components.deploy.app import create_app
from millrace.components.predict.spec import PredictParameters, predict
from millrace.errors import DataError
from millrace.runtime.context import Share
from millrace.runtime.limits import Limits
from millrace.runtime.models import load_predictor
from millrace.runtime.schemas import ImageRecords, ModelCard
from millrace.testing import run_component
from tests.components.deploy.conftest import serving

pytestmark = pytest.mark.slow

SCHEMA = ImageRecords(height=6, width=8, channels=1, encoding="png", resize="stretch", classes=("a", "b", "c"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Input((6, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    made = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])
    made.save(folder / "model.keras")
    size = (folder / "model.keras").stat().st_size
    card = ModelCard(format="keras", name="linear", records=SCHEMA, parameters=147, bytes=size)
    (folder / "model.json").write_text(card.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(5)
    for index in range(7):
        file = folder / f"class {index % 2}" / f"{index}.{'png' if index % 3 else 'jpg'}"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9 + index, 12, 3), np.uint8)).save(file)
    return folder


def answers(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_answers_are_those_of_the_server(model: Path, pictures: Path, tmp_path: Path) -> None:
    ran = run_component(predict, PredictParameters(max_batch_size=3), tmp_path, dataset=pictures, model=model)
    made = answers(ran.outputs["predictions"])
    asked = {file.relative_to(pictures).as_posix(): file.read_bytes() for file in pictures.rglob("*.*")}
    assert sorted(made) == sorted(f"{key}.out" for key in asked)
    predictor = load_predictor(model)
    app = create_app(lambda: predictor.predict, predictor.card, name="m", limits=Limits())
    with serving(app) as url:
        for key, data in asked.items():
            headers = {"Content-Type": "application/x-image", "Accept": "application/json"}
            told = httpx.post(f"{url}/invocations", content=data, headers=headers, trust_env=False)
            own, served = json.loads(made[f"{key}.out"]), told.json()
            assert own["predictions"][0].pop("probabilities") == pytest.approx(
                served["predictions"][0].pop("probabilities"), abs=1e-5
            )
            assert own == served
    assert len(set(made.values())) == len(asked)


def test_shares_divide_the_objects(model: Path, pictures: Path, tmp_path: Path) -> None:
    whole = answers(
        run_component(predict, PredictParameters(max_batch_size=1), tmp_path / "whole", dataset=pictures, model=model)
        .outputs["predictions"]
    )  # fmt: skip
    union: dict[str, bytes] = {}
    for index in range(3):
        ran = run_component(
            predict,
            PredictParameters(max_batch_size=1),
            tmp_path / str(index),
            share=Share(index=index, count=3),
            dataset=pictures,
            model=model,
        )
        part = answers(ran.outputs["predictions"])
        assert len(part) in (2, 3)
        assert not union.keys() & part.keys()
        union |= part
    assert union == whole


def test_what_is_no_picture_is_noted_or_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "good.png")
    (folder / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"1 of 2 objects .* allows 0 of them.*\n  notes\.txt: not_an_image"):
        run_component(predict, PredictParameters(), tmp_path / "none", dataset=folder, model=model)
    allowed = PredictParameters(max_error_rate=0.5)
    ran = run_component(predict, allowed, tmp_path / "some", dataset=folder, model=model)
    made = answers(ran.outputs["predictions"])
    assert sorted(made) == ["good.png.out", "rejected-00000-of-00001.jsonl"]
    assert json.loads(made["rejected-00000-of-00001.jsonl"])["key"] == "notes.txt"


def test_an_empty_folder_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="no objects to ask about"):
        run_component(predict, PredictParameters(), tmp_path / "run", dataset=tmp_path / "pictures", model=model)


@pytest.mark.parametrize(("target", "shown"), [("kubeflow", "comp-predict"), ("sagemaker", '"Type": "Transform"')])
def test_both_targets_compile_it(target: str, shown: str, tmp_path: Path) -> None:
    output = tmp_path / "document"
    words = ["compile", "pipeline=digits", f"target={target}", "predict={}", f"output={output}"]
    done = subprocess.run([sys.executable, "-m", "millrace", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shown in output.read_text()
