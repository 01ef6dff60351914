"""/opt/ml as SageMaker fills it, in a folder of a test's own, and a container's command as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CALL = """
import sys
from pathlib import Path
from millrace.errors import MillraceError, report
from millrace.runtime.sagemaker import {module}
try:
    sys.exit({module}.run(sys.argv[2:], Path(sys.argv[1])))
except MillraceError as error:
    sys.exit(report(error))
"""


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def words_folder(folder: Path, *words: str) -> Path:
    folder.mkdir(parents=True)
    for word in words:
        (folder / f"{word}.txt").write_text(word)
    return folder


def files(folder: Path) -> dict[str, str]:
    """Texts of all files below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass
class Container:
    """A container's file system and variables."""

    folder: Path
    module: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.folder / "ml"

    @property
    def failure(self) -> str:
        file = self.base / "output" / "failure"
        return file.read_text() if file.exists() else ""

    def machines(self, config: str, current: str, hosts: Sequence[str], **more: object) -> None:
        told = {"current_host": current, "hosts": list(hosts), "network_interface_name": "eth0", **more}
        put(self.base / config / "resourceconfig.json", told)

    def start(self, *words: str) -> subprocess.Popen[str]:
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True, parents=True)
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _CALL.format(module=self.module), str(self.base), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[3]),
                "TMPDIR": str(scratch),
                **self.environment,
            },
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert list((self.folder / "tmp").iterdir()) == [], "something was left behind"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Processing(Container):
    """A processing job's container."""

    def __init__(self, folder: Path, **environment: str) -> None:
        super().__init__(folder, "processing", environment)
        self.config: dict[str, Any] = {
            "ProcessingJobArn": "arn:aws:sagemaker:us-east-1:111122223333:processing-job/pipelines-abc-write-x1",
            "ProcessingJobName": "pipelines-abc-write-x1",
            "AppSpecification": {"ImageUri": "x", "ContainerEntrypoint": None, "ContainerArguments": None},
            "Environment": {},
            "ProcessingInputs": [],
            "ProcessingOutputConfig": {"Outputs": [], "KmsKeyId": None},
            "ProcessingResources": {"ClusterConfig": {"InstanceCount": 1}},
            "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
        }
        self.machines("config", "algo-1", ["algo-1"])

    def give(self, name: str, *words: str, distribution: str = "FullyReplicated") -> Path:
        """An input with a file for each word."""
        told = {
            "LocalPath": f"/opt/ml/processing/input/{name}",
            "S3Uri": f"s3://store/{name}",
            "S3DataDistributionType": distribution,
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3CompressionType": None,
        }
        self.config["ProcessingInputs"].append({"InputName": name, "AppManaged": False, "S3Input": told})
        return words_folder(self.base / "processing" / "input" / name, *words)

    def take(self, *ports: str) -> None:
        """Outputs; their folders are there before the container starts."""
        for port in ports:
            told = {"LocalPath": f"/opt/ml/processing/output/{port}", "S3Uri": f"s3://store/{port}"}
            outputs = self.config["ProcessingOutputConfig"]["Outputs"]
            outputs.append({"OutputName": port, "AppManaged": False, "S3Output": told | {"S3UploadMode": "EndOfJob"}})
            self.output(port).mkdir(parents=True)

    def output(self, port: str) -> Path:
        return self.base / "processing" / "output" / port

    def exec(self, component: str, *words: str, task: str = "here") -> subprocess.CompletedProcess[str]:
        self.ready()
        return self.run(component, "--task", task, *words)

    def ready(self) -> None:
        put(self.base / "config" / "processingjobconfig.json", self.config)

    @property
    def message(self) -> str:
        return (self.base / "output" / "message").read_text()


class Training(Container):
    """A training job's container."""

    def __init__(self, folder: Path, component: str, hyperparameters: Mapping[str, str], **environment: str) -> None:
        told = {"MILLRACE_COMPONENT": component, "MILLRACE_TASK": "here", "TRAINING_JOB_NAME": "job-1"}
        super().__init__(folder, "training", told | environment)
        self.channels: dict[str, Any] = {}
        put(self.base / "input" / "config" / "hyperparameters.json", dict(hyperparameters))
        self.machines("input/config", "algo-1", ["algo-1"])
        for place in ("model", "output/data"):
            (self.base / place).mkdir(parents=True)

    def give(self, name: str, *words: str, mode: str = "File") -> Path:
        """A channel with a file for each word."""
        told = {"ContentType": "x", "TrainingInputMode": mode, "S3DistributionType": "FullyReplicated"}
        self.channels[name] = told | {"RecordWrapperType": "None"}
        put(self.base / "input" / "config" / "inputdataconfig.json", self.channels)
        return words_folder(self.base / "input" / "data" / name, *words)
