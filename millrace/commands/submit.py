"""`millrace submit`: a run on a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from millrace.commands.upload import compiled_document
from millrace.config import compose_and_call, read_settings, target_words

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Run the command on its words and return the exit code."""
    return compose_and_call("submit", words, partial(_submit, words))


def _submit(words: Sequence[str], composed: Mapping[str, Any]) -> int:
    from millrace.commands.status import follow_run
    from millrace.services.kubeflow import connect, submit_run
    from millrace.services.kubeflow.runs import fresh_id

    settings = read_settings(composed)
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
    print(f"next: millrace status {target_words(words)} run={submitted.run_id}", flush=True)
    if settings.submit.wait or settings.wait:
        return follow_run(connection, target, submitted.run_id)
    return 0
