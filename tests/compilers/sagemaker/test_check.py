"""Each mistake that is planted in a clean definition is found, at its place, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.compilers.sagemaker.check import Finding, check_document, refuse_wrong
from millrace.compilers.sagemaker.limits import DEFINITION_CHARACTERS
from millrace.errors import UnsupportedError
from tests.compilers.sagemaker.definitions import of_digits
from tests.compilers.sagemaker.documents import changed, clean, get, keys_of, processing, set_in

MISTAKES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text())


def planted(mistake: dict[str, Any]) -> str:
    """The definition with a mistake: `fill` puts so many characters, `join` so many before a parameter's name."""
    changes = dict(mistake.get("set", {}))
    for pointer, count in mistake.get("fill", {}).items():
        changes[pointer] = "x" * count
    for pointer, count in mistake.get("join", {}).items():
        changes[pointer] = {"Std:Join": {"On": "===", "Values": ["x" * count, get("Parameters.bucket"), "y"]}}
    for pointer, count in mistake.get("many", {}).items():
        entry = "millrace.components.evaluate.spec:evaluate"
        changes[pointer] = [entry, *map(str, range(count - 1))]
    return changed(changes, mistake.get("drop"))


class TestClean:
    def test_definition(self) -> None:
        assert check_document(json.dumps(clean())) == []
        refuse_wrong(json.dumps(clean()))

    @pytest.mark.parametrize("chosen", [{}, {"tuning": {"kind": "task"}}, {"training": {"spot": True}}], ids=str)
    def test_our_own(self, chosen: dict[str, Any]) -> None:
        assert check_document(of_digits(**chosen).text) == []

    def test_in_time(self) -> None:
        text = of_digits().text
        check_document(text)
        begun = time.perf_counter()
        check_document(text)
        assert time.perf_counter() - begun < 0.5

    def test_neither_region_nor_credentials_nor_clients(self, tmp_path: Path) -> None:
        definition = tmp_path / "definition.json"
        definition.write_text(json.dumps(clean()))
        program = (
            "import sys, pathlib; from millrace.compilers.sagemaker.check import check_document;"
            f"assert check_document(pathlib.Path({str(definition)!r}).read_text()) == [];"
            "assert not {'boto3', 'botocore.client', 'sagemaker', 'tensorflow'} & sys.modules.keys()"
        )
        subprocess.run([sys.executable, "-c", program], check=True, env={"HOME": str(tmp_path)}, timeout=60)


class TestAMistake:
    @pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake["name"] for mistake in MISTAKES])
    def test_is_found(self, mistake: dict[str, Any]) -> None:
        findings = check_document(planted(mistake))
        if not mistake.get("also"):  # a name that is gone is missed elsewhere
            assert len(findings) == 1, [str(finding) for finding in findings]
        severity = mistake.get("finds", "error")
        there = [one for one in findings if (one.severity, one.path) == (severity, mistake["at"])]
        assert any(mistake["told"] in one.message for one in there), [str(finding) for finding in findings]

    def test_there_are_many(self) -> None:
        assert len(MISTAKES) >= 40
        assert len({mistake["name"] for mistake in MISTAKES}) == len(MISTAKES)


class TestTogether:
    def test_all_are_told_at_once(self) -> None:
        text = changed({"@train/Arguments/RoleArn": 3, "@answers/Arguments/MaxPayloadInMB": 200})
        with pytest.raises(UnsupportedError) as refused:
            refuse_wrong(text)
        assert [line.partition(": ")[0] for line in str(refused.value).splitlines()] == [
            "Steps.train.Arguments.RoleArn",
            "Steps.answers.Arguments.MaxPayloadInMB",
        ]

    def test_one_mistake_in_many_steps_is_told_once(self) -> None:
        text = changed({f"@{name}/Arguments/RoleArn": "millrace" for name in ("train", "evaluate")})
        with pytest.raises(UnsupportedError) as refused:
            refuse_wrong(text)
        (line,) = str(refused.value).splitlines()
        assert line.startswith("Steps.train.Arguments.RoleArn: ")
        assert line.endswith("(also Steps.evaluate.Arguments.RoleArn)")

    @pytest.mark.parametrize(("hosts", "wrong"), [(6, False), (7, True)])
    def test_hosts_that_get_no_shard(self, hosts: int, wrong: bool) -> None:
        made = {"Get": "Steps.shard.ProcessingOutputConfig.Outputs['shards'].S3Output.S3Uri"}
        words = ["millrace.components.shard.spec:shard", "--parameters", '{"sha', 'rds":2}', "--task", "shard"]
        added = {
            "Steps/-": processing("shard", arguments=words, inputs=[], outputs=["shards"]),
            "@preprocess/Arguments/ProcessingInputs/1/S3Input/S3Uri": {
                "Std:Join": {"On": "/", "Values": [made, "shards/"]}
            },
            "@preprocess/Arguments/ProcessingResources/ClusterConfig/InstanceCount": hosts,
        }
        found = [str(finding) for finding in check_document(changed(added))]
        assert len(found) == int(wrong), found
        assert all("7 hosts for fewer shards of step 'shard' (2 of each channel, 6 at most)" in one for one in found)

    def test_warnings_are_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        refuse_wrong(changed({"Parameters/-": {"Name": "spare", "Type": "String"}}))
        assert capsys.readouterr().err == "warning: Parameters[4]: nothing reads the parameter 'spare'\n"

    def test_conditions_in_conditions(self) -> None:
        document: dict[str, Any] = {"Version": "2020-12-01", "Steps": []}
        steps = document["Steps"]
        for number in range(40):
            compared = [{"Type": "LessThan", "LeftValue": 1, "RightValue": 2.5}]
            arguments: dict[str, Any] = {"Conditions": compared, "IfSteps": [], "ElseSteps": []}
            steps.append({"Name": f"condition-{number}", "Type": "Condition", "Arguments": arguments})
            steps = arguments["IfSteps"]
        (finding,) = check_document(json.dumps(document))
        assert (finding.severity, finding.message.partition(":")[0]) == ("warning", "no step hangs on this condition")

    def test_steps_of_types_without_a_request(self) -> None:
        notify = {
            "Name": "notify",
            "Type": "Lambda",
            "FunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:notify",
            "Arguments": {"job": get("Steps.train.TrainingJobName")},
            "OutputParameters": [{"OutputName": "sent", "OutputType": "Boolean"}],
        }
        read = {"Get": "Steps.notify.OutputParameters['sent']"}
        compared = {"Type": "Equals", "LeftValue": read, "RightValue": True}
        added = {"Steps/-": notify, "@good/Arguments/Conditions/-": compared}
        assert check_document(changed(added)) == []
        read["Get"] = "Steps.notify.OutputParameters['send']"
        (finding,) = check_document(changed(added))
        assert "step 'notify' has no output 'send': did you mean 'sent'?" in finding.message


class TestUnusable:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("{", "this is no JSON"),
            ("[]", "a definition is a JSON object, this is a list"),
            ('{"Steps": [{"Name": "a", "Type": 1, "Type": 2}]}', "the key 'Type' is given twice in 'a'"),
            ('{"Metadata": {"a": NaN}}', "NaN is no number that JSON knows"),
            ('{"Metadata": {"a": 1e999}}', "a number is too large"),
            ("[" * 5000, "nested more than 300 deep"),
            ('{"Metadata": "' + "x" * DEFINITION_CHARACTERS + '"}', "SageMaker takes 1,048,576"),
        ],
        ids=["cut", "list", "twice", "nan", "infinite", "deep", "large"],
    )
    def test_is_one_finding(self, text: str, told: str) -> None:
        (finding,) = check_document(text)
        assert finding.severity == "error"
        assert told in finding.message

    def test_too_many_steps_and_parameters(self) -> None:
        document = clean()
        fail = {"Type": "Fail", "Arguments": {"ErrorMessage": "no"}}
        document["Steps"] += [{"Name": f"step-{index}", **fail} for index in range(50)]
        used = [get(f"Parameters.p{index}") for index in range(200)]
        document["Parameters"] += [{"Name": f"p{index}", "Type": "String"} for index in range(200)]
        document["Steps"][-1]["Arguments"]["ErrorMessage"] = {"Std:Join": {"On": "", "Values": used}}
        assert [(one.severity, one.path) for one in check_document(json.dumps(document))] == [
            ("error", "Parameters"),
            ("warning", "Steps"),
        ]


def places(value: Any, way: str = "") -> list[str]:
    """JSON pointers of all that a document holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, item in items:
        pointer = f"{way}/{str(key).replace('/', '~1')}".removeprefix("/")
        found += [pointer, *places(item, pointer)]
    return found


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Get", "Std:Join", "Std:JsonGet", "On", "Values", "Name", "Type", "Steps", "Arguments", "Path", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


class TestAnything:
    @settings(max_examples=60, deadline=None)
    @given(JSON_VALUES)
    def test_never_raises(self, value: Any) -> None:
        assert all(isinstance(one, Finding) for one in check_document(json.dumps(value)))

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(places(clean())), JSON_VALUES)
    def test_in_any_place(self, pointer: str, value: Any) -> None:
        document = clean()
        set_in(document, pointer, value)
        assert all(isinstance(one, Finding) for one in check_document(json.dumps(document)))

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=200))
    def test_text(self, text: str) -> None:
        assert all(isinstance(one, Finding) for one in check_document(text))

    def test_is_the_same_each_time(self) -> None:
        text = changed({"@train/a": 1, "@train/b": 2, "@train/c": 3, "@train/d": 4})
        assert [one.path for one in check_document(text)] == [f"Steps.train.{name}" for name in "abcd"]

    def test_each_place_is_looked_at(self) -> None:
        """A value of a type that fits nowhere is found wherever it is put."""
        missed = []
        for pointer in places(clean()):
            document = clean()
            set_in(document, pointer, {"no": ["such", {"thing": None}]})
            if not check_document(json.dumps(document)) and keys_of(pointer, document)[0] != "Metadata":
                missed.append(pointer)
        assert missed == []
