"""Where people see in a browser what this made: Studio and the console."""

from __future__ import annotations

from urllib.parse import quote

from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.session import Session

__all__ = ["console", "execution_link", "job_link", "log_link", "pipeline_link"]

_PAGES = {
    "processing-job": "processing-jobs",
    "training-job": "jobs",
    "hyper-parameter-tuning-job": "hyper-tuning-jobs",
    "transform-job": "transform-jobs",
    "model": "models",
    "endpoint-config": "endpointConfig",
    "endpoint": "endpoints",
}


def console(region: str) -> str:
    """The console of a region, in its partition."""
    if region.startswith("cn-"):
        return f"https://{region}.console.amazonaws.cn"
    if region.startswith("us-gov-"):
        return f"https://{region}.console.amazonaws-us-gov.com"
    return f"https://{region}.console.aws.amazon.com"


def pipeline_link(session: Session, name: str) -> str:
    """A pipeline in Studio, or Studio's door where the domain can't be found out."""
    studio = _studio(session)
    return f"{studio}/pipelines/view/{name}" if studio else _door(session.region)


def execution_link(session: Session, name: str, execution: str) -> str:
    """An execution of a pipeline in Studio, or Studio's door."""
    studio = _studio(session)
    return f"{studio}/pipelines/view/{name}/executions/{execution}/graph" if studio else _door(session.region)


def job_link(region: str, arn: str) -> str:
    """A job, a model or an endpoint in the console; empty for what has no page."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    page = _PAGES.get(kind)
    return f"{console(region)}/sagemaker/home?region={region}#/{page}/{quote(name)}" if page else ""


def log_link(region: str, group: str, stream: str = "") -> str:
    """Log streams in CloudWatch's console, which wants its names quoted twice."""
    link = f"{console(region)}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{_twice(group)}"
    return f"{link}$3FlogStreamNameFilter$3D{_twice(stream)}" if stream else link


def _studio(session: Session) -> str:
    """Address of Studio, when the account has one domain here and we may look."""
    try:
        domains = session.call("sagemaker", "list_domains", MaxResults=2)["Domains"]
    except ServiceError:
        return ""
    if len(domains) != 1:
        return ""
    return f"https://studio-{domains[0]['DomainId']}.studio.{session.region}.sagemaker.aws"


def _door(region: str) -> str:
    return f"{console(region)}/sagemaker/home?region={region}#/studio-landing"


def _twice(text: str) -> str:
    return quote(quote(text, safe=""), safe="").replace("%", "$")
