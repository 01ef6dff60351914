"""Documents are executed in real containers by the backend's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ConfigError, UnsupportedError
from millrace.runners.kubeflow.record import Rehearsal
from millrace.runners.kubeflow.rehearsal import rehearse
from millrace.runners.record import RunState, TaskState
from millrace.runners.settings import Rehearse
from tests.conftest import Bucket
from tests.runners.kubeflow.conftest import Rehearsed

documents = pytest.importorskip("tests.runners.kubeflow.documents", reason="needs kfp")
pytestmark = pytest.mark.docker


def states(record: Rehearsal) -> dict[str, str]:
    return {name: str(task.state) for name, task in sorted(record.tasks.items())}


def test_artifacts_metadata_and_parameters_reach_the_next_task(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.chain, rows=4)
    assert record.state is RunState.SUCCEEDED
    assert record.outputs == {"lines": 4, "line": "1"}
    [data] = record.tasks["make-dataset"].artifacts["data"]
    assert data.path is not None
    assert (data.path / "rows.txt").read_text() == "1\n2\n3\n4\n"
    assert (data.path / ".hidden").read_text() == "empty"
    assert data.metadata == {"rows": 4, "kind": "toy"}
    assert data.uri.startswith(f"s3://mlpipeline/v2/artifacts/chain/{record.id}/make-dataset/")
    assert record.tasks["make-dataset"].artifacts["metrics"][0].metadata == {"accuracy": 0.5, "rows": 4}


def test_the_record_is_written(rehearsed: Rehearsed, tmp_path: Path) -> None:
    record = rehearsed(documents.optional, text="hällo")
    written = json.loads((tmp_path / "rehearsals" / record.id / "rehearsal.json").read_bytes())
    assert written["state"] == "succeeded"
    assert written["outputs"] == {"Output": "hällo"}
    assert Path(written["document"]).is_file()
    assert Path(written["tasks"]["say"]["log"]).is_file()


def test_results_are_taken_again_when_asked_for(rehearsed: Rehearsed) -> None:
    rehearsed(documents.chain, {"cache": True}, rows=4)
    again = rehearsed(documents.chain, {"cache": True}, rows=4)
    assert set(states(again).values()) == {"cached"}
    assert again.outputs == {"lines": 4, "line": "1"}
    more = states(rehearsed(documents.chain_and_more, {"cache": True}, rows=4))
    assert more == {"make-dataset": "cached", "count": "cached", "first-line": "succeeded", "say": "succeeded"}
    assert set(states(rehearsed(documents.chain, rows=4)).values()) == {"succeeded"}


def test_only_the_branch_whose_condition_holds_runs(rehearsed: Rehearsed) -> None:
    for which, text in (("a", "first"), ("other", "third")):
        record = rehearsed(documents.branches, which=which)
        assert record.outputs == {"Output": text}
        assert list(states(record).values()).count("skipped") == 2


def test_a_failing_body_is_cleaned_up_after(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.exit_handler)
    assert record.state is RunState.FAILED
    assert "exit code 3" in record.reason
    assert states(record)["say"] == "succeeded"
    assert (record.tasks["exit-handler-1/condition-2/fail"].log or Path()).read_text() == "about to fail: on purpose\n"
    assert rehearsed(documents.exit_handler, works=True).state is RunState.SUCCEEDED


def test_an_exit_task_is_told_how_the_body_ended(rehearsed: Rehearsed) -> None:
    told = json.loads(rehearsed(documents.status).tasks["show-status"].parameters["state"])
    assert (told["state"], told["pipelineTaskName"]) == ("FAILED", "exit-handler-1")


def test_a_task_is_tried_again_and_knows_its_turn(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.retry)
    assert record.outputs == {"Output": "2"}
    assert record.tasks["flaky"].attempts == 3


def test_artifacts_of_a_loop_are_collected(rehearsed: Rehearsed) -> None:
    assert rehearsed(documents.fan_in).outputs == {"Output": 5}


def test_a_loop_takes_its_items_from_a_parameter(rehearsed: Rehearsed) -> None:
    assert rehearsed(documents.dynamic, items=[{"a": 10, "b": 1}]).outputs == {"Output": "11"}


def test_a_list_of_artifacts_does_not_reach_a_nested_graph(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.list_in_graph)
    assert record.state is RunState.FAILED
    assert "only one of the 2 artifacts" in record.reason


def test_conditions_and_graphs_in_loops_see_their_own_turn(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.mixed, {"parallel": 4})
    assert record.outputs == {"Output": "1+2+4"}
    lines = {name: task.parameters["lines"] for name, task in record.tasks.items() if name.endswith("/count")}
    assert sorted(lines.items()) == [(f"for-loop-1[{turn}]/count", (1, 1, 4)[turn]) for turn in range(3)]
    assert [name for name, task in record.tasks.items() if task.kind == "graph" and name.endswith("/inner")] == [
        "for-loop-1[2]/condition-2/inner"
    ]


def test_what_loops_in_loops_give_is_one_flat_list(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.table, {"parallel": 4})
    assert record.outputs == {"Output": "11+21+12+22"}
    assert record.notes == [
        "root.dag.tasks.for-loop-2: what a loop in a loop gives is one flat list, not a list of lists"
    ]


def test_a_turn_that_fails_fails_its_loop_and_the_rest_is_cleaned_up_after(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.loop_then_exit)
    assert record.state is RunState.FAILED
    assert states(record)["say"] == "succeeded"


def test_outputs_of_skipped_turns_can_not_be_collected(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.skipped_turn)
    assert (
        states(record)[
            "for-loop-1[1]/condition-2/add" if "for-loop-1" in states(record) else "for-loop-2[1]/condition-3/add"
        ]
        == "succeeded"
    )
    assert "turn 0 did not give it" in record.reason


def test_memory_and_time_limits_count(rehearsed: Rehearsed) -> None:
    assert "out of memory: the limit is 0.12 GiB" in rehearsed(documents.hungry).reason
    late = rehearsed(documents.late)
    assert "stopped after 1 s, its time limit" in late.reason
    assert late.tasks["sleep"].seconds < 20


def test_an_output_that_was_not_written_fails_the_task(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.forgetful)
    assert states(record) == {"silent": "failed", "say": "skipped"}
    assert "wrote no output parameter 'missing'" in record.reason


def test_claims_are_volumes_of_the_rehearsal(rehearsed: Rehearsed, docker_engine: Any) -> None:
    record = rehearsed(documents.claims)
    assert record.outputs == {"Output": 4}
    assert not docker_engine.volumes.list(filters={"label": f"millrace.rehearsal={record.id}"})


def test_secrets_come_from_a_file_of_ones_own(rehearsed: Rehearsed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        rehearsed(documents.secretive)
    assert "needs the Secret 'store'" in str(refused.value)
    assert "rehearse.config_maps=FILE" in str(refused.value)
    secrets, maps = tmp_path / "secrets.yaml", tmp_path / "maps.yaml"
    secrets.write_text("store: {password: hidden}\n")
    maps.write_text("shown: {key: seen}\n")
    record = rehearsed(documents.secretive, {"secrets": secrets, "config_maps": maps})
    assert record.outputs == {"Output": "plain hidden seen 1234"}
    kept = (tmp_path / "rehearsals" / record.id / "document.yaml").read_text()
    assert "password: hidden" not in kept


def test_artifacts_live_in_a_store_that_is_there_already(rehearsed: Rehearsed, s3: Bucket) -> None:
    imported = s3.put("models/first", b"from the store\nsecond\n")
    settings = {"endpoint": s3.endpoint, "pipeline_root": s3.uri("runs")}
    record = rehearsed(documents.importing(imported), settings)
    assert record.outputs == {"Output": "from the store"}
    keys = [item["Key"] for item in s3.client.list_objects_v2(Bucket=s3.name, Prefix="runs/")["Contents"]]
    assert keys == [f"runs/importing/{record.id}/first-line/{keys[0].split('/')[4]}/executor-logs-0"]


def test_a_store_that_does_not_answer_is_told_before_anything_starts(rehearsed: Rehearsed, s3: Bucket) -> None:
    for endpoint, reason in ((s3.endpoint, "NoSuchBucket"), ("http://127.0.0.1:9", "no answer")):
        with pytest.raises(ConfigError, match=rf"s3://absent/runs at {endpoint}: {reason}"):
            rehearsed(documents.optional, {"endpoint": endpoint, "pipeline_root": "s3://absent/runs"})


def test_a_folder_is_put_into_the_store_before(rehearsed: Rehearsed, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "first").write_text("seeded\n")
    record = rehearsed(documents.importing("s3://mine/models/first"), {"seed": {"mine/models": tmp_path / "models"}})
    assert record.outputs == {"Output": "seeded"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"whole": "seven"}, "'whole': type mismatch: NUMBER_INTEGER is expected, given a string"),
        ({"flag": 1}, "'flag': type mismatch: BOOLEAN is expected, given a number"),
        ({"wole": 1}, "'wole' is unknown: did you mean 'whole'"),
    ],
)
def test_parameters_are_checked_before_anything_starts(rehearsed: Rehearsed, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        rehearsed(documents.types, **given)
    with pytest.raises(ConfigError, match=r"put quotes around it: parameters\.text='\"5\"'"):
        rehearsed(documents.optional, text=5)


def test_images_are_looked_for_before_anything_starts(tmp_path: Path, docker_engine: Any) -> None:
    text = documents.compiled(documents.chain, tmp_path).read_text()
    text = text.replace(documents.IMAGE, "registry.example.org/absent:1", 1).replace(documents.IMAGE, "millrace/x:9", 1)
    with pytest.raises(ConfigError) as refused:
        rehearse(text, Rehearse(root=tmp_path), {})
    assert "docker pull registry.example.org/absent:1" in str(refused.value)
    assert "millrace build images=[x]" in str(refused.value)


def test_what_can_not_be_rehearsed_is_said_before_anything_starts(tmp_path: Path) -> None:
    text = documents.compiled(documents.loop, tmp_path).read_text()
    text = text.replace("itemInput: pipelinechannel--loop-item-param-1", "itemInput: x", 1)
    text = text.replace("parameterIterator:", "artifactIterator:").replace("        raw: '[1, 2, 3]'\n", "", 1)
    with pytest.raises(UnsupportedError, match=r"artifactIterator"):
        rehearse(text, Rehearse(root=tmp_path), {})


def test_turns_of_a_loop_run_at_the_same_time_up_to_the_limit(rehearsed: Rehearsed) -> None:
    record = rehearsed(documents.lasting, {"parallel": 4}, seconds=2)
    naps = [task for name, task in record.tasks.items() if name.endswith("/sleep")]
    began = [task.started for task in naps if task.started]
    assert len(naps) == 2
    assert abs((began[0] - began[1]).total_seconds()) < 2
    assert all(task.state is TaskState.SUCCEEDED for task in naps)
