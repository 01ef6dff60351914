"""What shares made, read inside a condition or a loop: the backend hands on one artifact, so they become one."""

from __future__ import annotations

from typing import Any

import yaml

from millrace.compilers.kubeflow.check import check_document
from millrace.compilers.kubeflow.document import parse_document
from millrace.compilers.kubeflow.gathering import with_gathering
from millrace.compilers.kubeflow.pipeline import compile_pipeline
from millrace.pipelines.digits import Digits, digits
from millrace.specs import PipelineSpec
from millrace.targets.kubeflow import Kubeflow


def composed(workers: int) -> PipelineSpec:
    return digits.compose(Digits(workers=workers))


def tasks(text: str) -> dict[str, Any]:
    found: dict[str, Any] = parse_document(text).pipeline["root"]["dag"]["tasks"]
    return found


def test_tasks_inside_a_condition_read_what_was_gathered_outside() -> None:
    spec = with_gathering(composed(workers=3))
    gathering = spec.task("gather_preprocess_records")
    assert [str(part) for part in gathering.inputs["parts"]] == ["preprocess.records"]
    assert gathering.conditions == ()
    for name in ("quantize", "deploy"):
        assert [str(part) for part in spec.task(name).inputs["records"]] == ["gather_preprocess_records.whole"]
    for name in ("train", "evaluate"):
        assert [str(part) for part in spec.task(name).inputs["records"]] == ["preprocess.records"]


def test_one_share_needs_none() -> None:
    spec = composed(workers=1)
    assert with_gathering(spec) is spec


def test_the_document_has_the_type_that_was_put_together() -> None:
    text = compile_pipeline(composed(workers=2), Kubeflow())
    assert "gather-preprocess-records" in tasks(text)
    made = parse_document(text).pipeline["components"]["comp-gather-preprocess-records"]["outputDefinitions"]
    assert made["artifacts"]["whole"]["artifactType"]["schemaTitle"] == "system.Dataset"
    assert check_document(text, strict_images=True) == []


def test_a_list_that_goes_into_a_condition_is_an_error() -> None:
    documents = list(yaml.safe_load_all(compile_pipeline(composed(workers=2), Kubeflow())))
    spec = documents[0]
    group = spec["root"]["dag"]["tasks"]["condition-3"]
    (name,) = (name for name in group["inputs"]["artifacts"] if "gather" in name)
    listed = {"producerTask": "for-loop-2", "outputArtifactKey": "pipelinechannel--preprocess-records"}
    group["inputs"]["artifacts"][name] = {"taskOutputArtifact": listed}
    group["dependentTasks"] = sorted({*group["dependentTasks"], "for-loop-2"})
    for component, key in (("condition-3", name), ("quantize", "records"), ("deploy", "records")):
        spec["components"][f"comp-{component}"]["inputDefinitions"]["artifacts"][key]["isArtifactList"] = True
    told = {finding.path: finding for finding in check_document(yaml.safe_dump_all(documents))}
    found = told[f"root.dag.tasks.condition-3.inputs.artifacts.{name}"]
    assert found.severity == "error"
    assert "hands only one of them on" in found.message
