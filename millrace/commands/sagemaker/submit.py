"""`millrace submit`: an execution on SageMaker."""

from __future__ import annotations

from millrace.commands.of_target import Asked
from millrace.commands.sagemaker.upload import compiled_document
from millrace.config import target_words
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.commands.sagemaker.status import follow_run
    from millrace.services.sagemaker import session, submit_run
    from millrace.services.sagemaker.runs import fresh_id

    opened = session(settings.sagemaker())
    document = compiled_document(settings, asked)
    identity = settings.submit.id or fresh_id(document.name)
    if settings.submit.id is None:  # told before anything is sent: after a break the same id goes on from here
        print(f"submit.id={identity}", flush=True)
    submitted = submit_run(opened, document, settings.submit, identity)
    if submitted.new:
        print(f"{document.name}: started run {submitted.run_id} (pipeline {submitted.change})")
    else:
        print(f"{document.name}: submit.id={identity} has started run {submitted.run_id} already: no other was started")
    print(f"see it: {submitted.link}")
    words = f"pipeline.name={document.name} {target_words(asked.words)} run={submitted.run_id}"
    print(f"next: millrace status {words}", flush=True)
    if settings.submit.wait or settings.wait:
        return follow_run(opened, submitted.arn, words)
    return 0
