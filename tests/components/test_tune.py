"""Searching: real trials of a component that costs nothing, and a few that train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import Field

from millrace.components.train.spec import TrainParameters, train
from millrace.components.tune.spec import MedianRule, NoPruning, Objective, RandomSampler, TuneParameters, tune
from millrace.errors import CompositionError, ConfigError, TaskFailedError, UserError
from millrace.runtime.context import Context, Result
from millrace.runtime.task import GivenArtifact, TaskRequest, launch, read_result
from millrace.specs import Inputs, Metric, Metrics, Outputs, Parameters, Records, component
from millrace.specs.charts import charts_adapter
from millrace.testing import Ran, run_component
from millrace.training.options.models import Mlp
from tests.components.train_data import write_picture_records


class HillParameters(Parameters):
    """A hill to climb: best at x = 3."""

    x: float = Field(default=0.0, ge=-10, le=10)
    bonus: float = Field(default=0.0)
    seconds: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=3, ge=1)
    fault: str = Field(default="")


class HillInputs(Inputs):
    """Nothing is read."""

    records: Records


class HillOutputs(Outputs):
    """A height."""

    metrics: Metrics
    height: Metric


hill = component(
    name="hill",
    version="1",
    description="A component that costs nothing.",
    parameters=HillParameters,
    inputs=HillInputs,
    outputs=HillOutputs,
    main=f"{__name__}:climb",
    image="train",
)


def climb(parameters: HillParameters, inputs: HillInputs, outputs: HillOutputs, context: Context) -> Result:
    """Say the height in each epoch, as training says its accuracy."""
    if parameters.fault == "user":
        raise ConfigError("this can never work")
    if parameters.fault == "error":
        raise TaskFailedError("it broke")
    begun = context.checkpoints / "begun"
    if parameters.fault == "vanish" or (parameters.fault == "vanish_once" and not begun.exists()):
        begun.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    height = parameters.bonus - (parameters.x - 3) ** 2
    lines = ""
    for epoch in range(1, parameters.epochs + 1):
        lines += json.dumps({"epoch": epoch, "height": height}) + "\n"
        (context.checkpoints / "history.jsonl").write_text(lines)
        time.sleep(parameters.seconds / parameters.epochs)
    return Result(metrics={"height": height})


OBJECTIVE = Objective(metric="height", intermediate="height")
SPACE: dict[str, Any] = {"x": {"kind": "float", "low": -10, "high": 10}}


def searching(base: HillParameters = HillParameters(), **knobs: Any) -> TuneParameters:
    chosen = {"space": SPACE, "objective": OBJECTIVE, "trials": 3, "pruner": NoPruning(), **knobs}
    return TuneParameters.model_validate(chosen).of(hill, base)


def run(directory: Path, parameters: TuneParameters, *warm_start: Path) -> Ran:
    directory.mkdir(exist_ok=True)
    return run_component(tune, parameters, directory / "task", records=directory, warm_start=warm_start)


def request(directory: Path, parameters: TuneParameters) -> Path:
    TaskRequest(
        name="tune",
        component=tune.spec.entry,
        parameters=parameters.model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=directory.parent),)},
    ).write(directory)
    return directory


def study(ran: Ran) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = ran.outputs["study"]
    return json.loads((folder / "best.json").read_text()), json.loads((folder / "trials.json").read_text())["trials"]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


class TestSearch:
    def test_finds_the_best_of_its_trials(self, tmp_path: Path) -> None:
        ran = run(tmp_path, searching(trials=5, parallel=2))
        best, trials = study(ran)
        assert len(trials) == ran.metrics["trials"] == 5
        assert best["value"] == ran.metrics["objective"] == max(trial["value"] for trial in trials)
        assert best["value"] == pytest.approx(-((best["parameters"]["x"] - 3) ** 2))
        assert trials[0]["intermediate"].keys() == {"1", "2", "3"}
        assert (ran.outputs["study"] / "study.db").stat().st_size > 0
        assert ran.metadata["study"] == {"trials": 5, "best": best["value"]}

    def test_minimizes(self, tmp_path: Path) -> None:
        objective = OBJECTIVE.model_copy(update={"direction": "minimize"})
        best, trials = study(run(tmp_path, searching(objective=objective)))
        assert best["value"] == min(trial["value"] for trial in trials)

    def test_charts(self, tmp_path: Path) -> None:
        ran = run(tmp_path, searching())
        trials, best = charts_adapter.validate_json((ran.outputs["metrics"] / "charts.json").read_bytes())
        assert trials.kind == "scatter"
        assert best.kind == "lines"
        heights = best.curves[0].y
        assert list(heights) == sorted(heights)
        assert heights[-1] == ran.metrics["objective"]

    def test_choices_may_be_groups_and_ranges_have_steps(self, tmp_path: Path) -> None:
        space = {
            "x": {"kind": "categorical", "choices": [3.0]},
            "bonus": {"kind": "float", "low": 0, "high": 4, "step": 2},
            "epochs": {"kind": "int", "low": 2, "high": 3},
        }
        _, trials = study(run(tmp_path, searching(space=space, sampler=RandomSampler())))
        for trial in trials:
            assert trial["parameters"]["x"] == 3.0
            assert trial["parameters"]["bonus"] in (0, 2, 4)
            assert len(trial["intermediate"]) == trial["parameters"]["epochs"]

    def test_same_seed_same_trials(self, tmp_path: Path) -> None:
        first, second, other = (
            [trial["parameters"] for trial in study(run(tmp_path / name, searching(seed=seed, trials=2)))[1]]
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert first == second != other

    def test_the_time_is_a_budget_too(self, tmp_path: Path) -> None:
        slow = HillParameters(seconds=0.5)
        ran = run(tmp_path, searching(slow, trials=1000, timeout_minutes=0.02))
        assert 1 <= ran.metrics["trials"] < 20

    def test_hopeless_trials_are_ended_early(self, tmp_path: Path) -> None:
        space = {"bonus": {"kind": "categorical", "choices": [0, -100]}}
        base = HillParameters(x=3, seconds=3, epochs=8)
        pruner = MedianRule(startup_trials=1, warmup_epochs=0)
        parameters = searching(base, space=space, pruner=pruner, trials=3, sampler=RandomSampler(), seed=4)
        _, trials = study(run(tmp_path, parameters))
        hopeless = [trial for trial in trials[1:] if trial["parameters"]["bonus"] == -100]
        assert hopeless
        assert trials[0]["parameters"]["bonus"] == 0
        assert all(trial["state"] == "pruned" and len(trial["intermediate"]) < 8 for trial in hopeless)
        assert all(trial["value"] is None for trial in hopeless)

    def test_warm_start(self, tmp_path: Path) -> None:
        earlier = run(tmp_path / "a", searching(trials=4))
        best, trials = study(earlier)
        ran = run(tmp_path / "b", searching(trials=2, seed=9), earlier.outputs["study"])
        _, own = study(ran)
        assert own[0]["parameters"] == best["parameters"]
        assert own[1]["parameters"] not in [trial["parameters"] for trial in trials]
        assert ran.metrics["trials"] == 2

    def test_an_earlier_study_of_another_space_is_left_out(self, tmp_path: Path) -> None:
        earlier = run(tmp_path / "a", searching(trials=1))
        space = {"x": {"kind": "float", "low": 9, "high": 10}}
        _, own = study(run(tmp_path / "b", searching(space=space, trials=1), earlier.outputs["study"]))
        assert own[0]["parameters"]["x"] >= 9


class TestFailures:
    def test_all_trials_failed(self, tmp_path: Path) -> None:
        with pytest.raises(TaskFailedError, match=r"none of the 3 trials finished: trial 0 \(x=.*\): it broke"):
            run(tmp_path, searching(HillParameters(fault="error")))

    def test_a_mistake_of_the_users_ends_the_search_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"trial 0 \(x=.*\): this can never work"):
            run(tmp_path, searching(HillParameters(fault="user")))
        assert len(list((tmp_path / "task" / "checkpoints" / "trials").iterdir())) == 1

    def test_one_failed_trial_is_only_counted(self, tmp_path: Path) -> None:
        space = {"fault": {"kind": "categorical", "choices": ["", "error"]}}
        _, trials = study(run(tmp_path, searching(space=space, trials=6, seed=1, sampler=RandomSampler(), parallel=3)))
        assert {trial["state"] for trial in trials} == {"complete", "fail"}

    def test_a_trial_that_was_killed_goes_on(self, tmp_path: Path) -> None:
        _, trials = study(run(tmp_path, searching(HillParameters(fault="vanish_once"), trials=2)))
        assert [trial["state"] for trial in trials] == ["complete", "complete"]

    def test_a_trial_that_is_killed_each_time_has_failed(self, tmp_path: Path) -> None:
        with pytest.raises(TaskFailedError, match=r"ended by SIGKILL; most often the machine ran out of memory"):
            run(tmp_path, searching(HillParameters(fault="vanish"), trials=1))

    def test_unknown_objective(self, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"objective\.metric=hight is not reported by 'hill': did you mean 'height'"
        ):
            run(tmp_path, searching(objective=Objective(metric="hight")))


@pytest.mark.slow
class TestKilled:
    def trials(self, directory: Path) -> list[Path]:
        return sorted((directory / "checkpoints" / "trials").glob("*"))

    def test_finished_trials_are_not_run_again(self, tmp_path: Path) -> None:
        parameters = searching(HillParameters(seconds=1), trials=4)
        directory = request(tmp_path / "task", parameters)
        process = launch(directory)
        wait_until(lambda: len(self.trials(directory)) >= 3)
        wait_until(lambda: (self.trials(directory)[2] / "checkpoints" / "history.jsonl").exists())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = {trial: (trial / "log.txt").read_bytes() for trial in self.trials(directory)[:2]}
        assert launch(directory).wait(60) == 0, (directory / "log.txt").read_text()
        result = read_result(directory)
        assert result is not None
        assert result.metrics["trials"] == 4
        assert len(self.trials(directory)) == 4
        assert {trial: (trial / "log.txt").read_bytes() for trial in before} == before
        whole = run(tmp_path / "whole", parameters)
        resumed = json.loads((directory / "outputs" / "study" / "trials.json").read_text())["trials"]
        assert [trial["parameters"] for trial in resumed] == [trial["parameters"] for trial in study(whole)[1]]

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_trials_end_with_the_search(self, tmp_path: Path, number: int) -> None:
        directory = request(tmp_path / "task", searching(HillParameters(seconds=100), parallel=2))
        process = launch(directory)
        wait_until(lambda: len(list(directory.glob("checkpoints/trials/*/checkpoints/history.jsonl"))) == 2)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        process.send_signal(number)
        process.wait(30)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        if number == signal.SIGTERM:
            assert process.returncode == 143

    def test_a_line_written_by_half_is_mended(self, tmp_path: Path) -> None:
        directory = request(tmp_path / "task", searching(trials=2))
        checkpoints = directory / "checkpoints"
        checkpoints.mkdir()
        first = run(tmp_path / "first", searching(trials=1))
        (checkpoints / "study.db").write_bytes(
            (first.outputs["study"] / "study.db").read_bytes() + b'{"op_code": 4, "wo'
        )
        (checkpoints / "study.db.lock").symlink_to("study.db")
        assert launch(directory).wait(60) == 0, (directory / "log.txt").read_text()
        result = read_result(directory)
        assert result is not None
        assert result.metrics["trials"] == 2


class TestComposition:
    def of(self, **space: Any) -> TuneParameters:
        return TuneParameters.model_validate({"space": space}).of(train, TrainParameters(model=Mlp()))

    def test_takes_over_the_trained_component(self) -> None:
        bound = self.of(learning_rate={"kind": "float", "low": 1e-4, "high": 1e-1, "log": True})
        assert bound.component == "millrace.components.train.spec:train"
        assert bound.trial["model"] == Mlp().model_dump(mode="json")
        assert TuneParameters.model_validate_json(bound.model_dump_json()) == bound

    def test_whole_groups_can_be_searched(self) -> None:
        assert self.of(model={"kind": "categorical", "choices": [{"kind": "cnn"}, {"kind": "mlp"}]}).space

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ({"learning_rat": {"kind": "float", "low": 0.1, "high": 1}}, "did you mean 'learning_rate'"),
            ({"model.filters": {"kind": "categorical", "choices": [[8]]}}, "has no parameter 'model.filters'"),
            ({"model.dropout": {"kind": "float", "low": 0, "high": 1}}, r"model.dropout=1.0 is out of range"),
            ({"batch_size": {"kind": "float", "low": 1.5, "high": 8}}, r"batch_size=1.5 is out of range"),
            (
                {
                    "model": {"kind": "categorical", "choices": [{"kind": "cnn"}]},
                    "model.dropout": {"kind": "float", "low": 0, "high": 0.5},
                },
                "'model.dropout' lies inside 'model'",
            ),
        ],
    )
    def test_refuses_at_composition_time(self, space: dict[str, Any], message: str) -> None:
        with pytest.raises(CompositionError, match=message):
            self.of(**space)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"kind": "float", "low": 2, "high": 1},
            {"kind": "float", "low": 0, "high": 1, "log": True},
            {"kind": "int", "low": 1, "high": 9, "log": True, "step": 2},
            {"kind": "categorical", "choices": []},
        ],
    )
    def test_refuses_ranges_that_are_none(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="validation error"):
            self.of(learning_rate=wrong)


@pytest.mark.slow
def test_searches_training(tmp_path: Path) -> None:
    records = write_picture_records(tmp_path / "records")
    space = {"learning_rate": {"kind": "float", "low": 1e-3, "high": 1e-1, "log": True}}
    base = TrainParameters(model=Mlp(units=(16,)), epochs=2, batch_size=16)
    parameters = TuneParameters.model_validate({"space": space, "trials": 2}).of(train, base)
    ran = run_component(tune, parameters, tmp_path / "tune", records=records)
    best, trials = study(ran)
    assert all(len(trial["intermediate"]) == 2 for trial in trials)
    trained = run_component(train, base, tmp_path / "train", records=records, study=ran.outputs["study"])
    assert trained.metrics["accuracy"] == pytest.approx(best["value"])


def test_does_not_import_tensorflow() -> None:
    code = "import sys, millrace.components.tune.main; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
