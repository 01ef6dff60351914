"""A definition with every kind of step, as SageMaker takes it: what tests of the check plant mistakes in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["ROLE", "changed", "clean", "set_in"]

ROLE = "arn:aws:iam::123456789012:role/pipelines"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/millrace/data:1.0"
Json = dict[str, Any]


def clean() -> Json:
    """The definition; a new one each time."""
    found: Json = json.loads(json.dumps(_CLEAN))  # nothing of it is shared
    return found


def changed(changes: Mapping[str, Any], drops: list[str] | None = None) -> str:
    """The definition's text with changes by JSON pointers (`Steps/0/Name`); `-` adds to a list."""
    document = clean()
    for pointer, value in changes.items():
        set_in(document, pointer, value)
    for pointer in drops or []:
        *way, last = keys_of(pointer, document)
        part = _below(document, way)
        del part[last]
    return json.dumps(document)


def set_in(document: Json, pointer: str, value: Any) -> None:
    """Put a value at a pointer; a step's name stands for its place."""
    *way, last = keys_of(pointer, document)
    part = _below(document, way)
    if last == "-":
        part.append(value)
    else:
        part[last] = value


def keys_of(pointer: str, document: Json) -> list[str | int]:
    """`@train/Arguments/RoleArn` as keys: `@NAME` is the step of that name."""
    keys: list[str | int] = []
    for part in pointer.split("/"):
        if part.startswith("@"):
            keys += _place(document["Steps"], part[1:], ["Steps"])
        else:
            keys.append(int(part) if part.isdigit() else part.replace("~1", "/"))
    return keys


def _place(steps: list[Json], name: str, way: list[str | int]) -> list[str | int]:
    for index, step in enumerate(steps):
        if step["Name"] == name:
            return [*way, index]
        for branch in ("IfSteps", "ElseSteps"):
            if found := _place(step["Arguments"].get(branch, []), name, [*way, index, "Arguments", branch]):
                return found
    return []


def _below(part: Any, way: list[str | int]) -> Any:
    for key in way:
        part = part.setdefault(key, {}) if isinstance(part, dict) else part[key]
    return part


def get(path: str) -> Json:
    return {"Get": path}


def place(*parts: Any) -> Json:
    return {"Std:Join": {"On": "/", "Values": ["s3:/", get("Parameters.bucket"), *parts]}}


def processing(name: str, *, arguments: list[Any], inputs: list[Json], outputs: list[str], **further: Any) -> Json:
    request = {
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 30}
        },
        "AppSpecification": {
            "ImageUri": IMAGE,
            "ContainerEntrypoint": ["millrace", "exec"],
            "ContainerArguments": arguments,
        },
        "RoleArn": ROLE,
        "ProcessingInputs": inputs,
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": port,
                    "S3Output": {
                        "S3Uri": place(get("Execution.PipelineExecutionId"), name, port),
                        "LocalPath": f"/opt/ml/processing/output/{port}",
                        "S3UploadMode": "EndOfJob",
                    },
                }
                for port in outputs
            ]
        },
        "Environment": {"LEVEL": "info"},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }
    return {"Name": name, "Type": "Processing", "Arguments": request, **further}


def taken(name: str, uri: Any, distribution: str = "FullyReplicated") -> Json:
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": uri,
            "LocalPath": f"/opt/ml/processing/input/{name}",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": distribution,
        },
    }


def channel(name: str, uri: Any) -> Json:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def variant(name: str, weight: float) -> Json:
    return {
        "VariantName": name,
        "ModelName": get("Steps.model.ModelName"),
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 2,
        "InitialVariantWeight": weight,
    }


RECORDS = get("Steps.preprocess.ProcessingOutputConfig.Outputs['records'].S3Output.S3Uri")
MODEL = get("Steps.train.ModelArtifacts.S3ModelArtifacts")
METRICS = [{"Name": "accuracy", "Regex": "accuracy=([0-9.]+)"}, {"Name": "loss", "Regex": "loss=([0-9.]+)"}]
RETRIES = [
    {"ExceptionType": ["Step.SERVICE_FAULT"], "IntervalSeconds": 2, "BackoffRate": 2.0, "MaxAttempts": 2},
    {"ExceptionType": ["SageMaker.CAPACITY_ERROR"], "IntervalSeconds": 2, "BackoffRate": 2.0, "ExpireAfterMin": 60},
]
PREPROCESS = processing(
    "preprocess",
    arguments=["millrace.components.preprocess.spec:preprocess", "--task", "preprocess"],
    inputs=[
        taken("plan", "s3://data/plan/plan.json"),
        taken("plan+shards", "s3://data/plan/shards/", "ShardedByS3Key"),
    ],
    outputs=["records", "rejects"],
    CacheConfig={"Enabled": True, "ExpireAfter": "P30D"},
    RetryPolicies=RETRIES,
)
PREPROCESS["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = 2
TUNE: Json = {
    "Name": "tune",
    "Type": "Tuning",
    "Arguments": {
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "accuracy"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 10, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {
                "ContinuousParameterRanges": [
                    {"Name": "learning_rate", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
                ],
                "IntegerParameterRanges": [{"Name": "epochs", "MinValue": "1", "MaxValue": "9", "ScalingType": "Auto"}],
                "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ["adam", "sgd"]}],
            },
            "TrainingJobEarlyStoppingType": "Auto",
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {"batch_size": "32"},
            "AlgorithmSpecification": {
                "TrainingImage": IMAGE,
                "TrainingInputMode": "File",
                "MetricDefinitions": METRICS,
            },
            "RoleArn": ROLE,
            "InputDataConfig": [channel("records", RECORDS)],
            "OutputDataConfig": {"S3OutputPath": place("tune")},
            "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        },
        "WarmStartConfig": {
            "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "earlier-search"}],
            "WarmStartType": "TransferLearning",
        },
    },
}
TRAIN: Json = {
    "Name": "train",
    "Type": "Training",
    "Arguments": {
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": METRICS,
        },
        "HyperParameters": {
            "epochs": {"Std:Join": {"On": "", "Values": [get("Parameters.train_epochs")]}},
            "learning_rate": get("Steps.tune.BestTrainingJob.TunedHyperParameters['learning_rate']"),
        },
        "RoleArn": ROLE,
        "InputDataConfig": [channel("records", RECORDS), channel("extra", "s3://data/extra")],
        "OutputDataConfig": {"S3OutputPath": place("train")},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
        "EnableManagedSpotTraining": True,
        "CheckpointConfig": {"S3Uri": place("checkpoints"), "LocalPath": "/opt/ml/checkpoints"},
        "Environment": {"MILLRACE_TASK": "train"},
        "Tags": [{"Key": "team", "Value": "vision"}],
    },
    "RetryPolicies": RETRIES,
}
EVALUATE = processing(
    "evaluate",
    arguments=["millrace.components.evaluate.spec:evaluate", "--task", "evaluate"],
    inputs=[taken("model", MODEL), taken("records", RECORDS)],
    outputs=["metrics", "report"],
    PropertyFiles=[{"PropertyFileName": "metrics", "OutputName": "metrics", "FilePath": "metrics.json"}],
)
ACCURACY: Json = {
    "Std:JsonGet": {"PropertyFile": get("Steps.evaluate.PropertyFiles.metrics"), "Path": "accuracy"},
}
DEPLOYED: list[Json] = [
    {
        "Name": "model",
        "Type": "Model",
        "Arguments": {
            "ExecutionRoleArn": ROLE,
            "PrimaryContainer": {"Image": IMAGE, "ModelDataUrl": MODEL, "Environment": {"LEVEL": "info"}},
        },
    },
    {
        "Name": "register",
        "Type": "RegisterModel",
        "Arguments": {
            "ModelPackageGroupName": "digits",
            "ModelApprovalStatus": "PendingManualApproval",
            "InferenceSpecification": {
                "Containers": [{"Image": IMAGE, "ModelDataUrl": MODEL}],
                "SupportedContentTypes": ["application/json"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        },
    },
    {
        "Name": "config",
        "Type": "EndpointConfig",
        "Arguments": {
            "EndpointConfigName": "digits-1",
            "ProductionVariants": [variant("main", 1), variant("other", 0.5)],
        },
    },
    {
        "Name": "endpoint",
        "Type": "Endpoint",
        "Arguments": {
            "EndpointName": "digits",
            "EndpointConfigName": get("Steps.config.EndpointConfigName"),
            "DeploymentConfig": {
                "BlueGreenUpdatePolicy": {
                    "TrafficRoutingConfiguration": {
                        "Type": "CANARY",
                        "WaitIntervalInSeconds": 300,
                        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
                    },
                    "TerminationWaitInSeconds": 60,
                    "MaximumExecutionTimeoutInSeconds": 3600,
                },
                "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]},
            },
        },
    },
    {
        "Name": "answers",
        "Type": "Transform",
        "Arguments": {
            "ModelName": get("Steps.model.ModelName"),
            "MaxConcurrentTransforms": 4,
            "MaxPayloadInMB": 6,
            "TransformInput": {
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://data/pictures"}},
                "ContentType": "image/png",
            },
            "TransformOutput": {"S3OutputPath": place("answers")},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        },
    },
]
_CLEAN: Json = {
    "Version": "2020-12-01",
    "Metadata": {},
    "Parameters": [
        {"Name": "bucket", "Type": "String"},
        {"Name": "train_epochs", "Type": "Integer", "DefaultValue": 3},
        {"Name": "threshold", "Type": "Float", "DefaultValue": 0.9},
        {"Name": "instance", "Type": "String", "DefaultValue": "ml.m5.large", "EnumValues": ["ml.m5.large"]},
    ],
    "PipelineExperimentConfig": {
        "ExperimentName": get("Execution.PipelineName"),
        "TrialName": get("Execution.PipelineExecutionId"),
    },
    "Steps": [
        PREPROCESS,
        TUNE,
        TRAIN,
        EVALUATE,
        {
            "Name": "good",
            "Type": "Condition",
            "Arguments": {
                "Conditions": [
                    {
                        "Type": "GreaterThanOrEqualTo",
                        "LeftValue": ACCURACY,
                        "RightValue": get("Parameters.threshold"),
                    },
                    {
                        "Type": "LessThan",
                        "LeftValue": get("Steps.train.FinalMetricDataList['loss'].Value"),
                        "RightValue": 1,
                    },
                ],
                "IfSteps": DEPLOYED,
                "ElseSteps": [
                    {
                        "Name": "bad",
                        "Type": "Fail",
                        "Arguments": {
                            "ErrorMessage": {"Std:Join": {"On": " ", "Values": ["accuracy is", ACCURACY]}},
                        },
                    }
                ],
            },
            "DependsOn": ["tune"],
        },
    ],
}
PREPROCESS["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceType"] = get("Parameters.instance")
