"""Tuning steps: strategies, ranges, limits, earlier searches."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.components.train.spec import TrainParameters
from millrace.errors import ConfigError, UnsupportedError
from millrace.pipelines.digits import Digits, digits
from millrace.runtime.sagemaker.hyperparameters import decode, parameters_of
from millrace.specs import PipelineSpec
from millrace.specs.dotted import merged
from millrace.specs.runtime_parameters import open_fields
from tests.compilers.sagemaker.definitions import Definition, compiled, of_digits, searching, with_task
from tests.compilers.sagemaker.flows import Searches, searches

RATE = {"kind": "float", "low": 5e-4, "high": 1e-2, "log": True}


def search(
    *, target: dict[str, Any] | None = None, flow: dict[str, Any] | None = None, **parameters: Any
) -> Definition:
    """A search of the learning rate, with other parameters, target settings or tasks."""
    tune = {"space": {"learning_rate": RATE}, **parameters}
    config = Searches.model_validate({"tune": tune, **(flow or {})})
    return compiled(searches.compose(config), **(target or {}))


def config_of(definition: Definition, step: str = "tune") -> dict[str, Any]:
    found: dict[str, Any] = definition.request(step)["HyperParameterTuningJobConfig"]
    return found


def opened(*names: str) -> PipelineSpec:
    config = {"tune": {"space": {"learning_rate": RATE}}}
    return open_fields(digits, Digits.model_validate(config), names)


class TestStrategy:
    @pytest.mark.parametrize(
        ("parameters", "strategy", "early"),
        [
            ({}, "Bayesian", "Auto"),
            ({"pruner": {"kind": "none"}}, "Bayesian", "Off"),
            ({"sampler": {"kind": "random"}}, "Random", "Auto"),
            ({"pruner": {"kind": "hyperband"}}, "Hyperband", "Off"),
        ],
    )
    def test_it_follows_the_task(self, parameters: dict[str, Any], strategy: str, early: str) -> None:
        config = config_of(search(**parameters))
        assert (config["Strategy"], config["TrainingJobEarlyStoppingType"]) == (strategy, early)

    @pytest.mark.parametrize(
        ("tuning", "strategy", "early"),
        [
            ({"strategy": "Random", "early_stopping": "Off"}, "Random", "Off"),
            ({"strategy": "Hyperband"}, "Hyperband", "Off"),
        ],
    )
    def test_the_target_wins(self, tuning: dict[str, Any], strategy: str, early: str) -> None:
        config = config_of(search(target={"tuning": tuning}))
        assert (config["Strategy"], config["TrainingJobEarlyStoppingType"]) == (strategy, early)

    @pytest.mark.parametrize(
        ("pruner", "resources"),
        [
            ({"kind": "hyperband"}, {"MinResource": 1, "MaxResource": 9}),
            ({"kind": "hyperband", "smallest": 3, "largest": 27}, {"MinResource": 3, "MaxResource": 27}),
        ],
    )
    def test_hyperband_knows_the_epochs(self, pruner: dict[str, Any], resources: dict[str, int]) -> None:
        config = config_of(search(pruner=pruner))
        assert config["StrategyConfig"] == {"HyperbandStrategyConfig": resources}

    @pytest.mark.parametrize(
        ("parameters", "tuning", "told"),
        [
            ({"pruner": {"kind": "median", "warmup_epochs": 4}}, {}, r"tune\.pruner\.warmup_epochs=4: .*default \(1\)"),
            ({"pruner": {"kind": "hyperband", "reduction": 4}}, {}, r"tune\.pruner\.reduction=4: .*default \(3\)"),
            ({"sampler": {"kind": "tpe", "startup_trials": 9}}, {}, r"tune\.sampler\.startup_trials=9"),
            ({"sampler": {"kind": "tpe", "multivariate": False}}, {}, r"tune\.sampler\.multivariate=False"),
            ({"pruner": {"kind": "hyperband", "smallest": 10}}, {}, r"smallest=10: a whole trial has 9 epochs"),
            ({"pruner": {"kind": "hyperband", "smallest": 9}}, {}, r"tune\.pruner\.smallest=9: a whole trial"),
            ({"pruner": {"kind": "hyperband"}}, {"strategy": "Random"}, r"tune\.pruner\.kind=hyperband: goes with"),
            ({"pruner": {"kind": "hyperband"}}, {"early_stopping": "Auto"}, r"target\.tuning\.early_stopping=Auto"),
        ],
    )
    def test_what_it_has_no_setting_for_is_refused(
        self, parameters: dict[str, Any], tuning: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(UnsupportedError, match=told):
            search(target={"tuning": tuning}, **parameters)

    def test_a_grid_has_choices_only_and_tries_each(self) -> None:
        space = {
            "batch_size": {"kind": "categorical", "choices": [16, 32]},
            "amp": {"kind": "categorical", "choices": [True, False]},
        }
        target = {"tuning": {"strategy": "Grid"}}
        assert config_of(search(target=target, space=space, trials=4))["Strategy"] == "Grid"
        with pytest.raises(UnsupportedError, match=r"tune\.trials=5: the grid has 4 points.*give tune\.trials=4"):
            search(target=target, space=space, trials=5)
        with pytest.raises(UnsupportedError, match=r"tune\.space\.learning_rate: target\.tuning\.strategy=Grid takes"):
            search(target=target, space={**space, "learning_rate": RATE}, trials=4)


class TestRanges:
    def test_each_kind_has_its_form(self) -> None:
        space: dict[str, Any] = {
            "learning_rate": RATE,
            "label_smoothing": {"kind": "float", "low": 0.0, "high": 0.5},
            "batch_size": {"kind": "int", "low": 16, "high": 64},
            "amp": {"kind": "categorical", "choices": [True, False]},
            "class_weights": {"kind": "categorical", "choices": ["none", "balanced"]},
            "model": {
                "kind": "categorical",
                "choices": [{"kind": "mlp", "units": [8]}, {"kind": "mlp", "units": [16]}],
            },
        }
        ranges = config_of(search(space=space))["ParameterRanges"]
        assert ranges["ContinuousParameterRanges"] == [
            {"Name": "label_smoothing", "MinValue": "0.0", "MaxValue": "0.5", "ScalingType": "Linear"},
            {"Name": "learning_rate", "MinValue": "0.0005", "MaxValue": "0.01", "ScalingType": "Logarithmic"},
        ]
        assert ranges["IntegerParameterRanges"] == [
            {"Name": "batch_size", "MinValue": "16", "MaxValue": "64", "ScalingType": "Linear"}
        ]
        categorical = {one["Name"]: one["Values"] for one in ranges["CategoricalParameterRanges"]}
        assert categorical["amp"] == ["true", "false"]
        assert categorical["class_weights"] == ["none", "balanced"]
        assert [decode(text) for text in categorical["model"]] == space["model"]["choices"]

    def test_scaling_is_the_targets(self) -> None:
        target = {"tuning": {"scaling": {"learning_rate": "ReverseLogarithmic"}}}
        (found,) = config_of(search(target=target))["ParameterRanges"]["ContinuousParameterRanges"]
        assert found["ScalingType"] == "ReverseLogarithmic"

    @pytest.mark.parametrize(
        ("space", "scaling", "told"),
        [
            ({"label_smoothing": {"kind": "float", "low": 0, "high": 0.5}}, "Logarithmic", "needs a range above 0"),
            ({"label_smoothing": {"kind": "float", "low": 0.1, "high": 0.5}}, None, None),
            ({"batch_size": {"kind": "int", "low": 1, "high": 64}}, "ReverseLogarithmic", "of kind float from 0"),
        ],
    )
    def test_a_scaling_that_the_limits_do_not_allow_is_refused(
        self, space: dict[str, Any], scaling: str | None, told: str | None
    ) -> None:
        target = {"tuning": {"scaling": {name: scaling for name in space if scaling}}}
        if told is None:
            search(target=target, space=space)
            return
        with pytest.raises(ConfigError, match=rf"target\.tuning\.scaling\.\w+={scaling}: .*{told}"):
            search(target=target, space=space)

    def test_a_scaling_of_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"target\.tuning\.scaling\.learning_rat: .*did you mean 'learning_rate'"):
            search(target={"tuning": {"scaling": {"learning_rat": "Linear"}}})

    @pytest.mark.parametrize(
        ("space", "told"),
        [
            ({"batch_size": {"kind": "int", "low": 16, "high": 64, "step": 16}}, r"space\.batch_size\.step=16"),
            ({"label_smoothing": {"kind": "float", "low": 0, "high": 0.5, "step": 0.1}}, r"label_smoothing\.step=0\.1"),
            ({"batch_size": {"kind": "categorical", "choices": list(range(1, 32))}}, "31 values; SageMaker takes 30"),
            (
                {"class_weights": {"kind": "categorical", "choices": [{"x" * 300: 1.0}]}},
                "characters as text; SageMaker takes 256",
            ),
        ],
    )
    def test_what_has_no_form_is_refused(self, space: dict[str, Any], told: str) -> None:
        with pytest.raises(UnsupportedError, match=told):
            search(space=space)


class TestTrials:
    def test_static_and_searched_parameters_make_a_whole(self) -> None:
        space = {"learning_rate": RATE, "model.dropout": {"kind": "float", "low": 0.1, "high": 0.5}}
        request = search(space=space).request("tune")
        static = request["TrainingJobDefinition"]["StaticHyperParameters"]
        assert not static.keys() & space.keys()
        given = parameters_of({**static, "learning_rate": "0.003", "model.dropout": "0.2"})
        expected = TrainParameters(epochs=9, learning_rate=0.003).model_dump(mode="json")
        assert given == merged(expected, {"model.dropout": 0.2})

    def test_they_run_the_component_that_is_searched(self) -> None:
        job = search().request("tune")["TrainingJobDefinition"]
        assert job["Environment"]["MILLRACE_COMPONENT"] == "millrace.components.train.spec:train"
        assert job["Environment"]["MILLRACE_TASK"] == "tune"
        assert job["AlgorithmSpecification"]["TrainingImage"] == "millrace/train:1.0"
        assert job["RetryStrategy"] == {"MaximumRetryAttempts": 2}
        assert list(search().channels("second")) == ["records"]

    def test_the_objective_is_read_after_each_epoch(self) -> None:
        aim = {"metric": "loss", "direction": "minimize", "intermediate": "loss"}
        definition = search(objective=aim)
        assert config_of(definition)["HyperParameterTuningJobObjective"] == {"Type": "Minimize", "MetricName": "loss"}
        regexes = {
            one["Name"]: one["Regex"]
            for one in definition.request("tune")["TrainingJobDefinition"]["AlgorithmSpecification"][
                "MetricDefinitions"
            ]
        }
        assert r"epoch=\d+ (?:\S+=\S+ )*?loss)" in regexes["loss"]
        assert r"epoch=\d+ (?:\S+=\S+ )*?validation_accuracy)" in regexes["accuracy"]

    def test_an_objective_that_nobody_reports_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tune\.objective\.metric=accurcy: .*did you mean 'accuracy'"):
            search(objective={"metric": "accurcy"})

    def test_a_component_that_no_training_job_can_run_is_refused(self) -> None:
        spec = with_task(searching(), "tune", parameters={"component": "tests.toys:work"})
        with pytest.raises(UnsupportedError, match=r"tune\.component=tests\.toys:work: .*delegates=\('training',\)"):
            compiled(spec)

    def test_a_space_without_ranges_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tune\.space: nothing is searched"):
            search(space={})


class TestLimits:
    def test_they_are_the_tasks(self) -> None:
        config = config_of(search(trials=12, parallel=3, timeout_minutes=90, seed=5))
        assert config["ResourceLimits"] == {
            "MaxNumberOfTrainingJobs": 12,
            "MaxParallelTrainingJobs": 3,
            "MaxRuntimeInSeconds": 5400,
        }
        assert config["RandomSeed"] == 5
        assert config_of(search(target={"tuning": {"seed": 7}}))["RandomSeed"] == 7

    def test_no_more_trials_side_by_side_than_there_are(self) -> None:
        assert config_of(search(trials=2, parallel=8))["ResourceLimits"]["MaxParallelTrainingJobs"] == 2

    def test_a_time_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tune\.timeout_minutes=1: SageMaker ends a search after 2 to"):
            search(timeout_minutes=1)

    def test_numbers_stay_open_as_they_are(self) -> None:
        definition = compiled(opened("tune.trials", "tune.parallel", "tune.seed", "train.epochs"))
        config = config_of(definition)
        assert config["ResourceLimits"] == {
            "MaxNumberOfTrainingJobs": {"Get": "Parameters.tune_trials"},
            "MaxParallelTrainingJobs": {"Get": "Parameters.tune_parallel"},
        }
        assert config["RandomSeed"] == {"Get": "Parameters.tune_seed"}
        static = definition.request("tune")["TrainingJobDefinition"]["StaticHyperParameters"]
        assert static["epochs"] == {"Std:Join": {"On": "", "Values": [{"Get": "Parameters.train_epochs"}]}}

    def test_what_is_searched_stays_searched(self) -> None:
        definition = compiled(opened("train.learning_rate"))
        static = definition.request("tune")["TrainingJobDefinition"]["StaticHyperParameters"]
        assert "learning_rate" not in static

    @pytest.mark.parametrize("name", ["tune.objective.metric", "tune.space.learning_rate.low"])
    def test_other_fields_can_not_stay_open(self, name: str) -> None:
        with pytest.raises(UnsupportedError, match=rf"runtime: {name} can't stay open: .*tuning job"):
            compiled(opened(name))


class TestStudies:
    def test_a_search_learns_from_an_earlier_one(self) -> None:
        parent = {"HyperParameterTuningJobName": {"Get": "Steps.tune.HyperParameterTuningJobName"}}
        definition = search()
        assert definition.request("second")["WarmStartConfig"] == {
            "ParentHyperParameterTuningJobs": [parent],
            "WarmStartType": "TransferLearning",
        }
        assert "WarmStartConfig" not in definition.request("tune")

    def test_and_from_those_that_are_named(self) -> None:
        warm = {"kind": "IdenticalDataAndAlgorithm", "parents": ["a", "b", "c", "d"]}
        found = search(target={"tuning": {"warm_start": warm}}).request("second")["WarmStartConfig"]
        names = [one["HyperParameterTuningJobName"] for one in found["ParentHyperParameterTuningJobs"]]
        assert names == ["a", "b", "c", "d", {"Get": "Steps.tune.HyperParameterTuningJobName"}]
        assert found["WarmStartType"] == "IdenticalDataAndAlgorithm"
        warm = {"parents": ["a", "b", "c", "d", "e"]}
        with pytest.raises(UnsupportedError, match=r"second\.warm_start: 6 earlier searches.*learns from 5"):
            search(target={"tuning": {"warm_start": warm}})

    def test_a_study_of_no_tuning_job_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"second\.warm_start: .*'make' is none.*target\.tuning\.kind=task"):
            search(flow={"foreign": True})

    def test_who_reads_a_study_as_a_file_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tasks\.second: .*no artifact 'study'.*target\.tuning\.kind=task"):
            search(flow={"read": True})
        definition = search(flow={"read": True}, target={"tuning": {"kind": "task"}})
        assert definition.steps["second"]["Type"] == "Processing"
        assert definition.channels("train").keys() == {"records", "study"}

    def test_its_objective_decides_on_a_condition(self) -> None:
        step = search(flow={"least": 0.9}).steps["when-second-objective"]
        assert step["Arguments"]["Conditions"] == [
            {
                "Type": "GreaterThanOrEqualTo",
                "LeftValue": {"Get": "Steps.second.BestTrainingJob.FinalHyperParameterTuningJobObjectiveMetric.Value"},
                "RightValue": 0.9,
            }
        ]
        with pytest.raises(UnsupportedError, match=r"condition second\.trials >= 3: .*tells only `objective`"):
            search(flow={"count": 3})


def test_digits_is_searched_by_a_tuning_job() -> None:
    definition = of_digits()
    assert definition.steps["tune"]["Type"] == "Tuning"
    assert of_digits(tuning={"kind": "task"}).steps["tune"]["Type"] == "Processing"
