"""Serving steps by the SDK's own classes: the second half of sdk_steps.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.compilers.sagemaker.sdk_steps import Rebuilding

Json = dict[str, Any]


def model(made: Rebuilding, ours: Json, further: Json) -> Any:
    given = ours["Arguments"]
    request = made.session._create_model_request(  # what ModelBuilder.build() sends
        name="made-by-the-pipeline",
        role=made.value(given["ExecutionRoleArn"]),
        container_defs=made.nested(given["PrimaryContainer"]),
        vpc_config=given.get("VpcConfig"),
        enable_network_isolation=given.get("EnableNetworkIsolation", False),
        tags=given.get("Tags"),
    )
    return _model_step(made, "create_model", request, further)


def registermodel(made: Rebuilding, ours: Json, further: Json) -> Any:
    from sagemaker.core.model_registry import get_create_model_package_request

    given, served = ours["Arguments"], ours["Arguments"]["InferenceSpecification"]
    request = get_create_model_package_request(  # what ModelBuilder.register() sends
        model_package_group_name=given["ModelPackageGroupName"],
        containers=made.nested(served["Containers"]),
        content_types=served["SupportedContentTypes"],
        response_types=served["SupportedResponseMIMETypes"],
        inference_instances=served.get("SupportedRealtimeInferenceInstanceTypes"),
        transform_instances=served.get("SupportedTransformInstanceTypes"),
        model_metrics=made.nested(given.get("ModelMetrics")),
        approval_status=given["ModelApprovalStatus"],
        description=given.get("ModelPackageDescription"),
        customer_metadata_properties=given.get("CustomerMetadataProperties"),
    )
    return _model_step(made, "create_model_package_from_containers", request, further)


def _model_step(made: Rebuilding, caller: str, request: Json, further: Json) -> Any:
    from sagemaker.core.workflow.pipeline_context import _ModelStepArguments
    from sagemaker.mlops.workflow.model_step import ModelStep

    arguments: Any = _ModelStepArguments(SimpleNamespace(sagemaker_session=made.session))
    kind = "create_model_request" if caller == "create_model" else "create_model_package_request"
    setattr(arguments, kind, request)
    arguments.caller_name = caller
    return ModelStep(step_args=arguments, **further)


def endpointconfig(made: Rebuilding, ours: Json, further: Json) -> Any:
    from sagemaker.mlops.workflow.endpoint_step import EndpointConfigStep

    given = ours["Arguments"]
    request = made.session.create_endpoint_config(
        name=made.value(given["EndpointConfigName"]),
        production_variants=made.nested(given["ProductionVariants"]),
        data_capture_config_dict=made.nested(given.get("DataCaptureConfig")),
        tags=given.get("Tags"),
        kms_key=given.get("KmsKeyId"),
    )
    return EndpointConfigStep(step_args=request, **further)


def endpoint(made: Rebuilding, ours: Json, further: Json) -> Any:
    from sagemaker.mlops.workflow.endpoint_step import EndpointStep

    given = ours["Arguments"]
    request = made.session.create_endpoint(
        endpoint_name=made.value(given["EndpointName"]),
        config_name=made.value(given["EndpointConfigName"]),
        tags=given.get("Tags"),
    )
    return EndpointStep(step_args=request, **further)


def transform(made: Rebuilding, ours: Json, further: Json) -> Any:
    from sagemaker.core.transformer import Transformer
    from sagemaker.mlops.workflow.steps import TransformStep

    given = ours["Arguments"]
    taken, output, machines = given["TransformInput"], given["TransformOutput"], given["TransformResources"]
    transformer = Transformer(
        model_name=made.value(given["ModelName"]),
        instance_count=machines["InstanceCount"],
        instance_type=machines["InstanceType"],
        volume_kms_key=machines.get("VolumeKmsKeyId"),
        strategy=given.get("BatchStrategy"),
        max_concurrent_transforms=given.get("MaxConcurrentTransforms"),
        max_payload=given.get("MaxPayloadInMB"),
        env=given.get("Environment"),
        output_path=made.value(output["S3OutputPath"]),
        output_kms_key=output.get("KmsKeyId"),
        accept=output.get("Accept"),
        assemble_with=output.get("AssembleWith"),
        tags=given.get("Tags"),
        sagemaker_session=made.session,
    )
    source = taken["DataSource"]["S3DataSource"]
    request = transformer.transform(
        data=made.value(source["S3Uri"]),
        data_type=source["S3DataType"],
        content_type=taken.get("ContentType"),
        compression_type=taken.get("CompressionType"),
        split_type=taken.get("SplitType"),
    )
    return TransformStep(step_args=request, **further)
