"""What parameters name outside the pipeline is looked at before a result of before is taken for it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.components.analyze.spec import analyze
from millrace.components.bert.spec import BertParameters, bert
from millrace.components.preprocess.spec import preprocess
from millrace.components.train.spec import TrainParameters, train
from millrace.components.tune.spec import TuneParameters, tune
from millrace.errors import ConfigError, DataError
from millrace.pipelines.image_classification import ImageClassification, image_classification
from millrace.registry import COMPONENTS, load_component
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runners.outside import outside_digests
from millrace.runners.record import PipelineRun, RunState
from millrace.specs import ComponentSpec, Task
from millrace.specs.uncached import is_uncached
from tests import toys
from tests.runners.borrowing import Borrowing, BorrowParameters, Model, Writing, borrowing, writing

SHA256 = "0" * 64


@pytest.fixture(autouse=True)
def importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(toys.__file__).parents[1]))


@pytest.fixture
def runner(tmp_path: Path) -> LocalRunner:
    return LocalRunner(root=tmp_path / "root", cores=2, memory_gib=4)


def borrow(runner: LocalRunner, *, weights: str | None = None, sha256: str | None = None, previous: str = "") -> str:
    """How the task went, and what it has read."""
    given = BorrowParameters(model=Model(weights=weights, sha256=sha256), previous=previous or None)
    record = run_pipeline(borrowing.compose(Borrowing(borrow=given)), runner)[0]
    assert record.state is RunState.SUCCEEDED, record.reason
    task = record.tasks["borrow"]
    return f"{task.state}: {(task.output_path('words') / 'told.txt').read_text()}"


def write(runner: LocalRunner, text: str, outside: Path | None = None) -> PipelineRun:
    if outside is not None:
        outside.write_text(text)
    given = toys.WriteParameters(text="" if outside else text, outside=None if outside is None else str(outside))
    return run_pipeline(writing.compose(Writing(write=given)), runner)[0]


class TestRuns:
    @pytest.mark.parametrize("form", ["{}", "file://{}"])
    def test_a_file_that_changes_is_read_again(self, runner: LocalRunner, tmp_path: Path, form: str) -> None:
        file = tmp_path / "w.h5"
        weights = form.format(file)
        file.write_text("one")
        assert borrow(runner, weights=weights) == "succeeded: one"
        assert borrow(runner, weights=weights) == "cached: one"
        file.write_text("two")
        assert borrow(runner, weights=weights) == "succeeded: two"
        file.write_text("one")
        assert borrow(runner, weights=weights) == "cached: one"

    def test_a_model_in_a_folder_that_changes_is_read_again(self, runner: LocalRunner, tmp_path: Path) -> None:
        file = tmp_path / "model" / "model.keras"
        file.parent.mkdir()
        for text, state in (("one", "succeeded"), ("one", "cached"), ("two", "succeeded")):
            file.write_text(text)
            (file.parent / "notes.txt").write_text(state)  # nobody reads it
            assert borrow(runner, weights=str(file.parent)) == f"{state}: {text}"

    def test_a_digest_beside_it_is_for_the_task_to_check(self, runner: LocalRunner, tmp_path: Path) -> None:
        file = tmp_path / "w.h5"
        file.write_text("one")
        sha256 = hashlib.sha256(b"one").hexdigest()
        assert borrow(runner, weights=str(file), sha256=sha256) == "succeeded: one"
        file.write_text("two")
        assert borrow(runner, weights=str(file), sha256=sha256) == "cached: one"

    def test_a_folder_of_before_is_read_each_time(self, runner: LocalRunner, tmp_path: Path) -> None:
        file = tmp_path / "before" / "a.txt"
        file.parent.mkdir()
        file.write_text("one")
        assert borrow(runner, previous=str(file.parent)) == "succeeded: one"
        assert borrow(runner, previous=str(file.parent)) == "succeeded: one"

    def test_an_earlier_run_is_fixed_and_the_latest_is_not(self, runner: LocalRunner) -> None:
        first = write(runner, "one")
        assert borrow(runner, previous=f"run:{first.id}/write") == "succeeded: one"
        assert borrow(runner, previous=f"run:{first.id}/write") == "cached: one"
        assert borrow(runner, previous="run:latest/write") == "cached: one"
        write(runner, "two")
        assert borrow(runner, previous="run:latest/write") == "succeeded: two"
        assert borrow(runner, previous=f"run:{first.id}/write") == "cached: one"

    def test_what_a_later_run_has_made_anew_is_read_again(self, runner: LocalRunner, tmp_path: Path) -> None:
        first = write(runner, "one", tmp_path / "source.txt")
        assert borrow(runner, previous=f"run:{first.id}/write") == "succeeded: one"
        write(runner, "two", tmp_path / "source.txt")  # the same task directory
        assert borrow(runner, previous=f"run:{first.id}/write") == "succeeded: two"


def task_of(spec: ComponentSpec, parameters: dict[str, Any]) -> Task:
    return Task(name="one", component=spec.name, parameters=parameters)


def of_training(**given: Any) -> dict[str, Any]:
    return TrainParameters(**given).model_dump(mode="json")


def of_search(**given: Any) -> dict[str, Any]:
    space = given.pop("space", {"epochs": {"kind": "int", "low": 1, "high": 2}})
    return TuneParameters(space=space).of(train, TrainParameters(**given)).model_dump(mode="json")


def of_bert(**given: Any) -> dict[str, Any]:
    return BertParameters(**given).model_dump(mode="json")


def of_texts(file: str) -> dict[str, Any]:
    return {"data": {"kind": "text", "vocabulary": file, "sha256": None}, "previous": None}


def of_backbone(file: str) -> dict[str, Any]:
    return {"kind": "application", "weights": file}


FILES: dict[str, Any] = {
    "train.model.weights": (train, lambda file: of_training(model=of_backbone(file))),
    "train.fine_tuning.model": (train, lambda file: of_training(fine_tuning={"model": file})),
    "train.teacher.model": (train, lambda file: of_training(teacher={"model": file})),
    "bert.model.weights": (bert, lambda file: of_bert(model={"weights": file})),
    "bert.fine_tuning.model": (bert, lambda file: of_bert(fine_tuning={"model": file})),
    "bert.teacher.model": (bert, lambda file: of_bert(teacher={"model": file})),
    "analyze.data.vocabulary": (analyze, of_texts),
    "preprocess.data.vocabulary": (preprocess, of_texts),
    "tune.trial.model.weights": (tune, lambda file: of_search(model=of_backbone(file))),
    "tune.trial.fine_tuning.model": (tune, lambda file: of_search(fine_tuning={"model": file})),
    "tune.trial.teacher.model": (tune, lambda file: of_search(teacher={"model": file})),
}


class TestDigests:
    @pytest.mark.parametrize("name", sorted(FILES))
    def test_follow_what_is_in_a_file(self, tmp_path: Path, name: str) -> None:
        component, parameters = FILES[name]
        file = tmp_path / "file.keras"
        file.write_text("one")
        task = task_of(component.spec, parameters(str(file)))
        first = outside_digests(task, component.spec, tmp_path)
        assert name.partition(".")[2] in first
        assert is_uncached(task, component.spec)  # elsewhere nobody looks at it
        assert not is_uncached(task, component.spec, known=first)
        assert outside_digests(task, component.spec, tmp_path) == first
        file.write_text("other")
        assert outside_digests(task, component.spec, tmp_path) != first
        file.unlink()
        assert is_uncached(task, component.spec, known=outside_digests(task, component.spec, tmp_path))

    def test_follow_what_a_search_chooses_from(self, tmp_path: Path) -> None:
        (tmp_path / "a.h5").write_text("one")
        (tmp_path / "b.h5").write_text("one")
        choices = [str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]
        space = {"model.weights": {"kind": "categorical", "choices": choices}}
        task = task_of(tune.spec, of_search(model={"kind": "application"}, space=space))
        first = outside_digests(task, tune.spec, tmp_path)
        (tmp_path / "b.h5").write_text("two")
        assert outside_digests(task, tune.spec, tmp_path) != first

    @pytest.fixture
    def own_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        (tmp_path / "own_networks").mkdir()
        (tmp_path / "own_networks" / "__init__.py").touch()
        file = tmp_path / "own_networks" / "small.py"
        file.write_text("raise ImportError('this is for workers')\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        yield file
        sys.modules.pop("own_networks", None)

    @pytest.mark.parametrize("component", [train, tune])
    def test_follow_a_network_of_the_users_own(self, own_module: Path, tmp_path: Path, component: Any) -> None:
        parameters = (of_search if component is tune else of_training)(
            model={"kind": "custom", "function": "own_networks.small:net"}
        )
        first = outside_digests(task_of(component.spec, parameters), component.spec, tmp_path)
        own_module.write_text("raise ImportError('still for workers')\n")
        assert outside_digests(task_of(component.spec, parameters), component.spec, tmp_path) != first


def locations_of(schema: Any, known: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all parameters in a schema that take a location, with what they are beside."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from locations_of(branch, known, path)
    for name, field in schema.get("properties", {}).items():
        if any(one.get("format") == "location" for one in (field, *field.get("anyOf", ()))):
            yield f"{path}.{name}".removeprefix("."), schema["properties"]
        yield from locations_of(field, known, f"{path}.{name}".removeprefix("."))


@pytest.mark.parametrize("name", sorted(COMPONENTS))
def test_every_location_of_ours_counts(name: str) -> None:
    spec = load_component(name).spec
    schema: Any = spec.parameters
    for path, _ in locations_of(schema, schema.get("$defs", {})):
        above = {path[:end] for end in range(1, len(path) + 1) if end == len(path) or path[end] == "."}
        assert above.intersection(spec.uncached_when), f"{name}.{path} may change unnoticed"


class TestRefusals:
    def run(self, tmp_path: Path, **given: Any) -> None:
        (tmp_path / "pictures").mkdir(exist_ok=True)
        config = ImageClassification.model_validate({"manifest": {"source": str(tmp_path / "pictures")}, **given})
        run_pipeline(image_classification.compose(config), LocalRunner(root=tmp_path / "root"))

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (
                {"train": {"fine_tuning": {"model": "/nowhere.keras"}}},
                r"^train\.fine_tuning\.model=/nowhere\.keras: there is nothing at",
            ),
            (
                {"train": {"teacher": {"model": "run:latest/train"}}},
                r"^train\.teacher\.model=run:latest/train: there is no run",
            ),
            (
                {"tune": {"objective": {"metric": "acuracy"}}},
                r"^tune\.objective\.metric=acuracy .* did you mean 'accuracy'",
            ),
            (
                {"tune": {"trial": {"teacher": {"model": "/nowhere.keras"}}}},
                r"^tune\.trial\.teacher\.model=/nowhere\.keras: there is nothing at",
            ),
            (
                {"tune": {"trial": {"parallel": {"tensor": 2}}}},
                r"^tune\.trial\.parallel\.tensor=2 must divide .*one rank\)$",
            ),
        ],
    )
    def test_come_before_the_first_task(self, tmp_path: Path, given: dict[str, Any], told: str) -> None:
        given.setdefault("tune", {}).setdefault("space", {"epochs": {"kind": "int", "low": 1, "high": 2}})
        with pytest.raises((ConfigError, DataError), match=told):
            self.run(tmp_path, **given)
        assert not list(tmp_path.glob("root/runs/*"))

    def test_of_what_a_search_would_try(self, tmp_path: Path) -> None:
        space = {"elastic.min_workers": {"kind": "int", "low": 1, "high": 2}}
        given = {"tune": {"space": space}, "train": {"elastic": {"min_workers": 1}}, "processes": 2}
        with pytest.raises(ConfigError, match=r"^tune\.trial\.elastic\.min_workers=1, with 1 rank"):
            self.run(tmp_path, **given)
