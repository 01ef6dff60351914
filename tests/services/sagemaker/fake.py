"""AWS on this machine: moto's server, with what it lacks for SageMaker added before it.

Every request is written down and held against botocore's shapes. How executions of pipelines go on, step by step, is
kept here; endpoints can be updated; quotas can be listed. All else is moto's, refusals too.

    with serving(FakeAws()) as aws:
        aws.environment()                      # what a process needs to reach it
        aws.play.failing["train"] = "reason"   # how executions go
        aws.count("sagemaker:UpdatePipeline")  # what was asked
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto import backends
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.services.sagemaker.asked import Call, wrong_fields
from tests.services.sagemaker.executions import Execution, Play, RefusalError, check_start, read_definition
from tests.services.sagemaker.server import Answer, Application, Quiet

__all__ = ["ACCOUNT", "SECRET", "FakeAws", "RefusalError", "serving"]

ACCOUNT = DEFAULT_ACCOUNT_ID
SECRET = "secret-of-aws-that-nobody-should-see"
_BACKENDS = ("sagemaker", "scheduler", "logs", "ecr", "iam", "service-quotas", "applicationautoscaling", "cloudwatch")
_SHOWN = 100


def _kept(service: str) -> Any:
    """moto's state of a service, by account and region."""
    get: Any = backends.get_backend
    return get(service)


class FakeAws:
    """What moto does not keep, and switches that make it behave badly."""

    def __init__(self) -> None:
        self.url = ""
        self.lock = threading.RLock()
        self.moto: Any = DomainDispatcherApplication(create_backend_app)
        self.reset()

    def reset(self) -> None:
        """Forget everything but what is in S3, and behave well."""
        for name in _BACKENDS:
            for account in list(_kept(name).values()):
                account.reset()
        self.calls: list[Call] = []
        """All requests that have come, refused ones too."""
        self.play = Play()
        self.executions: dict[str, Execution] = {}
        """By ARN, the oldest first."""
        self.trials: dict[str, list[Answer]] = {}
        """Training jobs of tuning jobs in the order of their starts, by the tuning job's name."""
        self.best: dict[str, str] = {}
        """The best of them, by the tuning job's name."""
        self.quotas: dict[str, float] = {}
        """Applied quotas of SageMaker, by their names."""
        self.update_looks = 0
        """How many looks at an endpoint say `Updating` after a change."""
        self.update_failure = ""
        """Why updates of endpoints are rolled back; empty lets them succeed."""
        self.endpoints: dict[str, Answer] = {}
        """Last changes of endpoints by name: Config, Deployment, looks left."""
        self.invoked: Callable[[str, bytes], bytes] | None = None
        """What endpoints answer: called with the endpoint's name and the request's body; None leaves it to moto."""
        self.broken: Callable[[Call], RefusalError | None] = lambda call: None
        """Called before each request; a RefusalError is answered."""

    def environment(self) -> dict[str, str]:
        """Variables with which a process reaches it."""
        return {
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def count(self, name: str) -> int:
        """How often an operation was asked for, `sagemaker:CreatePipeline` for one."""
        return sum(call.name == name for call in self.calls)

    def changes(self) -> list[str]:
        """Operations that came and were no mere looks."""
        looks = ("Describe", "List", "Get", "Head", "GET", "HEAD", "Filter")
        return [call.name for call in self.calls if not call.operation.startswith(looks)]

    def write_log(self, group: str, stream: str, lines: Iterable[str], region: str = "us-east-1") -> None:
        """Put lines into a stream of CloudWatch Logs, as a job's container does."""
        logs = _kept("logs")[ACCOUNT][region]
        if group not in logs.groups:
            logs.create_log_group(group, {})
        if stream not in logs.groups[group].streams:
            logs.create_log_stream(group, stream)
        now = int(time.time() * 1000)
        logs.put_log_events(group, stream, [{"timestamp": now, "message": line} for line in lines])

    def empty_bucket(self, name: str, region: str = "us-east-1") -> None:
        """Make a bucket; one of this name loses its objects."""
        s3 = _kept("s3")[ACCOUNT]["aws"]
        s3.buckets.pop(name, None)
        _kept("s3").bucket_accounts.pop(name, None)
        s3.create_bucket(name, region)

    def answer(self, call: Call, body: bytes) -> Answer | bytes | None:
        """What is answered here; None leaves it to moto.

        Raises:
            RefusalError: As the service answers.
        """
        with self.lock:
            self.calls.append(call)
            refusal = self.broken(call)
            if refusal is not None:
                raise refusal
            wrong = wrong_fields(call)
            if wrong:
                raise RefusalError(f"{len(wrong)} validation errors detected: {'; '.join(wrong)}")
            if call.service == "sagemaker-runtime" and self.invoked is not None:
                return self.invoked(call.asked["EndpointName"], body)
            action = _ACTIONS.get(call.name)
            return action(self, call) if action else None

    def changes_answer(self, call: Call) -> bool:
        """Whether moto's answer to a call is put right."""
        return call.name in _CHANGES

    def changed(self, call: Call, answer: Answer) -> Answer:
        """What moto answers, put right."""
        with self.lock:
            return _CHANGES[call.name](self, call, answer)

    def backend(self, call: Call) -> Any:
        """moto's state of SageMaker."""
        return _kept("sagemaker")[ACCOUNT][call.region]

    def execution(self, call: Call) -> Execution:
        """The one that a call is about, where moto has no answer of its own."""
        found = self.executions.get(call.asked["PipelineExecutionArn"])
        if found is None:
            raise RefusalError(f"Pipeline execution {call.asked['PipelineExecutionArn']} not found", "ResourceNotFound")
        return found


def _checked(fake: FakeAws, call: Call) -> None:
    """Definitions are read when they come; moto keeps anything."""
    role = call.asked.get("RoleArn", "")
    if role.endswith("/unknown"):
        raise RefusalError(f"The role {role} could not be assumed by sagemaker.amazonaws.com")
    if "PipelineDefinition" in call.asked:
        read_definition(call.asked["PipelineDefinition"])
    if "PipelineDefinitionS3Location" in call.asked:
        where = call.asked["PipelineDefinitionS3Location"]
        try:
            stored = _kept("s3")[ACCOUNT]["aws"].get_object(where["Bucket"], where["ObjectKey"])
        except Exception as error:
            raise RefusalError(f"Unable to read {where}: {error}") from error
        if stored is None:
            raise RefusalError(f"Unable to read {where}")
        read_definition(stored.value.decode())


def _start(fake: FakeAws, call: Call) -> Answer | None:
    """moto starts it, when the definition allows; how it goes on is kept here."""
    pipeline = fake.backend(call).pipelines.get(call.asked["PipelineName"])
    if pipeline is None:
        return None
    for execution in fake.executions.values():
        if execution.asked["ClientRequestToken"] == call.asked["ClientRequestToken"]:
            if execution.asked != call.asked:
                raise RefusalError("Idempotency token was already used with different parameters")
            return {"PipelineExecutionArn": execution.arn}
    source = call.asked.get("SelectiveExecutionConfig", {}).get("SourcePipelineExecutionArn")
    if source and source not in fake.executions:
        raise RefusalError(f"Source execution {source} not found", "ResourceNotFound")
    definition = str(pipeline.pipeline_definition)
    check_start(definition, call.asked)
    asked = call.asked
    answer: Answer = fake.backend(call).start_pipeline_execution(
        asked["PipelineName"],
        asked.get("PipelineExecutionDisplayName") or f"execution-{int(time.time() * 1000)}",
        asked.get("PipelineParameters") or [],
        asked.get("PipelineExecutionDescription", ""),
        asked.get("ParallelismConfiguration"),
        asked["ClientRequestToken"],
    )
    arn = answer["PipelineExecutionArn"]
    fake.executions[arn] = Execution(arn, definition, asked, fake.play)
    return answer


def _described(fake: FakeAws, call: Call, answer: Answer) -> Answer:
    execution = fake.executions[answer["PipelineExecutionArn"]]
    told = {
        "PipelineExecutionStatus": execution.status,
        "LastModifiedTime": execution.changed,
        "FailureReason": execution.reason or None,
        "SelectiveExecutionConfig": execution.asked.get("SelectiveExecutionConfig"),
    }
    return {name: value for name, value in (answer | told).items() if value is not None}


def _listed(fake: FakeAws, call: Call, answer: Answer) -> Answer:
    """In the order that is asked for, page by page."""
    key = "PipelineExecutionSummaries"
    found = [
        item | {"PipelineExecutionStatus": fake.executions[item["PipelineExecutionArn"]].status} for item in answer[key]
    ]
    if call.asked.get("SortOrder") != "Ascending":
        found.reverse()
    return _page(call, key, found)


def _steps(fake: FakeAws, call: Call) -> Answer:
    """Steps that have started, the latest first; a look lets the execution go on."""
    execution = fake.execution(call)
    if not fake.play.paused:
        execution.advance()
    found = list(execution.steps.values())
    if call.asked.get("SortOrder") != "Ascending":
        found.reverse()
    return _page(call, "PipelineExecutionSteps", found)


def _page(call: Call, key: str, items: list[Any]) -> Answer:
    first, size = int(call.asked.get("NextToken") or 0), int(call.asked.get("MaxResults") or _SHOWN)
    rest = {"NextToken": str(first + size)} if len(items) > first + size else {}
    return {key: items[first : first + size], **rest}


def _stop(fake: FakeAws, call: Call) -> Answer:
    execution = fake.execution(call)
    if execution.status != "Executing":
        raise RefusalError("Only executing pipeline executions can be stopped")
    execution.status = "Stopping"
    return {"PipelineExecutionArn": execution.arn}


def _retry(fake: FakeAws, call: Call) -> Answer:
    execution = fake.execution(call)
    if execution.status not in ("Failed", "Stopped"):
        raise RefusalError("Only failed or stopped pipeline executions can be retried")
    execution.steps = {name: step for name, step in execution.steps.items() if step["StepStatus"] == "Succeeded"}
    execution.status, execution.reason = "Executing", ""
    return {"PipelineExecutionArn": execution.arn}


def _update_endpoint(fake: FakeAws, call: Call) -> Answer:
    name, config = call.asked["EndpointName"], call.asked["EndpointConfigName"]
    state = fake.backend(call)
    if name not in state.endpoints:
        raise RefusalError(f'Could not find endpoint "{name}".')
    if config not in state.endpoint_configs:
        raise RefusalError(f'Could not find endpoint configuration "{config}".')
    if fake.endpoints.get(name, {}).get("looks"):
        raise RefusalError(f'Cannot update in-progress endpoint "{name}".')
    change = {"config": config, "deployment": call.asked.get("DeploymentConfig"), "looks": fake.update_looks}
    fake.endpoints[name] = change | {"failure": fake.update_failure}
    if not fake.update_failure:
        endpoint = state.endpoints[name]
        endpoint.endpoint_config_name = config
        variants = state.describe_endpoint_config(config)["ProductionVariants"]
        endpoint.production_variants = endpoint._process_production_variants(variants)
    return {"EndpointArn": state.endpoints[name].arn}


def _endpoint(fake: FakeAws, call: Call, answer: Answer) -> Answer:
    change = fake.endpoints.get(call.asked["EndpointName"])
    if change is None:
        return answer
    if change["looks"]:
        change["looks"] -= 1
        return answer | {"EndpointStatus": "Updating"}
    last = {"LastDeploymentConfig": change["deployment"]} if change["deployment"] else {}
    return answer | last | ({"FailureReason": change["failure"]} if change["failure"] else {})


def _tuning(fake: FakeAws, call: Call) -> Answer | None:
    name = call.asked["HyperParameterTuningJobName"]
    if name not in fake.trials:
        return None
    best = [trial for trial in fake.trials[name] if trial["TrainingJobName"] == fake.best.get(name)]
    return {"HyperParameterTuningJobName": name, **({"BestTrainingJob": best[0]} if best else {})}


def _trials(fake: FakeAws, call: Call) -> Answer:
    trials = fake.trials.get(call.asked["HyperParameterTuningJobName"], [])
    return _page(call, "TrainingJobSummaries", trials)


def _quotas(fake: FakeAws, call: Call) -> Answer:
    listed = [
        {"ServiceCode": call.asked["ServiceCode"], "QuotaName": name, "QuotaCode": f"L-{index:08X}", "Value": value}
        for index, (name, value) in enumerate(fake.quotas.items())
    ]
    return _page(call, "Quotas", listed)


_ACTIONS: dict[str, Callable[[FakeAws, Call], Answer | None]] = {
    "sagemaker:CreatePipeline": _checked,
    "sagemaker:UpdatePipeline": _checked,
    "sagemaker:StartPipelineExecution": _start,
    "sagemaker:ListPipelineExecutionSteps": _steps,
    "sagemaker:StopPipelineExecution": _stop,
    "sagemaker:RetryPipelineExecution": _retry,
    "sagemaker:UpdateEndpoint": _update_endpoint,
    "sagemaker:DescribeHyperParameterTuningJob": _tuning,
    "sagemaker:ListTrainingJobsForHyperParameterTuningJob": _trials,
    "service-quotas:ListServiceQuotas": _quotas,
}
_CHANGES: dict[str, Callable[[FakeAws, Call, Answer], Answer]] = {
    "sagemaker:DescribeEndpoint": _endpoint,
    "sagemaker:DescribePipelineExecution": _described,
    "sagemaker:ListPipelineExecutions": _listed,
}


@contextmanager
def serving(fake: FakeAws) -> Iterator[FakeAws]:
    """Serve on a free port of this machine."""
    server = make_server("127.0.0.1", 0, Application(fake), threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
