"""`millrace iam`: the policies that a pipeline needs on SageMaker, as JSON."""

from __future__ import annotations

import json
import sys

from millrace.commands.of_target import Asked
from millrace.commands.sagemaker.documents import definition_text, name_of
from millrace.compilers.sagemaker.iam import policies
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    found = policies(definition_text(settings), name_of(settings, asked), settings.sagemaker())
    print(json.dumps(found.documents, indent=2))
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0
