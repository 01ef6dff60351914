"""What KServe or Katib can't do is an error of compile, with the parameter's path."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from millrace.compilers.kubeflow import compile_pipeline
from millrace.components.deploy.spec import Canary, DeployParameters, Scaling
from millrace.components.manifest.spec import ManifestParameters
from millrace.components.tune.spec import Hyperband, TuneParameters
from millrace.errors import UserError
from millrace.pipelines.image_classification import ImageClassification, image_classification
from millrace.targets.kubeflow import Kubeflow, Serving, Tuning

PICTURES = ManifestParameters(source="s3://bucket/flowers")
SPACE: Any = {"learning_rate": {"kind": "float", "low": 0.001, "high": 0.1}}


@pytest.mark.parametrize(
    ("config", "target", "told"),
    [
        (
            {"deploy": DeployParameters(scaling=Scaling(metric="cpu"))},
            Kubeflow(),
            "deploy.scaling.metric=cpu: Knative mode of KServe scales by concurrency or rps",
        ),
        (
            {"deploy": DeployParameters(canary=Canary())},
            Kubeflow(serving=Serving(mode="standard", runtime="kserve-tensorflow-serving")),
            "deploy.canary: a canary of Standard mode does not get the model's files",
        ),
        (
            {"tune": TuneParameters(space=SPACE, pruner=Hyperband())},
            Kubeflow(tuning=Tuning(kind="katib")),
            "tune.pruner.kind=hyperband: Katib's hyperband",
        ),
    ],
)
def test_refused(config: dict[str, Any], target: Kubeflow, told: str) -> None:
    spec = image_classification.compose(ImageClassification(manifest=PICTURES, **config))
    with pytest.raises(UserError) as refused:
        compile_pipeline(spec, target)
    assert str(refused.value).startswith(told)


def test_where_no_service_takes_the_work_nothing_is_asked() -> None:
    config = ImageClassification(manifest=PICTURES, tune=TuneParameters(space=SPACE, pruner=Hyperband()))
    assert compile_pipeline(image_classification.compose(config), Kubeflow())


def test_the_checks_import_nothing_heavy() -> None:
    modules = "millrace.components.deploy.kserve, millrace.components.tune.refusals"
    heavy = ("numpy", "tensorflow", "optuna", "kubernetes", "kfp")
    script = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
