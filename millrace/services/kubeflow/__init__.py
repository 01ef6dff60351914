"""A live Kubeflow Pipelines: upload, submit, schedule, status."""

from millrace.services.kubeflow.connection import Connection, ServiceError, connect
from millrace.services.kubeflow.document import Document, read_document
from millrace.services.kubeflow.recurring import schedule_runs
from millrace.services.kubeflow.runs import submit_run
from millrace.services.kubeflow.status import RunStatus, find_run, follow, read_status
from millrace.services.kubeflow.versions import Version, upload_document

__all__ = [
    "Connection",
    "Document",
    "RunStatus",
    "ServiceError",
    "Version",
    "connect",
    "find_run",
    "follow",
    "read_document",
    "read_status",
    "schedule_runs",
    "submit_run",
    "upload_document",
]
