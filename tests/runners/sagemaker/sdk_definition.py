"""A definition made by the step classes of SageMaker's own SDK, on stdout; a process of its own, as it takes long."""

from __future__ import annotations

import os
import sys
from typing import Any

from tests.runners.sagemaker.definitions import PREPARE, STAND_IN, python
from tests.runners.sagemaker.jobs import IMAGE

ROLE = "arn:aws:iam::123456789012:role/anybody"
OFFLINE = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_EC2_METADATA_DISABLED": "true",
    "SAGEMAKER_VALIDATE_ROLE": "false",
}


def main() -> None:
    """Write the definition."""
    os.environ.update(OFFLINE)
    out, sys.stdout = sys.stdout, sys.stderr  # the SDK prints
    out.write(definition())


def definition() -> str:
    """Prepare numbers, and train when there are enough."""
    import boto3
    from sagemaker.core.workflow.conditions import ConditionGreaterThanOrEqualTo
    from sagemaker.core.workflow.functions import Join, JsonGet
    from sagemaker.core.workflow.parameters import ParameterInteger
    from sagemaker.core.workflow.pipeline_context import PipelineSession
    from sagemaker.core.workflow.properties import PropertyFile
    from sagemaker.mlops.workflow.condition_step import ConditionStep
    from sagemaker.mlops.workflow.fail_step import FailStep
    from sagemaker.mlops.workflow.pipeline import Pipeline

    off: dict[str, Any] = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    session: Any = PipelineSession(boto_session=boto3.Session(), default_bucket="anybody", sagemaker_config=off)
    session._default_bucket = "anybody"  # or it asks S3 whether it is there
    size, least = ParameterInteger("size", default_value=3), ParameterInteger("least", default_value=2)
    file = PropertyFile(name="metrics", output_name="metrics", path="metrics.json")
    prepare = _processing(session, size, file)
    found: Any = JsonGet(step_name="Prepare", property_file=file, json_path="size")
    conditions: list[Any] = [ConditionGreaterThanOrEqualTo(left=found, right=least)]
    enough = ConditionStep(
        name="Enough",
        conditions=conditions,
        if_steps=[_training(session, prepare)],
        else_steps=[FailStep(name="TooFew", error_message=Join(on=" ", values=["only", found]))],
    )
    text: str = Pipeline(
        name="anybody", parameters=[size, least], steps=[prepare, enough], sagemaker_session=session
    ).definition()
    return text


def _processing(session: Any, size: Any, file: Any) -> Any:
    from sagemaker.core.processing import Processor
    from sagemaker.core.shapes import ProcessingOutput, ProcessingS3Output
    from sagemaker.mlops.workflow.steps import ProcessingStep

    program: list[Any] = python(PREPARE)
    processor = Processor(
        role=ROLE,
        image_uri=IMAGE,
        instance_count=1,
        instance_type="ml.m5.large",
        entrypoint=program,
        env={"SIZE": size.to_string()},
        sagemaker_session=session,
    )
    outputs = [
        ProcessingOutput(
            output_name=name,
            s3_output=ProcessingS3Output(
                s3_uri=f"s3://anybody/{name}",
                local_path=f"/opt/ml/processing/output/{name}",
                s3_upload_mode="EndOfJob",
            ),
        )
        for name in ("data", "metrics")
    ]
    return ProcessingStep(name="Prepare", step_args=processor.run(outputs=outputs), property_files=[file])


def _training(session: Any, prepare: Any) -> Any:
    from sagemaker.core.shapes import Channel, DataSource, MetricDefinition, S3DataSource
    from sagemaker.mlops.workflow.steps import TrainingStep
    from sagemaker.train.configs import Compute, OutputDataConfig, StoppingCondition
    from sagemaker.train.model_trainer import ModelTrainer

    source = S3DataSource(
        s3_data_type="S3Prefix",
        s3_uri=prepare.properties.ProcessingOutputConfig.Outputs["data"].S3Output.S3Uri,
        s3_data_distribution_type="ShardedByS3Key",
    )
    trainer = ModelTrainer(
        role=ROLE,
        training_image=STAND_IN,
        training_input_mode="File",
        compute=Compute(instance_type="ml.m5.large", instance_count=2, volume_size_in_gb=10),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=300),
        output_data_config=OutputDataConfig(s3_output_path="s3://anybody/models"),
        input_data_config=[Channel(channel_name="data", data_source=DataSource(s3_data_source=source))],
        hyperparameters={"rate": "0.5", "epochs": "3"},
        sagemaker_session=session,
    ).with_metric_definitions([MetricDefinition(name="score", regex="score=([0-9.]+)")])
    return TrainingStep(name="Train", step_args=trainer.train())


if __name__ == "__main__":
    main()
