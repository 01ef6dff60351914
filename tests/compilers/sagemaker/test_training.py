"""Training steps: hyperparameters, channels, machines, what is read from the log."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from millrace.compilers.sagemaker.check import check_document
from millrace.compilers.sagemaker.training_job import metric_definition
from millrace.components.train.spec import TrainParameters, train
from millrace.errors import ConfigError, UnsupportedError, UserError
from millrace.runtime.sagemaker.hyperparameters import parameters_of
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.specs import Distribution, ForEach, OpenField, RuntimeParameter
from tests.compilers.sagemaker.definitions import Definition, compiled, of_digits, sagemaker, searching, with_task
from tests.compilers.sagemaker.flows import Fits, fits
from tests.components.train_data import write_picture_records


def own(**settings: Any) -> Definition:
    return compiled(fits.compose(Fits()), **settings)


class TestHyperparameters:
    def test_they_are_the_parameters(self) -> None:
        values = of_digits().request("train")["HyperParameters"]
        fixed = {name: value for name, value in values.items() if name != "learning_rate"}
        read = TrainParameters.model_validate({**parameters_of(fixed), "learning_rate": 1e-3})
        assert read == TrainParameters.model_validate(searching().task("train").parameters)

    def test_best_values_of_a_search_are_put_over_them(self) -> None:
        values = of_digits().request("train")["HyperParameters"]
        assert values["learning_rate"] == {"Get": "Steps.tune.BestTrainingJob.TunedHyperParameters['learning_rate']"}
        assert "study" not in of_digits().channels("train")

    def test_open_fields_come_by_dotted_names_as_texts(self) -> None:
        places = {"train.epochs": ("integer", 3), "train.optimizer.beta_1": ("float", 0.9)}
        parameters = [
            RuntimeParameter.model_validate(
                {
                    "name": name,
                    "kind": kind,
                    "default": default,
                    "fills": [OpenField(task="train", path=name.removeprefix("train."))],
                }
            )
            for name, (kind, default) in places.items()
        ]
        word = RuntimeParameter(
            name="schedule", kind="string", default="constant", fills=(OpenField(task="train", path="schedule.kind"),)
        )
        definition = of_digits(
            lambda spec: spec.model_copy(update={"runtime_parameters": (*parameters, word)})
        ).request("train")
        values = definition["HyperParameters"]
        assert values["epochs"] == {"Std:Join": {"On": "", "Values": [{"Get": "Parameters.train_epochs"}]}}
        beta = {"Std:Join": {"On": "", "Values": [{"Get": "Parameters.train_optimizer_beta_1"}]}}
        assert values["optimizer.beta_1"] == beta
        assert values["schedule.kind"] == {"Get": "Parameters.schedule"}
        assert definition["Environment"]["MILLRACE_TEXTS"] == "schedule.kind"

    def test_a_value_that_is_too_long_is_refused(self) -> None:
        spec = fits.compose(Fits.model_validate({"fit": {"notes": {"a": "x" * 2500}}}))
        with pytest.raises(UnsupportedError, match=r"fit\.notes: 2508 characters as text; a hyperparameter takes 2500"):
            compiled(spec)

    @pytest.mark.parametrize("text", ["plain", "two\nlines", "a\u2028b", '{"a": 1}', "12", "", "tab\there"])
    def test_texts_come_in_one_line_and_as_they_were(self, text: str) -> None:
        values = compiled(fits.compose(Fits.model_validate({"fit": {"name": text}}))).request("fit")["HyperParameters"]
        assert len(values["name"].splitlines()) <= 1
        assert parameters_of(values)["name"] == text

    def test_names_of_the_services_own_are_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"fit\.sagemaker_region: hyperparameters of such names"):
            compiled(with_task(fits.compose(Fits()), "fit", parameters={"sagemaker_region": "x"}))

    def test_more_than_a_hundred_are_refused(self) -> None:
        spec = with_task(fits.compose(Fits()), "fit", parameters={f"field_{number}": 1 for number in range(100)})
        with pytest.raises(UnsupportedError, match=r"tasks\.fit: 102 hyperparameters; a training job takes 100"):
            compiled(spec)


class TestContainer:
    def test_it_is_told_its_task_by_the_environment(self) -> None:
        spec = with_task(fits.compose(Fits()), "fit", distribution=Distribution(hosts=2, processes=4))
        request = compiled(spec, tasks={"fit": {"environment": {"LEVEL": "high"}}}).request("fit")
        assert request["Environment"] == {
            "LEVEL": "high",
            "MILLRACE_COMPONENT": "tests.compilers.sagemaker.flows:fit",
            "MILLRACE_PROCESSES": "4",
            "MILLRACE_TASK": "fit",
        }
        assert request["AlgorithmSpecification"]["TrainingImage"] == "registry.example.org/team/fit:1"
        assert "ContainerEntrypoint" not in request["AlgorithmSpecification"]
        assert request["ResourceConfig"]["InstanceCount"] == 2

    @pytest.mark.parametrize(
        ("parameters", "processes", "told"),
        [
            ({"strategy": "multiworker"}, 2, r"train\.strategy=multiworker takes one process a host"),
            ({"elastic": {"min_workers": 5}}, 2, r"train\.elastic\.min_workers=5, with 4 ranks"),
            ({"strategy": "single"}, 1, r"train\.strategy=single, but 2 hosts"),
            ({"batch_size": 1}, 1, r"train\.batch_size=1: .* choose 2 or more"),
        ],
    )
    def test_what_hosts_cannot_train_together_is_refused(
        self, parameters: dict[str, Any], processes: int, told: str
    ) -> None:
        asked = Distribution(hosts=2, processes=processes)
        with pytest.raises(UserError, match=told):
            compiled(with_task(searching(), "train", distribution=asked, parameters=parameters))
        trial = {**searching().task("tune").parameters, "trial": parameters}
        with pytest.raises(UserError, match=told.replace("train", "tune.trial", 1)):
            compiled(with_task(searching(), "tune", distribution=asked, parameters=trial))

    def test_archives_of_earlier_models_are_named(self) -> None:
        definition = own()
        assert definition.request("second")["Environment"]["MILLRACE_ARCHIVES"] == "many.0=."
        assert definition.request("third")["Environment"]["MILLRACE_ARCHIVES"] == "many.0=.,many.1=."
        assert list(definition.channels("third")) == ["many.0", "many.1"]
        assert "InputDataConfig" not in definition.request("fit")
        assert definition.steps["second"]["DependsOn"] == ["write"]

    def test_what_it_is_told_itself_can_not_be_set(self) -> None:
        with pytest.raises(UnsupportedError, match=r"target\.tasks\.fit\.environment\.MILLRACE_TASK"):
            own(tasks={"fit": {"environment": {"MILLRACE_TASK": "x"}}})

    def test_an_environment_that_is_too_long_is_refused(self) -> None:
        own(tasks={"fit": {"environment": {"LONG": "x" * 512}}})
        with pytest.raises(UnsupportedError, match=r"target\.tasks\.fit\.environment\.LONG: 513 characters"):
            own(tasks={"fit": {"environment": {"LONG": "x" * 513}}})


class TestChannels:
    def test_modes(self) -> None:
        definition = of_digits(training={"mode": "FastFile", "channels": {"records": "File"}})
        assert definition.request("train")["AlgorithmSpecification"]["TrainingInputMode"] == "FastFile"
        assert definition.channels("train")["records"] == {
            "ChannelName": "records",
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": {"Get": "Steps.preprocess.ProcessingOutputConfig.Outputs['records'].S3Output.S3Uri"},
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
            "InputMode": "File",
        }

    def test_components_read_files_and_take_no_pipes(self) -> None:
        with pytest.raises(
            UnsupportedError, match=r"input 'records' of task '(train|tune)' can't come as Pipe.*FastFile"
        ):
            of_digits(training={"mode": "Pipe"})
        with pytest.raises(UnsupportedError, match="can't come as Pipe"):
            of_digits(training={"channels": {"records": "Pipe"}})

    def test_an_image_of_ones_own_may_take_pipes(self) -> None:
        definition = own(training={"channels": {"many": "Pipe"}})
        assert definition.channels("third")["many.1"]["InputMode"] == "Pipe"

    def test_an_unknown_one_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"target\.training\.channels\.record: no input.*did you mean 'records'"):
            of_digits(training={"channels": {"record": "File"}})


class TestMachines:
    def test_spot_machines_have_checkpoints_and_a_longer_wait(self) -> None:
        request = of_digits(training={"spot": True}, tasks={"train": {"timeout_minutes": 60}}).request("train")
        assert request["EnableManagedSpotTraining"] is True
        assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
        assert request["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
        assert request["CheckpointConfig"]["S3Uri"]["Std:Join"]["Values"][-1] == "train/checkpoints"
        trials = of_digits(training={"spot": True}).request("tune")["TrainingJobDefinition"]
        assert trials["EnableManagedSpotTraining"] is True
        assert trials["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"

    def test_a_wait_that_is_shorter_than_the_run_is_refused(self) -> None:
        with pytest.raises(
            UnsupportedError, match=r"max_wait_minutes=30: shorter than task '\w+' may run \(60 minutes\)"
        ):
            of_digits(training={"spot": True, "max_wait_minutes": 30}, job={"timeout_minutes": 60})
        with pytest.raises(ValidationError, match="max_wait_minutes=30: only spot capacity is waited for"):
            sagemaker(training={"max_wait_minutes": 30})

    def test_groups_take_the_place_of_one_type(self) -> None:
        groups = [
            {"name": "gpu", "instance": "ml.g5.xlarge", "count": 2},
            {"name": "cpu", "instance": "ml.c5.xlarge", "count": 1},
        ]
        resources = of_digits(training={"groups": groups}).request("train")["ResourceConfig"]
        assert resources == {
            "VolumeSizeInGB": 30,
            "InstanceGroups": [
                {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "InstanceGroupName": "gpu"},
                {"InstanceType": "ml.c5.xlarge", "InstanceCount": 1, "InstanceGroupName": "cpu"},
            ],
        }
        with pytest.raises(
            UnsupportedError, match=r"target\.tasks\.train\.instance=ml\.m5\.large: target\.training\.groups"
        ):
            of_digits(training={"groups": groups}, tasks={"train": {"instance": "ml.m5.large"}})
        with pytest.raises(UnsupportedError, match=r"3 machines in all, but tasks\.train\.distribution\.hosts is 2"):
            of_digits(
                lambda spec: with_task(spec, "train", distribution=Distribution(hosts=2)), training={"groups": groups}
            )
        with pytest.raises(UnsupportedError, match="two groups have one name"):
            of_digits(training={"groups": [groups[0], groups[0]]})

    def test_machines_with_storage_of_their_own_take_no_key(self) -> None:
        settings: dict[str, Any] = {"volume_key": "alias/volumes", "job": {"instance": "ml.g5.xlarge"}}
        served = {"kind": "endpoint", "instance": "ml.g4dn.xlarge"}
        definition = of_digits(**settings, serving=served)
        assert "KmsKeyId" not in definition.request("deploy-config")
        assert check_document(definition.text) == []
        served["instance"] = "ml.c5.xlarge"
        assert of_digits(**settings, serving=served).request("deploy-config")["KmsKeyId"] == "alias/volumes"
        assert "VolumeKmsKeyId" not in definition.request("train")["ResourceConfig"]
        assert "VolumeKmsKeyId" not in definition.request("tune")["TrainingJobDefinition"]["ResourceConfig"]
        groups = [{"name": name, "instance": f"ml.{name}.xlarge"} for name in ("m5", "c5")]
        resources = of_digits(volume_key="alias/volumes", training={"groups": groups}).request("train")[
            "ResourceConfig"
        ]
        assert resources["VolumeKmsKeyId"] == "alias/volumes"
        groups[0]["instance"] = "ml.g5.xlarge"
        with pytest.raises(UnsupportedError, match=r"target\.volume_key: ml\.g5\.xlarge .* ml\.c5\.xlarge beside it"):
            of_digits(volume_key="alias/volumes", training={"groups": groups})

    def test_warm_pools(self) -> None:
        resources = of_digits(training={"warm_pool_minutes": 10}).request("train")["ResourceConfig"]
        assert resources["KeepAlivePeriodInSeconds"] == 600
        with pytest.raises(UnsupportedError, match=r"warm_pool_minutes=10: .* with target\.training\.spot"):
            of_digits(training={"warm_pool_minutes": 10, "spot": True})

    def test_shares_are_not_for_trainings(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tasks\.fit: 2 shares; a training job does its work as a whole"):
            compiled(with_task(fits.compose(Fits()), "fit", for_each=ForEach(shares=2)))

    def test_network_and_keys(self) -> None:
        request = own(
            network={"subnets": ["subnet-1"], "security_groups": ["sg-1"], "isolate": True, "encrypt": True},
            volume_key="alias/volumes",
            output_key="alias/outputs",
            training={"compression": "none"},
        ).request("fit")
        assert request["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
        assert request["EnableNetworkIsolation"] is request["EnableInterContainerTrafficEncryption"] is True
        assert request["ResourceConfig"]["VolumeKmsKeyId"] == "alias/volumes"
        assert request["OutputDataConfig"]["KmsKeyId"] == "alias/outputs"
        assert request["OutputDataConfig"]["CompressionType"] == "NONE"


class TestWatching:
    def test_tensorboard_is_for_those_that_write_logs(self) -> None:
        assert "TensorBoardOutputConfig" not in own().request("fit")
        assert of_digits().request("train")["TensorBoardOutputConfig"]["LocalPath"] == "/opt/ml/output/tensorboard"
        assert "TensorBoardOutputConfig" not in of_digits(training={"tensorboard": False}).request("train")

    def test_debugger_and_profiler(self) -> None:
        request = of_digits(
            training={
                "debugger": {"collections": {"losses": {"save_interval": "5"}, "all": {}}, "parameters": {"a": "1"}},
                "profiler": {"interval_ms": 1000, "parameters": {"Detailed": "{}"}},
            }
        ).request("train")
        assert request["DebugHookConfig"]["HookParameters"] == {"a": "1"}
        # one place for all executions, or no training would come from the cache
        assert request["DebugHookConfig"]["S3OutputPath"] == "s3://store/millrace/digits/debugger/train"
        assert request["DebugHookConfig"]["CollectionConfigurations"] == [
            {"CollectionName": "all"},
            {"CollectionName": "losses", "CollectionParameters": {"save_interval": "5"}},
        ]
        assert request["ProfilerConfig"]["ProfilingIntervalInMilliseconds"] == 1000
        assert request["ProfilerConfig"]["ProfilingParameters"] == {"Detailed": "{}"}
        assert of_digits().request("train")["ProfilerConfig"] == {"DisableProfiler": True}

    def test_metrics_of_ones_own_stand_beside_those_of_the_component(self) -> None:
        metrics = [{"name": "speed", "regex": r"speed=(\S+)"}]
        definitions = of_digits(training={"metrics": metrics}).request("train")["AlgorithmSpecification"]
        names = [one["Name"] for one in definitions["MetricDefinitions"]]
        assert names == ["accuracy", "loss", "epochs", "speed"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a training really prints."""
    folder = tmp_path_factory.mktemp("task")
    parameters = TrainParameters.model_validate({"epochs": 3, "model": {"kind": "mlp"}, "early_stopping": None})
    request = TaskRequest(
        name="train",
        component=train.spec.entry,
        parameters=parameters.model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=write_picture_records(folder / "records")),)},
    )
    request.write(folder)
    code = f"from pathlib import Path; from millrace.runtime.execute import execute; execute(Path({str(folder)!r}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()


@pytest.mark.slow
class TestMetricsInTheLog:
    def read(self, log: list[str], name: str, intermediate: str | None = None) -> list[float]:
        regex = re.compile(metric_definition(name, intermediate)["Regex"])
        assert regex.groups == 1
        return [float(found[1]) for line in log for found in regex.finditer(line)]

    def printed(self, log: list[str], name: str) -> list[float]:
        """By other means: the words of the epochs' lines."""
        lines = [dict(word.split("=") for word in line.split()) for line in log if line.startswith("epoch=")]
        return [float(line[name]) for line in lines]

    def test_they_are_validations_after_each_epoch_and_the_last_value(self, log: list[str]) -> None:
        (last,) = [line for line in log if " INFO accuracy=" in line]
        values = dict(word.split("=") for word in last.split("INFO ")[1].split())
        assert len(self.printed(log, "accuracy")) == 3
        for name in ("accuracy", "loss"):
            assert self.read(log, name) == [*self.printed(log, f"validation_{name}"), float(values[name])]
        assert self.read(log, "epochs") == [3.0]

    def test_an_objective_has_intermediate_values_of_its_own(self, log: list[str]) -> None:
        assert self.read(log, "accuracy", "loss")[:3] == self.printed(log, "loss")


@pytest.mark.parametrize(
    "line", ["accuracy=0.5", "INFO test_accuracy=0.5", "epoch=1 accuracy=0.5", "INFO accuracy=high"]
)
def test_other_lines_hold_no_metric(line: str) -> None:
    assert re.search(metric_definition("accuracy")["Regex"], line) is None


@pytest.mark.parametrize("number", ["0.97", "1", "1e-05", "-3.5", "2.5e+06", "0"])
def test_numbers_of_all_forms_are_read_whole(number: str) -> None:
    found = re.search(metric_definition("loss")["Regex"], f"12:00 INFO accuracy=0.5 loss={number} epochs=3")
    assert found is not None
    assert found[1] == number
