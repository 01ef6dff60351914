"""Put the files of several folders into one."""

from __future__ import annotations

from pathlib import Path

from millrace.components.gather.spec import GatherInputs, GatherOutputs, GatherParameters
from millrace.runtime.context import Context, Result
from millrace.runtime.union import add_tree, hard_link

__all__ = ["main"]


def main(parameters: GatherParameters, inputs: GatherInputs, outputs: GatherOutputs, context: Context) -> Result:
    """Link or copy every file of the parts.

    Raises:
        TaskFailedError: When two parts hold different files of one name.
    """
    add_tree(outputs.whole.path, [part.path for part in inputs.parts], _whole_file)
    return Result()


def _whole_file(source: Path, target: Path) -> None:
    hard_link(source.resolve(), target)  # a part may itself be links to files elsewhere
