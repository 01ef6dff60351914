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
