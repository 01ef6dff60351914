"""Documents become versions of pipelines: byte for byte, and each one once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.errors import ConfigError, DataError
from millrace.services.kubeflow import Connection, Document, read_document, upload_document
from millrace.services.kubeflow.document import document_at, given_parameters, task_names, with_cache
from millrace.targets.kubeflow import Kubeflow
from tests.services.kubeflow.conftest import SMALL, TOKEN
from tests.services.kubeflow.fake_server import FakeKubeflow, RefusalError


class TestTheContract:
    """That the proxy would notice: else every other test here would be worth less."""

    @pytest.mark.parametrize("body", [{"display_nam": "x"}, {"display_name": 3}, {"runtime_config": {"root": "x"}}])
    def test_refuses_wrong_requests(self, target: Kubeflow, body: dict[str, object]) -> None:
        assert self._status(target, "/runs", body) == 422

    def test_refuses_requests_without_credentials(self, target: Kubeflow) -> None:
        assert self._status(target, "/runs", {"display_name": "x"}, token=False) == 401

    def test_refuses_wrong_answers(self, target: Kubeflow, fake: FakeKubeflow) -> None:
        fake.add_experiment("odd", state="NO_STATE_OF_THE_API")
        assert self._status(target, "/experiments", None) == 500

    def _status(self, target: Kubeflow, path: str, body: object, token: bool = True) -> int:
        headers = {"authorization": f"Bearer {TOKEN}"} if token else {}
        url = f"{target.api.host}/apis/v2beta1{path}"
        return httpx.request("GET" if body is None else "POST", url, json=body, headers=headers).status_code


class TestUpload:
    def test_keeps_every_byte(self, connection: Connection, fake: FakeKubeflow, document: Document) -> None:
        version = upload_document(connection, document)
        assert fake.files[version.version_id] == SMALL.read_bytes()
        assert version.first
        assert fake.versions[version.version_id]["pipeline_id"] == version.pipeline_id

    def test_of_the_same_document_makes_one_version(
        self, connection: Connection, fake: FakeKubeflow, document: Document
    ) -> None:
        first, second = upload_document(connection, document), upload_document(connection, document)
        assert (first.new, second.new) == (True, False)
        assert second.version_id == first.version_id
        assert len(fake.versions) == len(fake.pipelines) == 1

    def test_of_a_changed_document_makes_a_version_of_the_same_pipeline(
        self, connection: Connection, fake: FakeKubeflow, document: Document
    ) -> None:
        first = upload_document(connection, document)
        second = upload_document(connection, read_document(document.text + "# changed\n"))
        assert second.pipeline_id == first.pipeline_id
        assert second.new
        assert not second.first
        assert second.name != first.name

    def test_goes_on_after_a_kill_between_pipeline_and_version(
        self, connection: Connection, fake: FakeKubeflow, document: Document
    ) -> None:
        connection.post("/pipelines", {"name": "small"})
        assert upload_document(connection, document).new
        assert len(fake.pipelines) == 1

    @pytest.mark.parametrize("path", ["/apis/v2beta1/pipelines", "/apis/v2beta1/pipelines/upload_version"])
    def test_survives_a_lost_answer(
        self, connection: Connection, fake: FakeKubeflow, document: Document, path: str
    ) -> None:
        """Behind prism a broken connection is an answer of status 500: the request was done all the same."""
        fake.broken = lambda method, asked: "lost" if (method, asked) == ("POST", path) else None
        upload_document(connection, document)
        assert len(fake.versions) == len(fake.pipelines) == 1

    def test_tells_why_a_server_refuses(self, connection: Connection, fake: FakeKubeflow, document: Document) -> None:
        fake.broken = lambda method, path: RefusalError(400, "no room") if path.endswith("upload_version") else None
        with pytest.raises(ConfigError, match=r"answers 400 to POST .*upload_version: no room"):
            upload_document(connection, document)


def test_the_projects_own_client_uploads_the_same_bytes(target: Kubeflow, fake: FakeKubeflow) -> None:
    """kfp.Client takes our documents as they are, and Millrace finds what it has made."""
    from kfp import Client

    client: Any = Client(host=target.api.host, existing_token=TOKEN, namespace="user")
    made = client.upload_pipeline(str(SMALL), pipeline_name="small")
    assert fake.files.popitem()[1] == SMALL.read_bytes()
    run = client.run_pipeline(
        client.create_experiment("Default").experiment_id,
        "by hand",
        pipeline_id=made.pipeline_id,
        version_id=next(iter(fake.versions)),
        params={"train_epochs": 3},
    )
    assert fake.runs[run.run_id]["runtime_config"]["parameters"] == {"train_epochs": 3}


class TestDocuments:
    def test_name_their_tasks_in_loops_too(self, document: Document) -> None:
        assert task_names(document.spec) == ("preprocess", "train")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: [", "this is no YAML"),
            ("a: 1", "holds no compiled pipeline"),
            ("pipelineInfo: {}", "no compiled pipeline"),
        ],
    )
    def test_that_are_none_are_refused(self, tmp_path: Path, text: str, message: str) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            document_at(file)

    def test_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"document: .*none\.yaml: No such file"):
            document_at(tmp_path / "none.yaml")

    def test_switch_caching_of_every_task(self, document: Document) -> None:
        changed = with_cache(document, cache=False)
        assert "enableCache: true" not in changed.text
        assert changed.text.count("enableCache: false") == 2
        assert "imagePullPolicy: IfNotPresent" in changed.text
        assert with_cache(document, cache=True) is with_cache(document, cache=None) is document


class TestParameters:
    @pytest.mark.parametrize(
        "given", [{"train.epochs": 3}, {"train_epochs": 3}, {"train": {"epochs": 3}}, {"train_epochs": 3.0}]
    )
    def test_go_by_every_name(self, document: Document, given: dict[str, Any]) -> None:
        found = given_parameters(document, given)
        assert found == {"train_epochs": 3}
        assert type(found["train_epochs"]) is int

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"train.epoch": 3}, r"submit\.parameters\.train\.epoch: .* did you mean 'train_epochs'\?"),
            ({"train": {"epoch": 3}}, r"did you mean 'train_epochs'\?"),
            ({"train.epochs": 2.5}, r"train_epochs: it must be a whole number \(given: 2\.5\)"),
            ({"train.epochs": True}, r"it must be a whole number \(given: True\)"),
            ({"train.augment": 1}, r"train_augment: it must be true or false \(given: 1\)"),
            ({"train.learning_rate": "fast"}, r"it must be a number"),
            ({"train.learning_rate": float("nan")}, r"it must be a number"),
            ({"train.model": 3}, r"train_model: it must be a text"),
            ({"train.model": "cn"}, r"'cn' is not allowed: did you mean 'cnn'\?"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, document: Document, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            given_parameters(document, given)

    def test_without_a_default_must_be_given(self, document: Document) -> None:
        asks = read_document(document.text.replace("        defaultValue: cnn\n        isOptional: true\n", ""))
        with pytest.raises(ConfigError, match="train_model: the document asks for it"):
            given_parameters(asks, {})
