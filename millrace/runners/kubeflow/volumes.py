"""Tasks that the backend's driver does itself: PersistentVolumeClaims, here Docker volumes of the rehearsal."""

from __future__ import annotations

import asyncio
from typing import Any

from millrace.runners.kubeflow.inputs import Inputs, Outcome, Task
from millrace.runners.kubeflow.run import Run
from millrace.runners.record import TaskState

__all__ = ["VOLUME_IMAGES", "run_volume_task"]

VOLUME_IMAGES = ("argostub/createpvc", "argostub/deletepvc")


async def run_volume_task(run: Run, task: Task, inputs: Inputs) -> Outcome:
    """Make or remove a volume."""
    executor = run.view.executors[task.component["executorLabel"]]
    if executor["container"]["image"] == "argostub/createpvc":
        name = _name(inputs.parameters, run.identity.resource)
        await asyncio.to_thread(run.engine.volume, name)
        return Outcome(TaskState.SUCCEEDED, parameters={"name": name})
    await asyncio.to_thread(run.engine.remove_volume, str(inputs.parameters.get("pvc_name", "")))
    return Outcome(TaskState.SUCCEEDED)


def _name(parameters: dict[str, Any], resource: str) -> str:
    return str(parameters.get("pvc_name") or f"{resource}{parameters.get('pvc_name_suffix', '')}")
