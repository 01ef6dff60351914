"""A pipeline definition written by hand, whose jobs run in an image of a few lines of Python."""

from __future__ import annotations

import io
import json
import tarfile
import textwrap
from typing import Any

from tests.runners.sagemaker.jobs import IMAGE

STAND_IN = "millrace-test/stand-in:1"
"""Answers `train` and `serve` as SageMaker's algorithms do."""
BUCKET = "work"
RUN = {"Get": "Execution.PipelineExecutionId"}

_TRAIN = """
    #!/usr/local/bin/python
    import json, pathlib, sys, time
    config = pathlib.Path("/opt/ml/input/config")
    values = json.loads((config / "hyperparameters.json").read_text())
    hosts = json.loads((config / "resourceconfig.json").read_text())
    rate, epochs = float(values.get("rate", "1")), int(values.get("epochs", "2"))
    if values.get("kind") == "bad":
        pathlib.Path("/opt/ml/output/failure").write_text("the kind is bad")
        sys.exit(1)
    for epoch in range(epochs):
        print(f"epoch={epoch} score={rate * (epoch + 1) / epochs:.6f}", flush=True)
        time.sleep(float(values.get("pause", "0")))
    if hosts["current_host"] == hosts["hosts"][0]:
        model = {"rate": rate, "hosts": len(hosts["hosts"]), "kind": values.get("kind", "")}
        pathlib.Path("/opt/ml/model/model.json").write_text(json.dumps(model))
"""
_SERVE = """
    #!/usr/local/bin/python
    import json, os, signal
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    model = json.load(open("/opt/ml/model/model.json"))
    class Answers(BaseHTTPRequestHandler):
        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Type", self.headers.get("Accept") or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def do_GET(self):
            self.answer(200 if self.path == "/ping" else 404, b"")
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if body == "boom":
                self.answer(500, b"no idea")
            elif body == "who":
                self.answer(200, json.dumps({**model, **{k: v for k, v in os.environ.items() if k == "SIDE"}}).encode())
            else:
                lines = [f"{float(line) * model['rate']:g}" for line in body.split()]
                self.answer(200, chr(10).join(lines).encode())
        def log_message(self, *args):
            pass
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer(("0.0.0.0", 8080), Answers).serve_forever()
"""
PREPARE = """
    import json, pathlib
    out = pathlib.Path("/opt/ml/processing/output")
    given = json.loads(pathlib.Path("/opt/ml/config/processingjobconfig.json").read_text())
    size = int(given["Environment"]["SIZE"])
    (out / "data").mkdir(parents=True, exist_ok=True)
    for part in range(2):
        (out / "data" / f"part{part}.txt").write_text("".join(f"{number}\\n" for number in range(size)))
    (out / "metrics").mkdir(parents=True, exist_ok=True)
    (out / "metrics" / "metrics.json").write_text(json.dumps({"size": size, "more": {"list": [1, size]}}))
"""
ASK = """
    import json, os, urllib.request
    url = os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] + "/endpoints/" + os.environ["ENDPOINT"] + "/invocations"
    answer = urllib.request.urlopen(urllib.request.Request(url, b"2"))
    print("answer", answer.read().decode(), "of", answer.headers["x-Amzn-Invoked-Production-Variant"])
"""


def image_context() -> io.BytesIO:
    """What the stand-in image is built from."""
    files = {
        "train": _TRAIN,
        "serve": _SERVE,
        "Dockerfile": f"FROM {IMAGE}\nCOPY train serve /usr/local/bin/\n",
    }
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in files.items():
            content = textwrap.dedent(text).lstrip().encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    made.seek(0)
    return made


def join(*values: Any) -> dict[str, Any]:
    return {"Std:Join": {"On": "/", "Values": [f"s3://{BUCKET}", RUN, *values]}}


def python(script: str) -> list[str]:
    """The command of a container that runs a script, in pieces of the length and form that the service takes."""
    text = textwrap.dedent(script).encode().hex()
    pieces = [text[start : start + 256] for start in range(0, len(text), 256)]
    return ["python", "-u", "-c", "import sys; exec(bytes.fromhex(''.join(sys.argv[1:])))", *pieces]


def get(path: str) -> dict[str, str]:
    return {"Get": path}


def prepare(name: str = "prepare", script: str = PREPARE, **more: Any) -> dict[str, Any]:
    """A Processing step."""

    def output(port: str) -> dict[str, Any]:
        place = {
            "S3Uri": join(name, port),
            "LocalPath": f"/opt/ml/processing/output/{port}",
            "S3UploadMode": "EndOfJob",
        }
        return {"OutputName": port, "S3Output": place}

    return {
        "Name": name,
        "Type": "Processing",
        "Arguments": {
            "AppSpecification": {"ImageUri": IMAGE, "ContainerEntrypoint": python(script)},
            "ProcessingResources": {
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10}
            },
            "ProcessingOutputConfig": {"Outputs": [output("data"), output("metrics")]},
            "RoleArn": get("Parameters.role"),
            "Environment": {"SIZE": {"Std:Join": {"On": "", "Values": [get("Parameters.size")]}}},
        },
        "PropertyFiles": [{"PropertyFileName": "metrics", "OutputName": "metrics", "FilePath": "metrics.json"}],
        **more,
    }


def training_job(hosts: int = 1) -> dict[str, Any]:
    """What a Training step and the jobs of a Tuning step have in common."""
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": get("Steps.prepare.ProcessingOutputConfig.Outputs['data'].S3Output.S3Uri"),
    }
    return {
        "AlgorithmSpecification": {
            "TrainingImage": STAND_IN,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "score", "Regex": "score=([0-9.]+)"}],
        },
        "RoleArn": get("Parameters.role"),
        "InputDataConfig": [{"ChannelName": "data", "DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": join("models")},
        "ResourceConfig": {"InstanceCount": hosts, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 300},
    }


def train(name: str = "train", hosts: int = 1, values: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A Training step."""
    return {
        "Name": name,
        "Type": "Training",
        "Arguments": {**training_job(hosts), "HyperParameters": values or {}, **more},
    }


def tune(
    name: str = "tune", *, jobs: int = 3, parallel: int = 2, strategy: str = "Bayesian", **more: Any
) -> dict[str, Any]:
    """A Tuning step."""
    config = {
        "Strategy": strategy,
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "score"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": parallel},
        "ParameterRanges": {
            "ContinuousParameterRanges": [
                {"Name": "rate", "MinValue": "0.5", "MaxValue": "2", "ScalingType": "Logarithmic"}
            ]
        },
        **more,
    }
    definition = {**training_job(), "StaticHyperParameters": {"epochs": "2"}}
    return {
        "Name": name,
        "Type": "Tuning",
        "Arguments": {"HyperParameterTuningJobConfig": config, "TrainingJobDefinition": definition},
    }


def served() -> list[dict[str, Any]]:
    """Model, configuration and endpoint of what `train` has made, a step that asks it, and a transform job."""
    container = {"Image": STAND_IN, "ModelDataUrl": get("Steps.train.ModelArtifacts.S3ModelArtifacts")}
    variant = {
        "VariantName": "main",
        "ModelName": get("Steps.model.ModelName"),
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "InitialVariantWeight": 1,
    }
    ask = prepare("ask", ASK)
    ask["Arguments"]["Environment"] = {"ENDPOINT": get("Steps.endpoint.EndpointName")}
    del ask["Arguments"]["ProcessingOutputConfig"], ask["PropertyFiles"]
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": get("Steps.prepare.ProcessingOutputConfig.Outputs['data'].S3Output.S3Uri"),
    }
    return [
        {
            "Name": "model",
            "Type": "Model",
            "Arguments": {"PrimaryContainer": container, "ExecutionRoleArn": get("Parameters.role")},
        },
        {"Name": "config", "Type": "EndpointConfig", "Arguments": {"ProductionVariants": [variant]}},
        {
            "Name": "endpoint",
            "Type": "Endpoint",
            "Arguments": {"EndpointName": "stand-in", "EndpointConfigName": get("Steps.config.EndpointConfigName")},
        },
        ask,
        {
            "Name": "transform",
            "Type": "Transform",
            "Arguments": {
                "ModelName": get("Steps.model.ModelName"),
                "BatchStrategy": "SingleRecord",
                "TransformInput": {
                    "DataSource": {"S3DataSource": source},
                    "ContentType": "text/csv",
                    "SplitType": "Line",
                },
                "TransformOutput": {"S3OutputPath": join("answers"), "AssembleWith": "Line"},
                "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 2},
            },
        },
    ]


def condition(left: Any, right: Any, name: str = "enough", **branches: list[dict[str, Any]]) -> dict[str, Any]:
    """A Condition step."""
    return {
        "Name": name,
        "Type": "Condition",
        "Arguments": {
            "Conditions": [{"Type": "GreaterThanOrEqualTo", "LeftValue": left, "RightValue": right}],
            "IfSteps": branches.get("then", []),
            "ElseSteps": branches.get("otherwise", []),
        },
    }


def metric(path: str, step: str = "prepare") -> dict[str, Any]:
    return {"Std:JsonGet": {"PropertyFile": get(f"Steps.{step}.PropertyFiles.metrics"), "Path": path}}


def document(*steps: dict[str, Any]) -> str:
    """A definition with the parameters that the steps take."""
    return json.dumps(
        {
            "Version": "2020-12-01",
            "Metadata": {},
            "Parameters": [
                {"Name": "role", "Type": "String"},
                {"Name": "size", "Type": "Integer", "DefaultValue": 3},
            ],
            "Steps": list(steps),
        }
    )


def whole() -> str:
    """Everything: a condition with training on two hosts, tuning, an endpoint and a transform job in it."""
    best = {"rate": get("Steps.tune.BestTrainingJob.TunedHyperParameters['rate']")}
    message = {"Std:Join": {"On": " ", "Values": ["only", metric("['size']"), "numbers"]}}
    return document(
        prepare(),
        condition(
            metric("size"),
            2,
            then=[tune(), train(hosts=2, values=best), *served()],
            otherwise=[{"Name": "too-few", "Type": "Fail", "Arguments": {"ErrorMessage": message}}],
        ),
    )
