"""A document of another target, or none at all, is told by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import millrace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("documents")
    for target, file in (("kubeflow", "k.yaml"), ("sagemaker", "s.json")):
        answer = millrace("compile", "pipeline=digits", f"target={target}", f"output={file}", cwd=place)
        assert answer.returncode == 0, answer.stderr
    (place / "broken.json").write_text('{"Steps": [')
    (place / "k.json").write_text('{"pipelineInfo": {"name": "a"}}')
    return place


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "upload document=k.yaml target=sagemaker",
            "document: k.yaml is a pipeline for Kubeflow (YAML): target=kubeflow",
        ),
        ("rehearse document=k.yaml target=sagemaker", "k.yaml is a pipeline for Kubeflow (YAML): target=kubeflow"),
        ("cost document=k.json target=sagemaker", "k.json is a pipeline for Kubeflow (JSON): target=kubeflow"),
        ("submit document=s.json target=kubeflow", "document: s.json is a SageMaker definition: target=sagemaker"),
        ("rehearse document=s.json target=kubeflow", "s.json is a SageMaker definition: target=sagemaker"),
        ("rehearse document=broken.json", "document: broken.json is no JSON: Expecting value"),
        ("iam document=broken.json target=sagemaker", "document: broken.json is no JSON: Expecting value"),
    ],
)
def test_refused(folder: Path, words: str, told: str) -> None:
    answer = millrace(*words.split(), cwd=folder)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert told in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_its_own_target_takes_it(folder: Path) -> None:
    answer = millrace("cost", "document=s.json", "target=sagemaker", cwd=folder)
    assert answer.returncode == 0, answer.stderr
