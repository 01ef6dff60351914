"""Keys that nothing would follow are refused by every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import millrace


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("build pusk=foo", "pusk: unknown key: did you mean 'push'?"),
        ("status pipeline=digits target=sagemaker wiat=true", "wiat: unknown key: did you mean 'wait'?"),
        (
            "schedule target=kubeflow schedul.cron=x schedule.state=disabled",
            "schedul: unknown key: did you mean 'schedule'?",
        ),
        ("compile target=kubeflow trian.epochs=2", "trian: unknown key: did you mean 'train'?"),
        ("doctor target=kubeflow trgaet.namespace=a", "trgaet: unknown key: did you mean 'target'?"),
        ("rehearse document=odd.json rehearsee.hold=true", "rehearsee: unknown key: did you mean 'rehearse'?"),
        ("rehearse document=odd.json train.epochs=2", "train.epochs has no effect with document=odd.json: it is"),
        ("rehearse pipeline=digits document=odd.json", "pipeline has no effect with document=odd.json"),
        (
            "compile target=kubeflow document=odd.yaml",
            "document: `millrace compile` does not take document; commands that do: cost, iam, rehearse",
        ),
        ("run runtime=[train.epochs]", "runtime: `millrace run` does not take runtime; commands that do: compile"),
        ("status target=kubeflow submit.wait=true", "submit.wait: `millrace status` does not take submit"),
    ],
)
def test_are_refused(tmp_path: Path, words: str, told: str) -> None:
    answer = millrace(*words.split(), cwd=tmp_path)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert f"error: {told}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_file_may_hold_keys_of_other_commands(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lab.yaml").write_text("defaults: [config, _self_]\nsubmit: {wait: true}\noutput: lab.yaml\n")
    words = ("--config-dir", "mine", "--config-name", "lab", "target=kubeflow")
    answer = millrace("compile", *words, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "lab.yaml").is_file()


def test_a_name_goes_with_a_document(tmp_path: Path) -> None:
    answer = millrace("rehearse", "pipeline.name=other", "document=odd.json", cwd=tmp_path)
    assert answer.returncode == 2
    assert "error: document: odd.json: No such file" in answer.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run train.epochs", "'train.epochs' is no override: overrides are KEY=VALUE, train.epochs=3 for one"),
        ("run digits train.epochs=3", "'digits' is no override: did you mean pipeline=digits?"),
        ("run gate=0.9", "gate: it has a key of its own: did you mean gate.accuracy=0.9?"),
        ("run train.model=mlp", "train.model: it has keys of its own: did you mean train.model.kind=mlp?"),
        (
            "run train.parallel=2",
            "train.parallel: it has keys of its own, train.parallel.KEY=VALUE (given: 2); allowed: ",
        ),
        ("run --epochs=3", "--epochs=3: unknown flag: "),
        ("run --multi-run train.epochs=1,2", "--multi-run: unknown flag: did you mean '--multirun'? allowed: --cfg"),
        ("run --cfg jobs", "--cfg jobs: did you mean 'job'? allowed: all, hydra, job"),
        ("run --cfg", "--cfg: it needs a value: job, hydra, all"),
        ("run --resolve", "--resolve: it goes with --cfg job"),
        ("run --config-dir nowhere", "--config-dir nowhere: there is no folder /"),
        ("run --config-name digitz", "--config-name digitz: there is no digitz.yaml: allowed: config"),
        ("run model=cnnn", "model=cnnn: there is none of that name: did you mean 'cnn'? allowed: bert_base"),
        ("run target=sagemakr", "target=sagemakr: there is none of that name: did you mean 'sagemaker'? allowed: kube"),
        ("run pipeline=3", "a group of options takes a name: pipeline=digits for one"),
        ("run modle/cnn=small", "modle/cnn: there is no such group of options: did you mean 'model'? allowed: model"),
        ("run +train.epochs=3", "+train.epochs: the key is there already: leave out the +"),
        ("run ~train.epoch", "~train.epoch: there is no such key to take away"),
        ("run train.epochs=1,2", "train.epochs=1,2: several values: a run for each of them needs --multirun; one list"),
        ("run train.epochs=range(1,3)", "train.epochs=range(1,3): several values: a run for each of them needs"),
        ("run train..epochs=3", "train..epochs: a key is names with dots between them; overrides are KEY=VALUE"),
        ("run hydra.foo=1", "hydra.foo: Hydra has no such key; its own are shown by --cfg hydra"),
        ("run train.filters=[1", "train.filters=[1 can't be read: lists are [a, b], mappings {a: 1} with keys without"),
        ("run preprocess.height=8", "preprocess.height: unknown key: did you mean 'preprocess.data.height'? here are"),
        (
            "run train.height=8",
            "train.height: unknown key: did you mean 'preprocess.data.height'? here are allowed: amp, ",
        ),
        ("run height=8", "height: unknown key: did you mean 'preprocess.data.height'? here are allowed: "),
        ("run train.hosts=2", "train.hosts: unknown key: did you mean 'hosts'? here are allowed: "),
        ("compile target=sagemaker bucket=b", "bucket: unknown key: did you mean 'target.bucket'? here are allowed"),
    ],
)
def test_are_told_in_one_line(tmp_path: Path, words: str, told: str) -> None:
    answer = millrace(*words.split(), cwd=tmp_path)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert answer.stderr.startswith(f"error: {told}"), answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert answer.stdout == ""
