"""The evaluate component: figures as scikit-learn computes them, comparison of models, and the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selenium import webdriver
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits

from millrace.components.evaluate import scores
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.errors import DataError
from millrace.runtime.answer_tables import answer_table
from millrace.runtime.datasets import load_arrays
from millrace.runtime.models import load_predictor
from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import Channel, ImageRecords
from millrace.testing import Ran, run_component, write_records

HOSTILE = '<script>alert("1")</script>'
CLASSES = (*(str(digit) for digit in range(9)), HOSTILE)
QUICK = EvaluateParameters(latency_runs=3)
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class TestScoresAreThoseOfScikitLearn:
    """On random answers; the coarse ones have many ties."""

    @pytest.fixture(params=[2, 3, 7])
    def classes(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture(params=["distinct", "ties"])
    def probabilities(self, request: pytest.FixtureRequest, classes: int) -> NDArray[np.float64]:
        random = np.random.default_rng(classes)
        if request.param == "ties":
            return random.multinomial(8, np.full(classes, 1 / classes), 500) / 8
        return random.dirichlet(np.ones(classes), 500)

    @pytest.fixture
    def labels(self, probabilities: NDArray[np.float64], classes: int) -> Labels:
        random = np.random.default_rng(7)
        right = probabilities.argmax(axis=1)
        return np.where(random.random(500) < 0.5, right, random.integers(classes, size=500)).astype(np.int64)

    def test_confusion_precision_recall_and_f1(self, probabilities: Any, labels: Any, classes: int) -> None:
        predicted = probabilities.argmax(axis=1)
        confusion = scores.confusion_counts(labels, predicted, classes)
        np.testing.assert_array_equal(confusion, reference.confusion_matrix(labels, predicted))
        expected = reference.precision_recall_fscore_support(labels, predicted)[:3]
        np.testing.assert_allclose(np.array(scores.class_scores(confusion)), expected)

    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_top_k(self, probabilities: Any, labels: Any, classes: int, k: int) -> None:
        found = scores.top_k_accuracy(probabilities, labels, k)
        # scikit-learn lets the last of equal classes win, argmax the first: turn the classes round
        ranked = np.argsort(probabilities[:, ::-1], axis=1, kind="mergesort")[:, ::-1][:, :k]
        assert found == pytest.approx((ranked == classes - 1 - labels[:, None]).any(axis=1).mean())
        if k < classes and classes > 2:
            turned = reference.top_k_accuracy_score(
                classes - 1 - labels, probabilities[:, ::-1], k=k, labels=range(classes)
            )
            assert found == pytest.approx(turned)

    def test_log_loss(self, probabilities: Any, labels: Any, classes: int) -> None:
        expected = reference.log_loss(labels, probabilities, labels=range(classes))
        assert scores.log_loss(probabilities, labels) == pytest.approx(expected)

    def test_roc_auc(self, probabilities: Any, labels: Any, classes: int) -> None:
        areas = scores.roc_aucs(probabilities, labels)
        expected = [reference.roc_auc_score(labels == label, probabilities[:, label]) for label in range(classes)]
        np.testing.assert_allclose(areas, expected)
        if classes > 2:
            macro = reference.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
            assert scores.mean_defined(areas) == pytest.approx(macro)

    def test_roc_curve(self, probabilities: Any, labels: Any) -> None:
        false, true, thresholds = scores.roc_curve(probabilities[:, 1], labels == 1)
        expected = reference.roc_curve(labels == 1, probabilities[:, 1], drop_intermediate=False)
        np.testing.assert_allclose((false, true), expected[:2])
        np.testing.assert_allclose(thresholds[1:], expected[2][1:])
        assert thresholds[0] > thresholds[1]  # scikit-learn's is infinite, which JSON has no word for

    def test_micro_roc_curve(self, probabilities: Any, labels: Any, classes: int) -> None:
        false, true, thresholds = scores.micro_roc_curve(probabilities, labels)
        decisions = labels[:, None] == np.arange(classes)
        expected = reference.roc_curve(decisions.ravel(), probabilities.ravel(), drop_intermediate=False)
        np.testing.assert_allclose((false, true), expected[:2])
        np.testing.assert_allclose(thresholds[1:], expected[2][1:])

    def test_micro_roc_curve_of_very_many_records(self) -> None:
        random = np.random.default_rng(0)
        labels = random.integers(0, 2, 8_000_000)
        positive = np.round(np.clip(random.normal(0.3 + 0.4 * labels, 0.2), 0, 1), 2)
        found = scores.micro_roc_curve(np.stack([1 - positive, positive], axis=1), labels)
        assert reference.auc(found.false, found.true) == pytest.approx(0.921, abs=0.002)

    def test_macro_roc_curve_is_the_mean(self, probabilities: Any, labels: Any, classes: int) -> None:
        found = scores.macro_roc_curve(probabilities, labels, points=5001)
        assert found is not None
        assert reference.auc(*found) == pytest.approx(
            scores.mean_defined(scores.roc_aucs(probabilities, labels)), abs=2e-3
        )

    @pytest.mark.parametrize("bins", [2, 8, 15])
    def test_calibration(self, probabilities: Any, labels: Any, bins: int) -> None:
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
        found = scores.reliability(confidence, right, bins)
        filled = found.records > 0
        accuracy, mean = calibration_curve(right, confidence, n_bins=bins, strategy="uniform")
        np.testing.assert_allclose(found.accuracy[filled], accuracy)
        np.testing.assert_allclose(found.confidence[filled], mean)
        expected = sum(
            inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
            for low, high in zip(np.arange(bins) / bins, (np.arange(bins) + 1) / bins, strict=True)
            if (inside := (confidence > low) & (confidence <= high)).any()
        )
        assert scores.calibration_error(found) == pytest.approx(expected)


class TestScoresAreUndefined:
    def test_by_class_where_there_is_nothing_to_count(self) -> None:
        # class 0 is right; 1 never predicted; 2 never there but predicted; 3 neither
        confusion = scores.confusion_counts(np.array([0, 1, 1]), np.array([0, 0, 2]), 4)
        precision, recall, f1 = scores.class_scores(confusion)
        np.testing.assert_array_equal(precision, [0.5, np.nan, 0, np.nan])
        np.testing.assert_array_equal(recall, [1, 0, np.nan, np.nan])
        np.testing.assert_allclose(f1, [2 / 3, 0, np.nan, np.nan])
        assert scores.mean_defined(f1) == pytest.approx(1 / 3)

    def test_roc_without_both_kinds(self) -> None:
        probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
        labels = np.array([0, 0])
        assert np.isnan(scores.roc_aucs(probabilities, labels)).all()
        assert scores.macro_roc_curve(probabilities, labels) is None
        assert np.isnan(scores.mean_defined(scores.roc_aucs(probabilities, labels)))

    def test_the_loss_of_an_impossible_answer_is_finite(self) -> None:
        assert scores.log_loss(np.array([[1.0, 0.0]], np.float32), np.array([1])) == pytest.approx(15.942, abs=1e-3)


@dataclass(frozen=True)
class Digits:
    """Records of digits, and models of three sizes."""

    records: Path
    models: Mapping[str, Path]


def digits() -> tuple[Images, Labels]:
    values, targets = load_digits(return_X_y=True)
    return (values * 15.9375).astype(np.uint8).reshape(-1, 8, 8, 1), np.asarray(targets, np.int64)


def write_pictures(
    folder: Path, channels: Mapping[Channel, tuple[Images, Labels]], classes: Sequence[str] = CLASSES
) -> Path:
    """A Records artifact whose objects have hostile names."""
    height, width, depth = next(iter(channels.values()))[0].shape[1:]
    return write_records(
        folder,
        schema(height, width, depth, classes),
        {
            channel: [
                [
                    ImageRecord(
                        image.tobytes(), int(label), f's3://bucket/{channel}/{number}"><img src=x onerror=alert(1)>.png'
                    )
                    for number, (image, label) in enumerate(zip(*given, strict=True))
                ]
            ]
            for channel, given in channels.items()
        },
    )


def schema(height: int, width: int, channels: Any, classes: Sequence[str]) -> ImageRecords:
    return ImageRecords(
        height=height, width=width, channels=channels, encoding="raw", resize="crop", classes=tuple(classes)
    )


def train_model(folder: Path, name: str, images: Images, labels: Labels) -> Path:
    import keras

    from millrace.training.export import export

    layers = keras.layers
    keras.utils.set_random_seed(3)
    between: dict[str, list[Any]] = {
        "tiny": [layers.AveragePooling2D(2), layers.Flatten()],
        "linear": [layers.Flatten()],
        "deep": [layers.Flatten(), layers.Dense(48, "relu")],
    }
    model: Any = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            *between[name],
            layers.Dense(len(CLASSES), activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(images.astype(np.float32), labels, batch_size=256, epochs=25, verbose=0)
    folder.mkdir(parents=True)
    export(model, name, schema(8, 8, 1, CLASSES), folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    folder = tmp_path_factory.mktemp("evaluate")
    images, labels = digits()
    train, test = slice(0, 1200), slice(1200, None)
    records = write_pictures(
        folder / "records", {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
    )
    models = {
        name: train_model(folder / name, name, images[train], labels[train]) for name in ("tiny", "linear", "deep")
    }
    return Digits(records, models)


@pytest.fixture(scope="module")
def compared(trained: Digits, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_component(
        evaluate,
        QUICK,
        tmp_path_factory.mktemp("compared"),
        model=trained.models["linear"],
        records=trained.records,
        candidates=(trained.models["deep"], trained.models["tiny"]),
    )


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
class TestFigures:
    def test_are_those_of_scikit_learn_on_the_models_answers(self, compared: Ran, trained: Digits) -> None:
        images, labels = load_arrays(trained.records, "test")
        answers = load_predictor(trained.models["linear"]).predict(images)
        predicted = answers.argmax(axis=1)
        expected = {
            "accuracy": reference.accuracy_score(labels, predicted),
            "top_k_accuracy": reference.top_k_accuracy_score(labels, answers, k=5),
            "loss": reference.log_loss(labels, answers.astype(np.float64)),
            "macro_f1": reference.f1_score(labels, predicted, average="macro"),
            "roc_auc": reference.roc_auc_score(labels, answers.astype(np.float64), multi_class="ovr"),
            "precision.3": reference.precision_score(labels == 3, predicted == 3),
            "recall.3": reference.recall_score(labels == 3, predicted == 3),
            f"f1.{HOSTILE}": reference.f1_score(labels == 9, predicted == 9),
        }
        assert {name: compared.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert 0.85 < compared.metrics["accuracy"] < 1

    def test_the_gap_is_train_minus_test_accuracy(self, compared: Ran, trained: Digits) -> None:
        predictor = load_predictor(trained.models["linear"])
        train, test = (
            (predictor.predict(images).argmax(axis=1) == labels).mean()
            for images, labels in (load_arrays(trained.records, "train"), load_arrays(trained.records, "test"))
        )
        assert compared.metrics["overfit_gap"] == pytest.approx(train - test)
        assert compared.metrics["overfit_gap"] > 0

    def test_costs_are_measured(self, compared: Ran, trained: Digits) -> None:
        assert compared.metrics["size_bytes"] == (trained.models["linear"] / "model.keras").stat().st_size
        assert 0 < compared.metrics["latency_ms"] < 1000

    def test_charts_fit_the_figures(self, compared: Ran) -> None:
        charts = {
            chart["name"]: chart for chart in json.loads((compared.outputs["metrics"] / "charts.json").read_text())
        }
        assert list(charts) == ["confusion_matrix", "roc", "calibration"]
        counts = np.array(charts["confusion_matrix"]["counts"])
        assert np.trace(counts) / counts.sum() == pytest.approx(compared.metrics["accuracy"])
        curves = charts["roc"]["curves"]
        assert [curve["name"] for curve in curves] == ["macro average", "micro average", *CLASSES]
        assert [len(curve["thresholds"]) for curve in curves] == [0, *(len(curve["x"]) for curve in curves[1:])]
        assert max(len(curve["x"]) for curve in curves) <= 200
        areas = [reference.auc(curve["x"], curve["y"]) for curve in curves]
        assert areas[0] == pytest.approx(compared.metrics["roc_auc"], abs=0.01)
        assert np.mean(areas[2:]) == pytest.approx(compared.metrics["roc_auc"], abs=0.01)

    def test_the_batch_size_changes_nothing(self, compared: Ran, trained: Digits, tmp_path: Path) -> None:
        parameters = QUICK.model_copy(update={"batch_size": 7})
        other = run_component(
            evaluate, parameters, tmp_path, model=trained.models["linear"], records=trained.records
        ).metrics
        measured = {"latency_ms": other["latency_ms"]}
        assert other == pytest.approx(compared.metrics | measured, abs=1e-6)


@pytest.mark.slow
class TestPredictions:
    def test_are_the_models_answers_about_each_record(self, compared: Ran, trained: Digits) -> None:
        images, labels = load_arrays(trained.records, "test")
        answers = load_predictor(trained.models["linear"]).predict(images)
        table = answer_table(compared.outputs["predictions"]).collect()
        names = [f's3://bucket/test/{index}"><img src=x onerror=alert(1)>.png' for index in range(len(labels))]
        assert table["uri"].to_list() == names
        np.testing.assert_array_equal(table["true_index"], labels)
        np.testing.assert_array_equal(table["index"], answers.argmax(axis=1))
        np.testing.assert_allclose(np.stack(table["probabilities"].to_list()), answers, atol=1e-5)
        assert table["right"].mean() == pytest.approx(compared.metrics["accuracy"])
        assert table["true_label"].to_list() == [CLASSES[label] for label in labels]

    def test_have_the_same_bytes_each_time(self, compared: Ran, trained: Digits, tmp_path: Path) -> None:
        ran = run_component(evaluate, QUICK, tmp_path, model=trained.models["linear"], records=trained.records)
        again = ran.outputs["predictions"]
        files = sorted(compared.outputs["predictions"].iterdir())
        assert [file.name for file in files] == ["answers-00000.parquet"]
        assert [file.read_bytes() for file in sorted(again.iterdir())] == [file.read_bytes() for file in files]

    def test_the_page_names_objects_that_were_confused(self, compared: Ran) -> None:
        table = answer_table(compared.outputs["predictions"]).collect()
        wrong = [row for row in table.to_dicts() if not row["right"]]
        often, count = Counter((row["true_label"], row["label"]) for row in wrong).most_common(1)[0]
        same = [row for row in wrong if (row["true_label"], row["label"]) == often]
        sure = max(same, key=lambda row: float(row["probability"]))
        shown = Page(compared.outputs["report"]).text.partition("Confusions")[2].partition("Most confident")[0]
        assert [count, sure["uri"] in shown] == [len(same), True]


@pytest.mark.slow
class TestUndefined:
    def run(self, trained: Digits, folder: Path, channels: Mapping[Channel, tuple[Images, Labels]], **more: Any) -> Ran:
        records = write_pictures(folder / "records", channels)
        parameters = QUICK.model_copy(update=more)
        return run_component(evaluate, parameters, folder / "task", model=trained.models["linear"], records=records)

    def test_a_class_without_records_is_left_out_of_the_means(self, trained: Digits, tmp_path: Path) -> None:
        images, labels = digits()
        kept = labels != 4
        ran = self.run(trained, tmp_path, {"test": (images[kept], labels[kept])})
        predicted = load_predictor(trained.models["linear"]).predict(images[kept]).argmax(axis=1)
        present = [label for label in range(10) if label != 4]
        expected = reference.f1_score(labels[kept], predicted, labels=present, average="macro")
        assert ran.metrics["macro_f1"] == pytest.approx(expected)
        assert "recall.4" not in ran.metrics
        assert "f1.4" not in ran.metrics
        assert "left out of the means over classes: 4." in Page(ran.outputs["report"]).text

    def test_unknown_figures_are_the_worst_and_said(self, trained: Digits, tmp_path: Path) -> None:
        images, labels = digits()
        one = labels == 6
        ran = self.run(trained, tmp_path, {"test": (images[one], labels[one])}, top_k=50)
        assert (ran.metrics["roc_auc"], ran.metrics["overfit_gap"], ran.metrics["top_k_accuracy"]) == (0, 1, 1)
        assert "top_k_accuracy" not in list(ran.metrics)[:4]  # on the terminal's line, where it would tell nothing
        text = Page(ran.outputs["report"]).text
        assert "All records are of one class" in text
        assert "the overfit gap is unknown" in text
        assert "top_k is 50, but there are only 10 classes" in text

    def test_the_train_channel_has_no_gap(self, trained: Digits, tmp_path: Path) -> None:
        images, labels = digits()
        ran = self.run(trained, tmp_path, {"train": (images[:100], labels[:100])}, channel="train")
        assert ran.metrics["overfit_gap"] == 0


@pytest.mark.slow
class TestCandidates:
    @pytest.mark.parametrize(("tolerance", "named"), [(1.0, "candidate 2"), (0.0, "")])
    def test_the_simplest_within_tolerance_is_named(
        self, trained: Digits, tmp_path: Path, tolerance: float, named: str
    ) -> None:
        given = {"model": "linear", "candidate 1": "deep", "candidate 2": "tiny"}
        images, labels = load_arrays(trained.records, "test")
        accuracy = {
            title: (load_predictor(trained.models[name]).predict(images).argmax(axis=1) == labels).mean()
            for title, name in given.items()
        }
        assert len(set(accuracy.values())) == 3
        ran = run_component(
            evaluate,
            QUICK.model_copy(update={"tolerance": tolerance}),
            tmp_path,
            model=trained.models["linear"],
            records=trained.records,
            candidates=(trained.models["deep"], trained.models["tiny"]),
        )
        text = Page(ran.outputs["report"]).text
        expected = named or max(accuracy, key=lambda title: accuracy[title])
        assert f"is {expected} ({given[expected]}): the fewest parameters" in text
        assert all(f"{value:.4f}" in text for value in accuracy.values())

    def test_without_candidates_there_is_nothing_to_compare(self, trained: Digits, tmp_path: Path) -> None:
        ran = run_component(evaluate, QUICK, tmp_path, model=trained.models["tiny"], records=trained.records)
        assert "simplest" not in Page(ran.outputs["report"]).text


@pytest.mark.slow
class TestPage:
    def test_class_names_and_uris_are_only_text(self, compared: Ran) -> None:
        page = Page(compared.outputs["report"])
        assert "script" not in {tag for tag, _ in page.tags}
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert HOSTILE in page.text
        assert '"><img src=x onerror=alert(1)>.png' in page.text

    def test_nothing_is_loaded_from_outside(self, compared: Ran) -> None:
        page = Page(compared.outputs["report"])
        sources = [
            value
            for _, attributes in page.tags
            for name, value in attributes.items()
            if name in ("src", "href", "xlink:href") and value
        ]
        assert sources
        assert [source for source in sources if not source.startswith(("data:image/png;base64,", "#"))] == []

    def test_mistakes_are_shown_most_confident_first(self, compared: Ran, trained: Digits) -> None:
        images, labels = load_arrays(trained.records, "test")
        answers = load_predictor(trained.models["linear"]).predict(images)
        wrong = np.flatnonzero(answers.argmax(axis=1) != labels)
        expected = wrong[np.argsort(-answers[wrong].max(axis=1), kind="stable")][:24]
        text = Page(compared.outputs["report"]).text.partition("Most confident mistakes")[2]
        shown = [part.partition('"')[0] for part in text.split("s3://bucket/test/")[1:]]
        assert shown == [str(index) for index in expected]

    def test_as_many_mistakes_as_asked_for(self, trained: Digits, tmp_path: Path) -> None:
        for count in (0, 3):
            ran = run_component(
                evaluate,
                QUICK.model_copy(update={"mistakes": count}),
                tmp_path / str(count),
                model=trained.models["tiny"],
                records=trained.records,
            )
            assert sum(tag == "img" for tag, _ in Page(ran.outputs["report"]).tags) == count

    @pytest.mark.browser
    @pytest.mark.parametrize("width", [1280, 390])
    def test_fits_the_window_and_breaks_no_rule_of_its_own(
        self, compared: Ran, browser: webdriver.Chrome, width: int
    ) -> None:
        window = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        browser.get(compared.outputs["report"].as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        broken = "return [...document.images].filter(image => !image.naturalWidth).length"
        assert (browser.execute_script("return document.images.length"), browser.execute_script(broken)) == (24, 0)
        assert browser.execute("getLog", {"type": "browser"})["value"] == []


@pytest.mark.slow
class TestErrors:
    def test_a_channel_without_records(self, trained: Digits, tmp_path: Path) -> None:
        parameters = QUICK.model_copy(update={"channel": "validation"})
        with pytest.raises(DataError, match=r"'validation' has no records \(.*train 1,200, test 597\)"):
            run_component(evaluate, parameters, tmp_path, model=trained.models["tiny"], records=trained.records)

    def test_another_size(self, trained: Digits, tmp_path: Path) -> None:
        records = write_pictures(
            tmp_path / "records", {"test": (np.zeros((1, 9, 8, 1), np.uint8), np.zeros(1, np.int64))}
        )
        with pytest.raises(DataError, match="takes images of 8 x 8 pixels with 1 channel, the records are 9 x 8"):
            run_component(evaluate, QUICK, tmp_path / "task", model=trained.models["tiny"], records=records)

    @pytest.mark.parametrize(
        ("classes", "said"),
        [(CLASSES[::-1], "the same names in another order"), ((*CLASSES[:9], "nine"), "'nine' only in the records")],
    )
    def test_other_classes(self, trained: Digits, tmp_path: Path, classes: Sequence[str], said: str) -> None:
        images, labels = digits()
        records = write_pictures(tmp_path / "records", {"test": (images[:9], labels[:9])}, classes)
        with pytest.raises(DataError, match=said):
            run_component(evaluate, QUICK, tmp_path / "task", model=trained.models["tiny"], records=records)

    def test_the_candidate_that_does_not_fit_is_named(self, trained: Digits, tmp_path: Path) -> None:
        wide = tmp_path / "wide"
        wide.mkdir()
        card = json.loads((trained.models["tiny"] / "model.json").read_text())
        card["records"]["width"] = 16
        (wide / "model.json").write_text(json.dumps(card))
        models = trained.models
        with pytest.raises(DataError, match=r"candidate 2 \('tiny'\) takes images of 8 x 16"):
            run_component(
                evaluate,
                QUICK,
                tmp_path / "task",
                model=models["tiny"],
                records=trained.records,
                candidates=(models["deep"], wide),
            )

    def test_a_damaged_record_file(self, trained: Digits, tmp_path: Path) -> None:
        images, labels = digits()
        records = write_pictures(tmp_path / "records", {"test": (images[:20], labels[:20])})
        file = records / "test-00000-of-00001.tfrecord"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
        with pytest.raises(DataError, match="'test' can't be read"):
            run_component(evaluate, QUICK, tmp_path / "task", model=trained.models["tiny"], records=records)
