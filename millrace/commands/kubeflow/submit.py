"""`millrace submit`: a run on a target."""

from __future__ import annotations

from millrace.commands.kubeflow.upload import compiled_document
from millrace.commands.of_target import Asked
from millrace.config import target_words
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.commands.kubeflow.status import follow_run
    from millrace.services.kubeflow import connect, submit_run
    from millrace.services.kubeflow.runs import fresh_id

    target = settings.kubeflow()
    connection = connect(target)
    document = compiled_document(settings)
    identity = settings.submit.id or fresh_id(document.name)
    if settings.submit.id is None:  # told before anything is sent: after a break the same id goes on from here
        print(f"submit.id={identity}", flush=True)
    submitted = submit_run(connection, document, target, settings.submit, identity)
    if submitted.new:
        print(f"{document.name}: started run {submitted.run_id} of version {submitted.version.name}")
    else:
        print(f"{document.name}: submit.id={identity} has started run {submitted.run_id} already: no other was started")
    print(f"see it: {submitted.link}")
    print(f"next: millrace status {target_words(asked.words)} run={submitted.run_id}", flush=True)
    if settings.submit.wait or settings.wait:
        return follow_run(connection, target, submitted.run_id)
    return 0
