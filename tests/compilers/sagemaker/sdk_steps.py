"""Rebuild a definition with the step classes of SageMaker's own SDK: theirs on stdout for ours on stdin.

A process of its own (`python -m tests.compilers.sagemaker.sdk_steps`): the SDK takes ten seconds to import, asks for a
region while it does, and changes logging.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from typing import Any, cast

from tests.compilers.sagemaker import sdk_serving

Json = dict[str, Any]
REGION = "us-east-1"
OFFLINE = {
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_EC2_METADATA_DISABLED": "true",
    "SAGEMAKER_VALIDATE_ROLE": "false",
}


def main() -> None:
    """Read ours, write theirs: definitions by name."""
    os.environ.update(OFFLINE)
    ours = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # the SDK prints
    json.dump({name: json.loads(Rebuilding(one).definition()) for name, one in ours.items()}, out)


class Rebuilding:
    """One definition."""

    def __init__(self, ours: Json) -> None:
        import boto3
        from sagemaker.core.workflow.pipeline_context import PipelineSession

        self.ours = ours
        off: Json = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
        self.session: Any = PipelineSession(
            boto_session=boto3.Session(region_name=REGION), default_bucket="store", sagemaker_config=off
        )
        self.session._default_bucket = "store"  # or it asks S3 whether it is there
        self.parameters = {one["Name"]: _parameter(one) for one in ours["Parameters"]}

    def definition(self) -> str:
        """What the SDK makes of it."""
        from sagemaker.mlops.workflow.pipeline import Pipeline

        pipeline = Pipeline(
            name="ours",
            parameters=list(self.parameters.values()),
            steps=[self.step(step) for step in self.ours["Steps"]],
            sagemaker_session=self.session,
        )
        text: str = pipeline.definition()
        return text

    def value(self, given: Any) -> Any:
        """A variable as the SDK's object; all else as it is."""
        from sagemaker.core.workflow.execution_variables import ExecutionVariable
        from sagemaker.core.workflow.functions import Join, JsonGet
        from sagemaker.core.workflow.properties import Properties

        if not isinstance(given, dict) or len(given) != 1:
            return given
        ((function, inside),) = given.items()
        if function == "Std:Join":
            return Join(on=inside["On"], values=[self.value(one) for one in inside["Values"]])
        if function == "Std:JsonGet":
            _, step, _, file = inside["PropertyFile"]["Get"].split(".")
            return JsonGet(step_name=step, property_file=file, json_path=inside["Path"])
        kind, _, name = inside.partition(".")
        if kind == "Parameters":
            return self.parameters[name]
        if kind == "Execution":
            return ExecutionVariable(name)
        step, _, path = name.partition(".")
        return Properties(step_name=step, path=path)

    def values(self, given: Json) -> Json:
        """The values of a mapping, in the SDK's spelling of its keys."""
        return {_snake(key): self.value(value) for key, value in given.items()}

    def step(self, ours: Json) -> Any:
        """A step by the SDK's class of its type."""
        kind = ours["Type"].lower()
        own = getattr(self, f"_{kind}", None)
        make = own or partial(getattr(sdk_serving, kind), self)
        further: Json = {"name": ours["Name"]}
        if "DependsOn" in ours:
            further["depends_on"] = ours["DependsOn"]
        if "CacheConfig" in ours:
            from sagemaker.mlops.workflow.steps import CacheConfig

            config, make_cache = ours["CacheConfig"], cast("Any", CacheConfig)
            further["cache_config"] = make_cache(config["Enabled"], config.get("ExpireAfter"))
        if "RetryPolicies" in ours:
            further["retry_policies"] = [_retry(policy) for policy in ours["RetryPolicies"]]
        return make(ours, further)

    def _processing(self, ours: Json, further: Json) -> Any:
        from sagemaker.core.network import NetworkConfig
        from sagemaker.core.processing import Processor
        from sagemaker.core.shapes import ProcessingInput, ProcessingOutput, ProcessingS3Input, ProcessingS3Output
        from sagemaker.core.workflow.properties import PropertyFile
        from sagemaker.mlops.workflow.steps import ProcessingStep

        given, network = ours["Arguments"], ours["Arguments"].get("NetworkConfig")
        cluster, program = given["ProcessingResources"]["ClusterConfig"], given["AppSpecification"]
        vpc = (network or {}).get("VpcConfig", {})
        processor = Processor(
            role=self.value(given["RoleArn"]),
            image_uri=self.value(program["ImageUri"]),
            instance_count=self.value(cluster["InstanceCount"]),
            instance_type=self.value(cluster["InstanceType"]),
            volume_size_in_gb=cluster["VolumeSizeInGB"],
            volume_kms_key=cluster.get("VolumeKmsKeyId"),
            output_kms_key=given.get("ProcessingOutputConfig", {}).get("KmsKeyId"),
            entrypoint=program["ContainerEntrypoint"],
            max_runtime_in_seconds=given["StoppingCondition"]["MaxRuntimeInSeconds"],
            env=given.get("Environment"),
            tags=given.get("Tags"),
            network_config=None
            if network is None
            else NetworkConfig(
                enable_network_isolation=network.get("EnableNetworkIsolation"),
                encrypt_inter_container_traffic=network.get("EnableInterContainerTrafficEncryption"),
                security_group_ids=vpc.get("SecurityGroupIds"),
                subnets=vpc.get("Subnets"),
            ),
            sagemaker_session=self.session,
        )
        inputs = [
            ProcessingInput(input_name=one["InputName"], s3_input=ProcessingS3Input(**self.values(one["S3Input"])))
            for one in given.get("ProcessingInputs", ())
        ]
        outputs = [
            ProcessingOutput(
                output_name=one["OutputName"], s3_output=ProcessingS3Output(**self.values(one["S3Output"]))
            )
            for one in given.get("ProcessingOutputConfig", {}).get("Outputs", ())
        ]
        words = [self.value(one) for one in program["ContainerArguments"]]
        files = [
            PropertyFile(name=one["PropertyFileName"], output_name=one["OutputName"], path=one["FilePath"])
            for one in ours.get("PropertyFiles", ())
        ]
        request = processor.run(inputs=inputs or None, outputs=outputs or None, arguments=words)
        return ProcessingStep(step_args=request, property_files=files, **further)

    def _trainer(self, given: Json) -> Any:
        from sagemaker.core.shapes import MetricDefinition, RetryStrategy, Tag
        from sagemaker.train.configs import (
            CheckpointConfig,
            Compute,
            InstanceGroup,
            Networking,
            OutputDataConfig,
            StoppingCondition,
            TensorBoardOutputConfig,
        )
        from sagemaker.train.model_trainer import ModelTrainer

        algorithm, machines = given["AlgorithmSpecification"], dict(given["ResourceConfig"])
        groups = [InstanceGroup(**self.values(one)) for one in machines.pop("InstanceGroups", ())]
        compute = Compute(
            **self.values(machines),
            **({"instance_groups": groups} if groups else {}),
            enable_managed_spot_training=given.get("EnableManagedSpotTraining"),
        )
        network = {
            **self.values(given.get("VpcConfig", {})),
            **{
                _snake(name): given[name]
                for name in ("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption")
                if name in given
            },
        }
        trainer = ModelTrainer(
            role=self.value(given["RoleArn"]),
            training_image=self.value(algorithm["TrainingImage"]),
            training_input_mode=algorithm["TrainingInputMode"],
            compute=compute,
            networking=Networking(**network) if network else None,
            stopping_condition=StoppingCondition(**self.values(given["StoppingCondition"])),
            output_data_config=OutputDataConfig(**self.values(given["OutputDataConfig"])),
            input_data_config=[self._channel(one) for one in given.get("InputDataConfig", ())],
            checkpoint_config=CheckpointConfig(**self.values(given["CheckpointConfig"]))
            if "CheckpointConfig" in given
            else None,
            environment={key: self.value(one) for key, one in given.get("Environment", {}).items()},
            hyperparameters={
                key: self.value(one)
                for key, one in {**given.get("HyperParameters", {}), **given.get("StaticHyperParameters", {})}.items()
            },
            tags=[Tag(**self.values(one)) for one in given.get("Tags", ())] or None,
            sagemaker_session=self.session,
        )
        metrics = [MetricDefinition(name=one["Name"], regex=one["Regex"]) for one in algorithm["MetricDefinitions"]]
        trainer = trainer.with_metric_definitions(metrics)
        if "TensorBoardOutputConfig" in given:
            board = TensorBoardOutputConfig(**self.values(given["TensorBoardOutputConfig"]))
            trainer = trainer.with_tensorboard_output_config(board)
        if "RetryStrategy" in given:
            trainer = trainer.with_retry_strategy(RetryStrategy(**self.values(given["RetryStrategy"])))
        return trainer

    def _channel(self, given: Json) -> Any:
        from sagemaker.core.shapes import Channel, DataSource, S3DataSource

        further = {key: value for key, value in given.items() if key not in ("ChannelName", "DataSource")}
        source = S3DataSource(**self.values(given["DataSource"]["S3DataSource"]))
        name = given["ChannelName"]
        return Channel(channel_name=name, data_source=DataSource(s3_data_source=source), **self.values(further))

    def _training(self, ours: Json, further: Json) -> Any:
        from sagemaker.mlops.workflow.steps import TrainingStep

        return TrainingStep(step_args=self._trainer(ours["Arguments"]).train(), **further)

    def _tuning(self, ours: Json, further: Json) -> Any:
        from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
        from sagemaker.core.shapes import (
            HyperbandStrategyConfig,
            HyperParameterTuningJobStrategyConfig,
            HyperParameterTuningJobWarmStartConfig,
            ParentHyperParameterTuningJob,
        )
        from sagemaker.mlops.workflow.steps import TuningStep
        from sagemaker.train.tuner import HyperparameterTuner

        given = ours["Arguments"]
        config, definition = given["HyperParameterTuningJobConfig"], given["TrainingJobDefinition"]
        kinds = {"ContinuousParameterRanges": ContinuousParameter, "IntegerParameterRanges": IntegerParameter}
        ranges: dict[Any, Any] = {}
        for kind, make in kinds.items():
            for one in config["ParameterRanges"].get(kind, ()):
                ends = [make.cast_to_type(one[end]) for end in ("MinValue", "MaxValue")]
                ranges[one["Name"]] = make(*ends, one["ScalingType"])
        for one in config["ParameterRanges"].get("CategoricalParameterRanges", ()):
            ranges[one["Name"]] = CategoricalParameter(one["Values"])
        warm, band = given.get("WarmStartConfig"), config.get("StrategyConfig", {}).get("HyperbandStrategyConfig")
        limits, objective = config["ResourceLimits"], config["HyperParameterTuningJobObjective"]
        tuner = HyperparameterTuner(
            model_trainer=self._trainer(definition),
            objective_metric_name=objective["MetricName"],
            objective_type=objective["Type"],
            hyperparameter_ranges=ranges,
            metric_definitions=definition["AlgorithmSpecification"]["MetricDefinitions"],
            strategy=config["Strategy"],
            max_jobs=limits.get("MaxNumberOfTrainingJobs"),
            max_parallel_jobs=limits["MaxParallelTrainingJobs"],
            early_stopping_type=config["TrainingJobEarlyStoppingType"],
            random_seed=config.get("RandomSeed"),
            tags=given.get("Tags"),
            strategy_config=None
            if band is None
            else HyperParameterTuningJobStrategyConfig(
                hyperband_strategy_config=HyperbandStrategyConfig(**self.values(band))
            ),
            warm_start_config=None
            if warm is None
            else HyperParameterTuningJobWarmStartConfig(
                warm_start_type=warm["WarmStartType"],
                parent_hyper_parameter_tuning_jobs=[
                    ParentHyperParameterTuningJob(**self.values(one)) for one in warm["ParentHyperParameterTuningJobs"]
                ],
            ),
        )
        channels = [self._channel(one) for one in definition.get("InputDataConfig", ())]
        return TuningStep(step_args=tuner.tune(inputs=channels), **further)

    def _condition(self, ours: Json, further: Json) -> Any:
        from sagemaker.mlops.workflow.condition_step import ConditionStep

        given = ours["Arguments"]
        return ConditionStep(
            conditions=[self._compared(one) for one in given["Conditions"]],
            if_steps=[self.step(one) for one in given["IfSteps"]],
            else_steps=[self.step(one) for one in given["ElseSteps"]],
            **further,
        )

    def _compared(self, given: Json) -> Any:
        from sagemaker.core.workflow import conditions

        make = getattr(conditions, f"Condition{given['Type']}")
        if given["Type"] == "Not":
            return make(expression=self._compared(given["Condition"]))
        if given["Type"] == "Or":
            return make(conditions=[self._compared(one) for one in given["Conditions"]])
        return make(left=self.value(given["LeftValue"]), right=self.value(given["RightValue"]))

    def _fail(self, ours: Json, further: Json) -> Any:
        from sagemaker.mlops.workflow.fail_step import FailStep

        return FailStep(error_message=self.value(ours["Arguments"]["ErrorMessage"]), **further)

    def nested(self, given: Any) -> Any:
        """All variables below a value as the SDK's objects, keys as they are."""
        if isinstance(given, list):
            return [self.nested(one) for one in given]
        if isinstance(given, dict) and not given.keys() & {"Get", "Std:Join", "Std:JsonGet"}:
            return {key: self.nested(one) for key, one in given.items()}
        return self.value(given)


def _snake(name: str) -> str:
    from sagemaker.core.utils.utils import pascal_to_snake

    found: str = pascal_to_snake(name)
    return found


def _parameter(given: Json) -> Any:
    from sagemaker.core.workflow import parameters

    further = {"enum_values": given["EnumValues"]} if "EnumValues" in given else {}
    make = getattr(parameters, f"Parameter{given['Type']}")
    return make(name=given["Name"], default_value=given.get("DefaultValue"), **further)


def _retry(given: Json) -> Any:
    from sagemaker.mlops.workflow.retry import (
        SageMakerJobExceptionTypeEnum,
        SageMakerJobStepRetryPolicy,
        StepExceptionTypeEnum,
        StepRetryPolicy,
    )

    times = {
        "backoff_rate": given["BackoffRate"],
        "interval_seconds": given["IntervalSeconds"],
        "max_attempts": given.get("MaxAttempts"),
        "expire_after_mins": given.get("ExpireAfterMin"),
    }
    if given["ExceptionType"][0].startswith("Step."):
        return StepRetryPolicy(exception_types=_faults(StepExceptionTypeEnum, given), **times)
    return SageMakerJobStepRetryPolicy(exception_types=_faults(SageMakerJobExceptionTypeEnum, given), **times)


def _faults(known: Any, given: Json) -> list[Any]:
    """Members of an enumeration; calling it gives the first one for any value."""
    by_value = {one.value: one for one in known}
    return [by_value[one] for one in given["ExceptionType"]]


if __name__ == "__main__":
    main()
