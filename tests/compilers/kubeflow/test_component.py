"""Components as files for other people's pipelines."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kfp import compiler, components, dsl

from millrace.compilers.kubeflow import compile_component
from millrace.compilers.kubeflow.check import check_document
from millrace.errors import ConfigError
from millrace.registry import COMPONENTS, load_component
from millrace.targets.kubeflow import Kubeflow
from tests.compilers.kubeflow import flows
from tests.compilers.kubeflow.reading import Read, read


def component(name: str, **target: Any) -> Read:
    return read(compile_component(load_component(name).spec, Kubeflow.model_validate(target)))


@pytest.mark.parametrize("name", [*COMPONENTS, "tests.compilers.kubeflow.flows:join", "tests.toys:work"])
def test_every_component_is_well_formed(name: str) -> None:
    text = compile_component(load_component(name).spec, Kubeflow())
    read(text)
    assert [one for one in check_document(text, "2.17") if one.severity == "error"] == []
    assert text == compile_component(load_component(name).spec, Kubeflow())
    assert "millrace_output" not in text


def test_plain_values_are_inputs_and_all_others_go_together() -> None:
    inputs = component("train").spec["root"]["inputDefinitions"]["parameters"]
    assert inputs["epochs"] == {
        "parameterType": "NUMBER_INTEGER",
        "defaultValue": 20.0,
        "isOptional": True,
        "description": "At most that many epochs.",
    }
    assert inputs["learning_rate"]["parameterType"] == "NUMBER_DOUBLE"
    assert inputs["amp"]["defaultValue"] is False
    assert inputs["parameters"]["defaultValue"] == "{}"
    assert not {"model", "gradient_clip_norm", "steps_per_epoch", "class_weights"} & set(inputs)
    assert "epochs=epochs" in component("train").argument("train", "--open")


@pytest.mark.parametrize(("compat", "shown"), [("2.15", False), ("2.16", True)])
def test_allowed_values_are_told_where_they_are_known(compat: str, shown: bool) -> None:
    document = component("quantize", compat=compat)
    for place in (document.spec["root"], document.component("quantize")):
        assert ("literals" in place["inputDefinitions"]["parameters"]["scheme"]) is shown


def test_a_component_of_shards_can_be_told_its_share() -> None:
    inputs = component("preprocess").spec["root"]["inputDefinitions"]["parameters"]
    assert (inputs["share_index"]["defaultValue"], inputs["share_count"]["defaultValue"]) == (0.0, 1.0)
    assert "share_index" not in component("train").spec["root"]["inputDefinitions"]["parameters"]


def test_work_for_the_cluster_asks_for_the_run() -> None:
    served = component("deploy")
    assert served.argument("deploy", "--cluster")
    assert served.argument("deploy", "--run") == ["{{$.inputs.parameters['run']}}"]
    assert "isOptional" not in served.spec["root"]["inputDefinitions"]["parameters"]["run"]
    alone = component("deploy", serving={"kind": "none"})
    assert "run" not in alone.spec["root"]["inputDefinitions"]["parameters"]


def test_it_is_used_in_a_pipeline_of_somebodys_own(tmp_path: Path) -> None:
    for name in ("digits", "manifest", "shard", "preprocess", "train", "evaluate"):
        (tmp_path / f"{name}.yaml").write_text(compile_component(load_component(name).spec, Kubeflow()))
    (tmp_path / "join.yaml").write_text(compile_component(flows.join.spec, Kubeflow()))
    loaded = {path.stem: components.load_component_from_file(str(path)) for path in tmp_path.glob("*.yaml")}

    class Out(NamedTuple):
        accuracy: float

    def theirs(epochs: int = 3) -> Out:
        pictures = loaded["digits"](scale=2)
        listing = loaded["manifest"](dataset=pictures.outputs["dataset"], parameters='{"split": {"seed": 1}}')
        plan = loaded["shard"](manifest=listing.outputs["manifest"])
        with dsl.ParallelFor([0, 1]) as index:
            records = loaded["preprocess"](shards=plan.outputs["shards"], share_index=index, share_count=2)
        loaded["join"](words=dsl.Collected(records.outputs["records"]))
        whole = loaded["preprocess"](shards=plan.outputs["shards"])
        trained = loaded["train"](records=whole.outputs["records"], epochs=epochs)
        judged: Any = loaded["evaluate"](model=trained.outputs["model"], records=whole.outputs["records"])
        return Out(judged.outputs["accuracy"])

    path = tmp_path / "theirs.yaml"
    compiler.Compiler().compile(dsl.pipeline(name="theirs")(theirs), str(path))
    document = read(path.read_text())
    given = document.task("train")["inputs"]["parameters"]
    assert given == {"epochs": {"componentInputParameter": "epochs"}}
    assert document.component("join")["inputDefinitions"]["artifacts"]["words"]["isArtifactList"]
    assert yaml.safe_load(path.read_text())["pipelineInfo"]["name"] == "theirs"


def test_a_port_with_the_name_of_an_input_of_kubeflows_is_refused() -> None:
    spec = load_component("tests.toys:split").spec
    port = spec.inputs[0].model_copy(update={"name": "share_index"})
    with pytest.raises(ConfigError, match="'share_index' is an input of its own in Kubeflow"):
        compile_component(spec.model_copy(update={"inputs": (port,)}), Kubeflow())
