"""A live SageMaker: pipelines, executions, schedules, their states and logs."""

from millrace.services.sagemaker.document import Document, read_document
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.pipelines import upsert_pipeline
from millrace.services.sagemaker.runs import submit_run
from millrace.services.sagemaker.schedules import schedule_runs
from millrace.services.sagemaker.session import Session, session
from millrace.services.sagemaker.status import RunStatus, StepStatus, find_run, follow, read_plan, read_status

__all__ = [
    "Document",
    "RunStatus",
    "ServiceError",
    "Session",
    "StepStatus",
    "find_run",
    "follow",
    "read_document",
    "read_plan",
    "read_status",
    "schedule_runs",
    "session",
    "submit_run",
    "upsert_pipeline",
]
