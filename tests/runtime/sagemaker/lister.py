"""A component that lists what it is given, on a page."""

from __future__ import annotations

import os
from pathlib import Path

from millrace.runtime.context import Context, Result
from millrace.specs import Dataset, Inputs, Outputs, Parameters, Report, Resources, component


class ListParameters(Parameters):
    link: bool = False


class ListInputs(Inputs):
    words: Dataset | None = None
    page: Report | None = None


class ListOutputs(Outputs):
    listed: Report
    folder: Dataset


lister = component(
    name="lister",
    version="1",
    description="List files.",
    parameters=ListParameters,
    inputs=ListInputs,
    outputs=ListOutputs,
    main="tests.runtime.sagemaker.lister:list_main",
    image="toys",
    resources=Resources(cpus=1, memory_gib=0.1),
)


def list_main(parameters: ListParameters, inputs: ListInputs, outputs: ListOutputs, context: Context) -> Result:
    found = []
    if inputs.words is not None:
        for folder, _, names in os.walk(inputs.words.path):
            found += [str(Path(folder, name).relative_to(inputs.words.path)) for name in names]
    found.sort()
    if inputs.page is not None:
        found.append(inputs.page.path.read_text())
    outputs.listed.path.write_text(" ".join(found))
    if parameters.link:
        (outputs.folder.path / "out").symlink_to("/etc")
    return Result(metadata={"folder": {"objects": 0}})
