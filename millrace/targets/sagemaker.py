"""SageMaker: where jobs run and what they may reach, how models are tuned and served, and who asks.

Defaults are here; `conf/target/sagemaker.yaml` and a person's own files hold what differs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from millrace.specs import Frozen
from millrace.targets.aws_names import Arn, Bucket, Instance, Prefix, Region, RoleArn, S3Uri
from millrace.targets.images import Images

__all__ = [
    "Arn",
    "Capture",
    "Cooldowns",
    "CustomMetric",
    "Debugger",
    "EndpointWork",
    "InputMode",
    "InstanceGroup",
    "JobSettings",
    "MetricDefinition",
    "Network",
    "Profiler",
    "Registration",
    "Rollout",
    "SageMaker",
    "ScheduledCapacity",
    "Serving",
    "Session",
    "Training",
    "Transform",
    "Tuning",
    "Variant",
    "WarmStart",
]

InputMode = Literal["File", "FastFile", "Pipe"]


Key = Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^[a-zA-Z0-9:/_-]+$")]
"""A KMS key: its id, its ARN, or `alias/NAME`."""
VpcId = Annotated[str, Field(pattern=r"^[0-9a-zA-Z-]{1,32}$")]
TagKey = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$")]
TagValue = Annotated[str, Field(max_length=256, pattern=r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$")]
_SECRETS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})


class Network(Frozen):
    """What jobs and endpoints may reach."""

    subnets: tuple[VpcId, ...] = Field(default=(), max_length=16)
    """Of your VPC; with none, jobs run in SageMaker's own network."""
    security_groups: tuple[VpcId, ...] = Field(default=(), max_length=5)
    """Of your VPC; hosts of one job must be allowed to reach each other."""
    isolate: bool = False
    """No network for containers but among the hosts of one job. Inputs and outputs still travel; what a task reads or
    writes by itself, `manifest.source=s3://...` for one, does not. The step that asks an endpoint is not isolated."""
    encrypt: bool = False
    """Encrypt what the hosts of one job send each other."""

    @model_validator(mode="after")
    def _both(self) -> Network:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together: give both, or neither")
        return self


class JobSettings(Frozen):
    """What a task's job gets; what is null stays the task's own."""

    instance: Instance | None = None
    """Machine type; null takes the cheapest that holds the task's processors, memory and GPUs."""
    volume_gib: int | None = Field(default=None, ge=1, le=16_384)
    """Size of the machine's volume in GiB; null takes the task's `disk_gib`."""
    timeout_minutes: float | None = Field(default=None, gt=0)
    """The job is ended when it runs longer."""
    retries: int | None = Field(default=None, ge=0, le=20)
    """Attempts after the first, for faults of the service and a lack of machines."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Plain variables. They stand in the document: secrets do not belong here."""
    cache: bool | None = None
    """False runs the task each time; null leaves it to the pipeline."""

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, given: dict[str, str]) -> dict[str, str]:
        for name in sorted(_SECRETS & given.keys()):
            raise ValueError(
                f"{name}: it would stand in the document for all to read: jobs have the credentials of target.role, "
                "leave it out"
            )
        return given


class InstanceGroup(Frozen):
    """Machines of one type in a training on machines of several types."""

    name: str = Field(min_length=1, max_length=64)
    instance: Instance
    count: int = Field(default=1, ge=1)


class MetricDefinition(Frozen):
    """A number that SageMaker reads from the log."""

    name: str = Field(min_length=1, max_length=255)
    regex: str = Field(min_length=1, max_length=500)
    """With one group, which is the number."""


class Debugger(Frozen):
    """SageMaker Debugger, for training code that its hook library is built into."""

    collections: dict[str, dict[str, str]] = Field(default_factory=dict, max_length=20)
    """Parameters of each collection of tensors, by its name."""
    parameters: dict[str, str] = Field(default_factory=dict, max_length=20)
    """Parameters of the hook."""


class Profiler(Frozen):
    """SageMaker Profiler: figures of the machines while a job runs."""

    interval_ms: Literal[100, 200, 500, 1000, 60000] = 500
    """Time between two looks at the machine."""
    parameters: dict[str, str] = Field(default_factory=dict, max_length=20)
    """What frameworks are asked to record."""


class Training(Frozen):
    """How training jobs run."""

    mode: InputMode = "File"
    """How channels come: copied before (File), files that are fetched while they are read (FastFile), or a stream."""
    channels: dict[str, InputMode] = Field(default_factory=dict)
    """Another mode for single inputs, by their names."""
    groups: tuple[InstanceGroup, ...] = Field(default=(), max_length=5)
    """Machines of several types instead of `instance`; the hosts are all of them together."""
    spot: bool = False
    """Spare capacity at a lower price: the job may be interrupted, and goes on from its checkpoint."""
    max_wait_minutes: float | None = Field(default=None, gt=0)
    """With spot: the longest time from start to end, waiting included; null is twice the time limit."""
    warm_pool_minutes: int | None = Field(default=None, ge=0, le=60)
    """Keep the machines after the job for the next one that wants the same."""
    metrics: tuple[MetricDefinition, ...] = Field(default=(), max_length=30)
    """Read from the log beside those that the component declares."""
    tensorboard: bool = True
    """Store event files where TensorBoard in Studio finds them, while the job runs."""
    debugger: Debugger | None = None
    profiler: Profiler | None = None
    """Null turns it off."""
    compression: Literal["gzip", "none"] = "gzip"
    """Form of the stored model: one archive, or its files."""

    @model_validator(mode="after")
    def _waiting(self) -> Training:
        if self.max_wait_minutes is not None and not self.spot:
            raise ValueError(
                f"max_wait_minutes={self.max_wait_minutes:g}: only spot capacity is waited for: set spot=true, or "
                "leave it out"
            )
        return self


class WarmStart(Frozen):
    """Earlier tuning jobs to learn from."""

    kind: Literal["TransferLearning", "IdenticalDataAndAlgorithm"] = "TransferLearning"
    """TransferLearning: data or ranges may differ; IdenticalDataAndAlgorithm: only the number of jobs may."""
    parents: tuple[Annotated[str, Field(min_length=1, max_length=32)], ...] = Field(min_length=1, max_length=5)
    """Names of tuning jobs."""


class Tuning(Frozen):
    """Who searches parameters, and how."""

    kind: Literal["job", "task"] = "job"
    """job: a tuning job of SageMaker; task: Optuna in the step's own machine."""
    strategy: Literal["Bayesian", "Random", "Hyperband", "Grid"] | None = None
    """Null follows the task: its sampler `tpe` is Bayesian, `random` is Random, its pruner `hyperband` is Hyperband."""
    early_stopping: Literal["Auto", "Off"] | None = None
    """End jobs that will not be the best; null is Auto where the task's pruner is `median`."""
    scaling: dict[str, Literal["Auto", "Linear", "Logarithmic", "ReverseLogarithmic"]] = Field(default_factory=dict)
    """How ranges are searched, by parameter; others are Logarithmic where the task says `log`, else Linear."""
    warm_start: WarmStart | None = None
    seed: int | None = Field(default=None, ge=0)
    """Of the strategy; null takes the task's."""


class Cooldowns(Frozen):
    """Seconds between two changes of the number of machines."""

    out: int = Field(default=60, ge=0)
    """After machines were added."""
    back: int = Field(default=300, ge=0)
    """After machines were taken away."""


class CustomMetric(Frozen):
    """A CloudWatch metric that is held at a target instead of `deploy.scaling.metric`."""

    name: str
    namespace: str
    statistic: Literal["Average", "Minimum", "Maximum", "SampleCount", "Sum"] = "Average"
    dimensions: dict[str, str] = Field(default_factory=dict)
    """With none: those of the endpoint, EndpointName and VariantName."""
    target: float = Field(gt=0)


class ScheduledCapacity(Frozen):
    """Another number of machines at certain times."""

    name: str = Field(min_length=1, max_length=256)
    schedule: str
    """`cron(0 8 * * ? *)`, `rate(1 day)` or `at(2027-01-31T08:00:00)`."""
    timezone: str = "UTC"
    min_replicas: int | None = Field(default=None, ge=0)
    max_replicas: int | None = Field(default=None, ge=1)


class Capture(Frozen):
    """Keep requests and answers for a look at them later."""

    percent: int = Field(default=100, ge=1, le=100)
    """Of the requests."""
    uri: S3Uri | None = None
    """Null is a folder of the pipeline's own."""
    requests: bool = True
    answers: bool = True


class Rollout(Frozen):
    """How a new model takes over from the one that is served: beside it, then in its place."""

    kind: Literal["all_at_once", "canary", "linear"] = "all_at_once"
    percent: int = Field(default=10, ge=1, le=50)
    """Of the machines: those of the canary, or of each linear step."""
    wait_minutes: int = Field(default=5, ge=0, le=60)
    """Between two steps."""
    keep_minutes: int = Field(default=0, ge=0, le=60)
    """How long the old machines stay after the new ones have all requests."""
    timeout_minutes: int = Field(default=60, ge=10, le=480)
    alarms: tuple[str, ...] = Field(default=(), max_length=10)
    """Names of CloudWatch alarms; when one goes off, the old model comes back."""


class Registration(Frozen):
    """A version of the model in the registry."""

    group: str = Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    """Model package group; the service makes one that is not there."""
    approval: Literal["Approved", "PendingManualApproval", "Rejected"] = "PendingManualApproval"
    description: str | None = Field(default=None, max_length=1024)
    content_types: tuple[str, ...] = ("application/json", "image/jpeg", "image/png")
    response_types: tuple[str, ...] = ("application/json",)


class Variant(Frozen):
    """Another model behind the same endpoint."""

    name: str = Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    model: str = Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    """Name of a model of SageMaker's."""
    weight: float = Field(default=1, ge=0)
    """Its requests, in proportion to the weights of all."""
    instance: Instance | None = None
    """Null takes that of the pipeline's own model."""
    count: int = Field(default=1, ge=1)


class Serving(Frozen):
    """Who serves a deployed model."""

    kind: Literal["endpoint", "registry", "none"] = "endpoint"
    """endpoint: model, endpoint configuration and endpoint, asked and scaled by a step; registry: only a version in the
    registry, which `millrace endpoint` deploys once it is approved; none: the endpoint is started in the step, checked
    and ended."""
    registration: Registration | None = None
    """Also (or, with kind=registry, only) register the model."""
    instance: Instance | None = None
    """Machine type; null takes the cheapest that holds the task's processors, memory and GPUs."""
    variant: str = Field(default="main", pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    weight: float = Field(default=1, ge=0)
    """Requests to the pipeline's own model, in proportion to the weights of all variants."""
    variants: tuple[Variant, ...] = Field(default=(), max_length=9)
    capture: Capture | None = None
    rollout: Rollout = Rollout()
    cooldowns: Cooldowns = Cooldowns()
    custom_metric: CustomMetric | None = None
    scheduled: tuple[ScheduledCapacity, ...] = ()

    @model_validator(mode="after")
    def _registered(self) -> Serving:
        if self.kind == "registry" and self.registration is None:
            raise ValueError("kind=registry needs a group: registration.group=NAME")
        return self


class Transform(Frozen):
    """Who answers for whole folders of objects."""

    kind: Literal["job", "task"] = "job"
    """job: a batch transform job; task: the component in the step's own machine."""
    concurrent: int | None = Field(default=None, ge=1)
    """Requests at a time to one machine; null leaves it to the service."""
    payload_mib: int = Field(default=6, ge=0, le=100)
    """Largest request in MiB."""


class Session(Frozen):
    """Where AWS answers, and who asks. Credentials are boto3's: environment, profile, role."""

    profile: str | None = None
    """Profile of ~/.aws."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """URL of all services, for tests and private networks; null is AWS."""
    timeout_seconds: float = Field(default=30, gt=0)
    """Of one request."""
    poll_seconds: float = Field(default=10, gt=0)
    """Between two looks at what is followed."""


class SageMaker(Frozen):
    """The target `sagemaker`."""

    name: Literal["sagemaker"] = "sagemaker"
    region: Region = "us-east-1"
    role: RoleArn | None = None
    """ARN of the role of the pipeline's jobs; null leaves it to a parameter of the document, `role`."""
    schedule_role: RoleArn | None = None
    """ARN of the role with which EventBridge Scheduler starts runs; it trusts scheduler.amazonaws.com. Null: `role`."""
    bucket: Bucket | None = None
    """Bucket of all that the pipeline writes; null leaves it to a parameter of the document, `bucket`."""
    prefix: Prefix = "millrace"
    """Below which it is written."""
    images: Images = Images()
    parallel: int | None = Field(default=None, ge=1)
    """Steps that run at the same time; null leaves it to the service."""
    cache: bool = True
    """Reuse results of equal tasks."""
    cache_days: int = Field(default=30, ge=1)
    """For how long."""
    unmet: Literal["skip", "fail"] = "skip"
    """Where a condition does not hold: leave its tasks out, or fail with a message."""
    tags: dict[TagKey, TagValue] = Field(default_factory=dict, max_length=50)
    """Of all that the pipeline makes."""
    volume_key: Key | None = None
    """KMS key of the machines' volumes."""
    output_key: Key | None = None
    """KMS key of outputs in S3."""
    network: Network = Network()
    job: JobSettings = JobSettings()
    """Settings of every task's job."""
    tasks: dict[str, JobSettings] = Field(default_factory=dict)
    """Settings of single tasks, by task name; what is set here wins over `job`."""
    training: Training = Training()
    tuning: Tuning = Tuning()
    serving: Serving = Serving()
    transform: Transform = Transform()
    session: Session = Session()

    @field_validator("tags")
    @classmethod
    def _own_tags(cls, given: dict[str, str]) -> dict[str, str]:
        for key in given:
            if key.lower().startswith("aws:"):
                raise ValueError(f"{key}: such keys are AWS's own: rename it")
        return given


class EndpointWork(Frozen):
    """What the step that checks and scales an endpoint of SageMaker needs to know; one argument of the step."""

    name: str
    """Of the endpoint."""
    config: str
    """Of the endpoint configuration that is to be checked."""
    variant: str
    region: str
    cpus: int | None = None
    """Processors of one machine; null where the machine type is not known here."""
    rollout_seconds: int = Field(default=0, ge=0)
    """How long an update may take once its machines are up: a canary's wait, and the old machines' last minutes."""
    cooldowns: Cooldowns = Cooldowns()
    custom_metric: CustomMetric | None = None
    scheduled: tuple[ScheduledCapacity, ...] = ()
