"""How an execution goes: states, reasons, logs, links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from millrace.errors import ConfigError
from millrace.services.sagemaker import (
    Document,
    RunStatus,
    ServiceError,
    Session,
    find_run,
    follow,
    read_plan,
    read_status,
    submit_run,
)
from millrace.services.sagemaker.links import job_link, log_link
from millrace.services.sagemaker.logs import follow_log, read_log, step_of
from millrace.targets.runs import Submit
from tests.services.sagemaker.executions import Execution
from tests.services.sagemaker.fake import ACCOUNT, FakeAws, RefusalError


@pytest.fixture
def run(session: Session, document: Document, aws: FakeAws) -> Execution:
    """An execution that goes on only when it is told to."""
    aws.play.paused = True
    return aws.executions[submit_run(session, document, Submit(), "first").arn]


@pytest.fixture
def look(session: Session, run: Execution) -> Callable[[], RunStatus]:
    plan = read_plan(session, run.arn)
    return lambda: read_status(session, plan)


def states(status: RunStatus) -> dict[str, str]:
    return {step.name: step.state for step in status.steps}


def until(run: Execution, step: str, state: str = "Executing") -> None:
    while run.steps.get(step, {}).get("StepStatus") != state:
        run.advance()


def test_from_the_first_step_to_the_last(run: Execution, look: Callable[[], RunStatus]) -> None:
    first = look()
    assert set(states(first).values()) == {"pending"}
    assert list(states(first)) == ["prepare", "tune", "train", "good-enough", "quantize", "too-bad"]
    until(run, "tune")
    assert {name: states(look())[name] for name in ("prepare", "tune", "train")} == {
        "prepare": "succeeded",
        "tune": "running",
        "train": "pending",
    }
    run.end()
    last = look()
    assert (last.over, last.succeeded, last.state) == (True, True, "succeeded")
    assert states(last)["too-bad"] == "skipped"
    assert next(step.detail for step in last.steps if step.name == "good-enough") == "holds"
    assert last.parameters["train_epochs" if "train_epochs" in last.parameters else "bucket"]
    assert all(step.seconds is not None for step in last.steps if step.state == "succeeded")


def test_a_failure_with_its_reason(run: Execution, look: Callable[[], RunStatus], aws: FakeAws) -> None:
    aws.play.failing["train"] = "AlgorithmError: loss is not finite"
    run.end()
    status = look()
    assert (status.over, status.succeeded) == (True, False)
    train = next(step for step in status.steps if step.name == "train")
    assert (train.state, train.detail) == ("failed", "AlgorithmError: loss is not finite")
    assert train.arn.startswith(f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/pipelines-")
    assert "train" in status.error


def test_a_condition_that_does_not_hold(run: Execution, look: Callable[[], RunStatus], aws: FakeAws) -> None:
    aws.play.unmet.add("good-enough")
    run.end()
    status = look()
    assert states(status)["quantize"] == "skipped"
    assert next(step.detail for step in status.steps if step.name == "good-enough") == "does not hold"
    assert next(step.detail for step in status.steps if step.name == "too-bad") == "accuracy is below 0.9"


def test_results_of_an_earlier_run(run: Execution, look: Callable[[], RunStatus], aws: FakeAws) -> None:
    aws.play.cached.add("prepare")
    run.end()
    prepare = look().steps[0]
    assert prepare.state == "cached"
    assert prepare.detail.startswith("result of run ")


def test_a_run_that_was_ended(session: Session, run: Execution, look: Callable[[], RunStatus]) -> None:
    until(run, "prepare")
    session.call("sagemaker", "stop_pipeline_execution", PipelineExecutionArn=run.arn, ClientRequestToken="t" * 32)
    assert look().state == "running"
    run.advance()
    status = look()
    assert (status.state, states(status)["prepare"]) == ("cancelled", "cancelled")


def test_follow_sits_out_a_break(session: Session, run: Execution, aws: FakeAws) -> None:
    seen: list[RunStatus] = []

    def once(call: Any) -> RefusalError | None:
        if call.name == "sagemaker:DescribePipelineExecution" and 3 <= len(seen) < 5:
            seen.append(seen[-1])
            return RefusalError("busy", "InternalFailure", 500)
        return None

    aws.play.paused = False
    plan = read_plan(session, run.arn)
    session.attempts = 1
    aws.broken = once
    assert follow(session, plan, seen.append).succeeded
    assert len(seen) > 5


def test_follow_gives_up_on_what_does_not_pass(session: Session, run: Execution, aws: FakeAws) -> None:
    plan = read_plan(session, run.arn)
    aws.broken = lambda call: RefusalError("no", "ExpiredTokenException")
    with pytest.raises(ServiceError, match="have expired"):
        follow(session, plan, lambda status: None)


@pytest.mark.parametrize(
    ("code", "status"), [("NotImplemented", 501), ("500", 500), ("UnknownOperationException", 400)]
)
def test_who_does_not_know_about_steps_still_tells_of_the_run(
    run: Execution, session: Session, look: Callable[[], RunStatus], aws: FakeAws, code: str, status: int
) -> None:
    steps = "sagemaker:ListPipelineExecutionSteps"
    aws.broken = lambda call: RefusalError("not here", code, status) if call.name == steps else None
    first = look()
    assert (first.state, set(states(first).values())) == ("running", {"unknown"})
    assert "does not know ListPipelineExecutionSteps" in first.note
    with pytest.raises(ConfigError, match="what answers here does not tell its job"):
        read_log(session, *step_of(first, "train"))
    asked: list[int] = []

    def watch(status: RunStatus) -> None:
        asked.append(aws.count(steps))
        if len(asked) == 3:
            run.end()

    assert follow(session, read_plan(session, run.arn), watch).succeeded
    assert len(asked) > 3
    assert len(set(asked)) == 1, "asked for steps once"


def test_a_failure_of_aws_itself_is_no_such_answer(run: Execution, look: Callable[[], RunStatus], aws: FakeAws) -> None:
    steps = "sagemaker:ListPipelineExecutionSteps"
    aws.broken = lambda call: RefusalError("oh", "InternalFailure", 500) if call.name == steps else None
    with pytest.raises(ServiceError, match="AWS failed with 500") as caught:
        look()
    assert caught.value.may_pass


def test_the_run_that_is_asked_about(session: Session, document: Document, run: Execution) -> None:
    later = submit_run(session, document, Submit(), "second")
    assert find_run(session, None, "small") == later.arn
    assert find_run(session, run.arn, "other") == run.arn
    assert find_run(session, run.arn.rpartition("/")[2], "small") == run.arn
    with pytest.raises(ConfigError, match="there is no pipeline 'other' in us-east-1"):
        find_run(session, None, "other")
    with pytest.raises(ConfigError, match="no ARN of an execution"):
        find_run(session, "arn:aws:sagemaker:us-east-1:1:pipeline/small", "small")
    with pytest.raises(ConfigError, match=r"in another region: target\.region=eu-west-1"):
        find_run(session, run.arn.replace("us-east-1", "eu-west-1"), "small")
    with pytest.raises(ConfigError, match="there is no such run in us-east-1"):
        read_plan(session, find_run(session, "nothing", "small"))


def test_logs_of_all_hosts(session: Session, run: Execution, look: Callable[[], RunStatus], aws: FakeAws) -> None:
    until(run, "prepare")
    with pytest.raises(ConfigError, match="there is no log of step 'prepare' yet"):
        read_log(session, *step_of(look(), "prepare"))
    lines = [f"line {number}" for number in range(30)]
    for host in ("algo-1", "algo-2"):
        aws.write_log("/aws/sagemaker/ProcessingJobs", f"{run.job('prepare')}/{host}-1700000000", lines)
    aws.write_log("/aws/sagemaker/ProcessingJobs", f"{run.job('prepare')}0/algo-1-1700000000", ["another job"])
    found = read_log(session, *step_of(look(), "prepare"))
    assert [log.stream.rpartition("/")[2] for log in found] == ["algo-1-1700000000", "algo-2-1700000000"]
    assert all(log.lines == tuple(lines) for log in found)
    assert read_log(session, *step_of(look(), "prepare"), last=2)[0].lines == ("line 28", "line 29")


def test_long_logs_are_read_to_their_end(
    session: Session, run: Execution, look: Callable[[], RunStatus], aws: FakeAws
) -> None:
    until(run, "prepare")
    for part in range(3):
        lines = [f"{part} {number}" for number in range(5000)]
        aws.write_log("/aws/sagemaker/ProcessingJobs", f"{run.job('prepare')}/algo-1", lines)
    (log,) = read_log(session, *step_of(look(), "prepare"))
    assert (len(log.lines), log.lines[-1]) == (15_000, "2 4999")


def test_a_log_is_followed_to_the_end_of_its_step(
    session: Session, run: Execution, look: Callable[[], RunStatus], aws: FakeAws
) -> None:
    looks = 0

    def go_on() -> RunStatus:
        nonlocal looks
        run.advance()
        looks += 1
        if "prepare" in run.steps and looks <= 4:
            for host in ("algo-1", "algo-2")[: 2 if looks > 2 else 1]:
                aws.write_log("/aws/sagemaker/ProcessingJobs", f"{run.job('prepare')}/{host}-17", [f"line {looks}"])
        return look()

    seen: list[str] = []
    status = follow_log(session, go_on, "prepare", seen.append)
    assert states(status)["prepare"] == "succeeded"
    assert not status.over
    assert seen == ["line 1", "line 2", "algo-1: line 3", "algo-2: line 3"]
    run.end()
    with pytest.raises(ConfigError, match="it is succeeded and has no job"):
        follow_log(session, look, "good-enough", seen.append)


def test_a_selective_run_leaves_the_others_out(
    session: Session, document: Document, run: Execution, aws: FakeAws
) -> None:
    run.end()
    chosen = submit_run(session, document, Submit(only=("train",)), "second")
    status = read_status(session, read_plan(session, chosen.arn))
    assert {name for name, state in states(status).items() if state == "pending"} == {"train"}


@pytest.mark.parametrize(
    ("asked", "line"), [("tune", "best"), ("tune/1", "first"), ("tune/2", "best"), ("tune/t-001", "first")]
)
def test_logs_of_trials(
    session: Session, run: Execution, look: Callable[[], RunStatus], aws: FakeAws, asked: str, line: str
) -> None:
    until(run, "tune")
    trials = [{"TrainingJobName": f"t-00{number}", "TrainingJobArn": f"arn:t{number}"} for number in (1, 2)]
    aws.trials[run.job("tune")] = trials
    aws.best[run.job("tune")] = "t-002"
    for trial, text in (("t-001", "first"), ("t-002", "best")):
        aws.write_log("/aws/sagemaker/TrainingJobs", f"{trial}/algo-1-1700000000", [text])
    assert read_log(session, *step_of(look(), asked))[0].lines == (line,)
    with pytest.raises(ConfigError, match="has no training job '7': give a number, 1 to 2"):
        read_log(session, *step_of(look(), "tune/7"))


def test_steps_without_a_log(session: Session, run: Execution, look: Callable[[], RunStatus], aws: FakeAws) -> None:
    aws.play.unmet.add("good-enough")
    run.end()
    for asked, message in (
        ("quantize", "it is skipped and has no job"),
        ("good-enough", "it is succeeded and has no job"),
        ("train/3", "only a tuning has several jobs"),
        ("trian", "did you mean 'train'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_log(session, *step_of(look(), asked))


def test_logs_of_an_endpoint(session: Session, run: Execution, aws: FakeAws) -> None:
    from millrace.services.sagemaker import StepStatus

    aws.write_log("/aws/sagemaker/Endpoints/digits", "main/i-0123", ["ready"])
    arn = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/digits"
    (log,) = read_log(session, StepStatus("deploy-endpoint", "Endpoint", "succeeded", arn=arn))
    assert log.lines == ("ready",)


def test_links(session: Session, run: Execution, aws: FakeAws) -> None:
    base = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}"
    home = "https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#"
    assert job_link("us-east-1", f"{base}:training-job/t") == f"{home}/jobs/t"
    assert job_link("us-east-1", f"{base}:hyper-parameter-tuning-job/t") == f"{home}/hyper-tuning-jobs/t"
    assert job_link("cn-north-1", f"{base}:endpoint/e").startswith("https://cn-north-1.console.amazonaws.cn/")
    assert job_link("us-east-1", f"{base}:model-package/e/1") == ""
    assert "log-group/$252Faws$252Fsagemaker$252FTrainingJobs" in log_link("us-east-1", "/aws/sagemaker/TrainingJobs")
    made = session.call(
        "sagemaker",
        "create_domain",
        DomainName="team",
        AuthMode="IAM",
        DefaultUserSettings={"ExecutionRole": f"arn:aws:iam::{ACCOUNT}:role/studio"},
        SubnetIds=["subnet-1"],
        VpcId="vpc-1",
    )
    domain = made["DomainArn"].rpartition("/")[2]
    link = read_plan(session, run.arn).link
    name = run.arn.rpartition("/")[2]
    assert (
        link == f"https://studio-{domain}.studio.us-east-1.sagemaker.aws/pipelines/view/small/executions/{name}/graph"
    )
