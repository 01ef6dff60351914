"""Kubeflow: how tasks become pods, who creates cluster jobs, and where the API is.

Defaults are here; `conf/target/kubeflow.yaml` and a person's own files hold what differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from millrace.specs import Frozen, Resources
from millrace.targets.images import Images

__all__ = [
    "Api",
    "BackendVersion",
    "ClusterWork",
    "ConfigMapVariable",
    "GivenVersion",
    "Kubeflow",
    "PodSettings",
    "SecretVariable",
    "SecretVolume",
    "Serving",
    "Toleration",
    "Training",
    "Tuning",
    "VolumeClaim",
]

_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_SUBDOMAIN = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"

BackendVersion = Literal["2.14", "2.15", "2.16", "2.17"]


def _as_text(given: object) -> object:
    return str(given) if isinstance(given, float) else given


GivenVersion = Annotated[BackendVersion, BeforeValidator(_as_text)]
"""As it is written: for YAML and Hydra 2.16 is a number."""


class Toleration(Frozen):
    """A taint that the pod accepts, as in Kubernetes."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None
    toleration_seconds: int | None = Field(default=None, ge=0)
    """How long a NoExecute taint is tolerated."""


class SecretVariable(Frozen):
    """An environment variable from a Secret: its value is in no document."""

    variable: str
    secret: str
    key: str
    optional: bool = False


class ConfigMapVariable(Frozen):
    """An environment variable from a ConfigMap."""

    variable: str
    config_map: str
    key: str
    optional: bool = False


class SecretVolume(Frozen):
    """A Secret as files."""

    secret: str
    path: str = Field(pattern=r"^/")
    optional: bool = False


class VolumeClaim(Frozen):
    """An existing PersistentVolumeClaim."""

    claim: str
    path: str = Field(pattern=r"^/")


class PodSettings(Frozen):
    """What a task's pod gets; resources and retries that are null stay the task's own."""

    cpus: float | None = Field(default=None, gt=0)
    """Processor cores."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory in GiB."""
    gpus: int | None = Field(default=None, ge=0)
    """Whole GPUs."""
    timeout_minutes: float | None = Field(default=None, gt=0)
    """The task is ended when it runs longer."""
    retries: int | None = Field(default=None, ge=0, le=30)
    """Attempts after the first. Kubeflow repeats a task whatever it failed of."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    """Plain variables. They stand in the document: secrets belong into `secret_variables`."""
    secret_variables: tuple[SecretVariable, ...] = ()
    config_map_variables: tuple[ConfigMapVariable, ...] = ()
    secret_volumes: tuple[SecretVolume, ...] = ()
    volume_claims: tuple[VolumeClaim, ...] = ()
    shared_memory_gib: float | None = Field(default=None, gt=0)
    """Size of /dev/shm in GiB; null leaves the runtime's 64 MiB."""
    accelerator: str = "nvidia.com/gpu"
    """Name of the resource that a GPU is asked for by."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    cache: bool | None = None
    """False runs the task each time; null leaves it to the pipeline."""


class Training(Frozen):
    """Who runs training on more than one host."""

    kind: Literal["trainjob", "mpijob"] = "trainjob"
    """trainjob: Kubeflow Trainer v2; mpijob: MPI Operator v2beta1."""
    runtime: str = "millrace"
    """For trainjob: name of the runtime; the manifest of Millrace's own is containers/train/runtime.yaml."""
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    """Whether the runtime belongs to the namespace or to the whole cluster."""
    keep: bool = False
    """Leave a job that succeeded in the cluster; one that failed is left in any case until the task is tried again."""
    poll_seconds: float = Field(default=5, gt=0)
    """Between two looks at the job."""


class Serving(Frozen):
    """Who serves a deployed model."""

    kind: Literal["kserve", "none"] = "kserve"
    """kserve: an InferenceService; none: the endpoint is started in the step, checked and ended."""
    mode: Literal["knative", "standard"] = "knative"
    """KServe's deployment mode. It decides on what canaries and scaling can do."""
    runtime: str | None = None
    """A ServingRuntime of the cluster, `kserve-tensorflow-serving` for one; null takes Millrace's serve image."""
    service_account: str | None = None
    """Service account of the model's pods: it must be able to read the model's storage."""
    ingress: str | None = Field(default=None, pattern=r"^https?://[^/]+$")
    """URL of a gateway by which the endpoint is asked, `http://localhost:8080` behind a port-forward for one; the
    endpoint's own host goes into the Host header. null asks the endpoint's address inside the cluster."""
    poll_seconds: float = Field(default=2, gt=0)
    """Between two looks at the InferenceService."""


class Tuning(Frozen):
    """Who searches parameters."""

    kind: Literal["task", "katib"] = "task"
    """task: Optuna in the step's own pod; katib: an Experiment."""
    keep: bool = True
    """For katib: leave the finished Experiment, and with it the trials' pods, for Katib's UI."""
    poll_seconds: float = Field(default=5, gt=0)
    """For katib: between two looks at the Experiment."""


class Api(Frozen):
    """Where Kubeflow Pipelines answers, and who asks. Secrets are read from files or the environment."""

    host: str | None = None
    """URL of the API, `http://localhost:8080/pipeline` for one; null is for inside a cluster or a kube context."""
    ui: str | None = None
    """URL of the UI for links; null takes the host."""
    namespace: str | None = None
    """Profile namespace in multi-user Kubeflow."""
    auth: Literal["none", "token", "cookies", "iap", "in_cluster", "kube_context"] = "none"
    token_file: Path | None = None
    """For token: a file with the bearer token; else the environment variable KFP_TOKEN."""
    cookies_file: Path | None = None
    """For cookies: a file with the session cookie; else the environment variable KFP_COOKIES."""
    client_id: str | None = None
    """For iap: the OAuth client's id."""
    kube_context: str | None = None
    """For kube_context: its name in the kubeconfig."""
    ca_file: Path | None = None
    """Certificate authority of the server."""
    timeout_seconds: float = Field(default=30, gt=0)
    """Of one request."""
    poll_seconds: float = Field(default=5, gt=0)
    """Pause between two looks at a run that is followed."""


class Kubeflow(Frozen):
    """The target `kubeflow`."""

    name: Literal["kubeflow"] = "kubeflow"
    compat: GivenVersion = "2.17"
    """Version of the backend that the document must suit."""
    images: Images = Images()
    namespace: str = Field(default="kubeflow", pattern=_LABEL, max_length=63)
    """Namespace of the runs' pods."""
    service_account: str | None = Field(default=None, pattern=_SUBDOMAIN, max_length=253)
    """Service account of the runs' pods; null leaves it to the backend."""
    pipeline_root: str | None = Field(default=None, pattern=r"^(s3|gs|minio|oss)://[^/]")
    """URI below which artifacts are stored; null leaves it to the backend."""
    cache: bool = True
    """Reuse results of equal tasks."""
    pod: PodSettings = PodSettings()
    """Settings of every task's pod."""
    tasks: dict[str, PodSettings] = Field(default_factory=dict)
    """Settings of single tasks, by task name; what is set here wins over `pod`."""
    training: Training = Training()
    serving: Serving = Serving()
    tuning: Tuning = Tuning()
    api: Api = Api()


class ClusterWork(Frozen):
    """What a step that hands its work to a cluster service needs to know; one constant argument of the step."""

    kind: Annotated[str, Field(pattern=r"^(trainjob|mpijob|inferenceservice|experiment)$")]
    namespace: str
    image: str
    """Of the pods that do the work."""
    service_account: str | None = None
    hosts: int = Field(default=1, ge=1)
    processes: int = Field(default=1, ge=1)
    """Ranks a host."""
    resources: Resources = Resources()
    """Of one host."""
    pod: PodSettings = PodSettings()
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """The target's Training, Serving or Tuning."""
