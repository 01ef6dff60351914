"""Rows and texts from a real S3 server that misbehaves: the same records, or one message that says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.components.analyze.spec import AnalyzeParameters, analyze
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.errors import DataError, UserError
from millrace.runtime.records import counts
from millrace.runtime.schemas import CHANNELS
from millrace.runtime.task import GivenArtifact, TaskRequest, read_failure, read_result
from millrace.testing import Ran, run_component
from tests.components.chain import as_csv, as_lines, as_parquet, make_shards
from tests.components.preprocess.material import contents
from tests.components.text_data import vocabulary
from tests.conftest import SECRET_KEY, Bucket
from tests.faults import SLOW_DOWN, Fault, Refusal, faulty_proxy

DATA: dict[str, dict[str, Any]] = {
    "tabular": {"kind": "tabular", "columns": {"size": {"kind": "numeric"}, "text": {"kind": "hashed", "buckets": 4}}},
    "text": {"kind": "text", "vocabulary_size": 100},
}
WHOLE: dict[str, Any] = {"labels": {"kind": "prefix"}, "formats": ["text"], "contents": "listed"}
"""How files of text are listed unread."""


def table(first: int, rows: int) -> pl.DataFrame:
    numbers = range(first, first + rows)
    return pl.DataFrame(
        {
            "text": [f"word {n} of some {n % 17}" for n in numbers],
            "size": [f"{n / 7}" for n in numbers],
            "label": ["ab"[n % 2] for n in numbers],
        }
    )


def put_tables(s3: Bucket) -> str:
    s3.put("p/1.csv", as_csv(table(0, 60)))
    s3.put("p/2/3.jsonl", as_lines(table(60, 40)))
    s3.put("p/4.parquet", as_parquet(table(100, 40)))
    return s3.uri("p")


def put_texts(s3: Bucket, number: int = 20) -> str:
    for n in range(number):
        s3.put(f"p/{'ab'[n % 2]}/{n}.txt", f"please send money {n}".encode())
    return s3.uri("p")


def learn(shards: Path, directory: Path, kind: str) -> Path:
    parameters = AnalyzeParameters.model_validate({"data": DATA[kind]})
    return run_component(analyze, parameters, directory, shards=shards).outputs["analysis"]


def make(shards: Path, directory: Path, kind: str, analysis: Path, **changes: Any) -> Ran:
    parameters = PreprocessParameters.model_validate({"data": DATA[kind], **changes})
    return run_component(preprocess, parameters, directory, shards=shards, analysis=analysis)


def make_texts(shards: Path, folder: Path, **changes: Any) -> Ran:
    (folder / "vocab.txt").write_bytes(vocabulary())
    data = {"kind": "text", "vocabulary": str(folder / "vocab.txt")}
    parameters = PreprocessParameters.model_validate({"data": data, **changes})
    return run_component(preprocess, parameters, folder / "task", shards=shards)


def rejects(ran: Ran) -> dict[str, str]:
    found = pl.read_parquet(ran.outputs["rejects"] / "*.parquet")
    return {uri.rpartition("/")[2]: reason for uri, reason, _ in found.iter_rows()}


def counted(ran: Ran) -> tuple[int, int]:
    """Records and rejects."""
    told = [one for channel in CHANNELS for one in counts(ran.outputs["records"], channel)]
    assert all(one.records == sum(one.by_class.values()) for one in told)
    return sum(one.records for one in told), sum(one.rejected for one in told)


class TestFaults:
    @pytest.mark.parametrize("kind", ["tabular", "text"])
    @pytest.mark.parametrize("fault", [SLOW_DOWN, "drop", "break_off"])
    def test_make_no_difference_to_any_task(
        self, tmp_path: Path, s3: Bucket, kind: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = put_tables(s3)
        made = []
        for place in ("well", "ill"):
            choose = (
                (lambda number, path: None) if place == "well" else (lambda number, path: None if number % 3 else fault)
            )
            with faulty_proxy(s3.endpoint, choose) as proxy:
                monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
                shards = make_shards(tmp_path / place, {}, source=source)
                analysis = learn(shards, tmp_path / place / "analyze", kind)
                ran = make(shards, tmp_path / place / "task", kind, analysis)
            made.append([contents(shards / "shards"), contents(analysis), contents(*ran.outputs.values())])
        assert len(proxy.injected) > 3
        assert made[0] == made[1]
        assert counted(ran) == (140, 0)

    def test_a_table_cut_short_by_a_server_that_says_so_is_listed_whole(
        self, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = put_tables(s3)
        cut: list[str] = []

        def choose(number: int, path: str) -> Fault | None:
            first = "list-type=2" not in path and path not in cut
            cut.append(path)
            return "short" if first else None

        with faulty_proxy(s3.endpoint, choose) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            shards = make_shards(tmp_path, {}, source=source)
        assert len(proxy.injected) == 3
        assert pl.read_parquet(shards / "shards").height == 140

    @pytest.mark.parametrize("kind", ["tabular", "text"])
    def test_credentials_that_expire_half_way_end_it_and_it_goes_on_with_others(
        self, tmp_path: Path, s3: Bucket, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shards = make_shards(tmp_path, {}, source=put_tables(s3))
        analysis = learn(shards, tmp_path / "analyze", kind)
        expected = make(shards, tmp_path / "whole", kind, analysis)
        expired = Refusal(400, "ExpiredToken")
        with faulty_proxy(s3.endpoint, lambda number, path: expired if number >= 4 else None) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            with pytest.raises(UserError, match=r"the credentials have expired; renew them") as raised:
                make(shards, tmp_path / "task", kind, analysis, max_error_rate=1)
            assert SECRET_KEY not in str(raised.value)
            with pytest.raises(UserError, match=r"the credentials have expired; renew them"):
                learn(shards, tmp_path / "again", kind)
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        ran = make(shards, tmp_path / "task", kind, analysis, max_error_rate=1)
        assert ran.metrics["shards_kept"] >= 1
        assert contents(*ran.outputs.values()) == contents(*expected.outputs.values())

    def test_a_store_that_stays_down_rejects_nothing(
        self, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shards = make_shards(tmp_path, {}, source=put_tables(s3))
        analysis = learn(shards, tmp_path / "analyze", "tabular")
        with faulty_proxy(s3.endpoint, lambda number, path: Refusal(403, "AccessDenied")) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            with pytest.raises(UserError, match="access is denied"):
                make(shards, tmp_path / "task", "tabular", analysis, max_error_rate=1)


class TestLater:
    """What becomes of objects that are gone or others since they were listed."""

    @pytest.mark.parametrize("kind", ["tabular", "text"])
    def test_tables(self, tmp_path: Path, s3: Bucket, kind: str) -> None:
        shards = make_shards(tmp_path, {}, source=put_tables(s3))
        analysis = learn(shards, tmp_path / "analyze", kind)
        s3.client.delete_object(Bucket=s3.name, Key="p/2/3.jsonl")
        s3.put("p/1.csv", as_csv(table(0, 55)).replace(b"word 7 ", b"word x "))
        ran = make(shards, tmp_path / "task", kind, analysis, max_error_rate=0.5)
        assert rejects(ran) == {
            "1.csv#row=7": "changed",
            **{f"1.csv#row={n}": "missing" for n in range(55, 60)},
            **{f"3.jsonl#row={n}": "missing" for n in range(40)},
        }
        assert counted(ran) == (94, 46)
        with pytest.raises(DataError, match=r"were rejected \(.*missing.*\); max_error_rate=0.01 allows"):
            make(shards, tmp_path / "strict", kind, analysis)

    def test_texts_that_were_listed_unread(self, tmp_path: Path, s3: Bucket) -> None:
        shards = make_shards(tmp_path, {}, source=put_texts(s3), **WHOLE)
        s3.put("p/a/2.txt", b"please send money 9")
        s3.client.delete_object(Bucket=s3.name, Key="p/b/3.txt")
        ran = make_texts(shards, tmp_path, max_error_rate=0.5)
        assert rejects(ran) == {"2.txt": "changed", "3.txt": "missing"}
        assert counted(ran) == (18, 2)


class TestCorrupt:
    def test_a_tenth_of_the_rows(self, tmp_path: Path, s3: Bucket) -> None:
        rows = table(0, 200).with_columns(
            size=pl.when(pl.int_range(200) % 10 == 3).then(pl.lit("?!")).otherwise("size")
        )
        s3.put("p/1.csv", as_csv(rows))
        shards = make_shards(tmp_path, {}, source=s3.uri("p"))
        analysis = learn(shards, tmp_path / "analyze", "tabular")
        ran = make(shards, tmp_path / "task", "tabular", analysis, max_error_rate=0.1)
        assert rejects(ran) == {f"1.csv#row={n}": "bad_value" for n in range(3, 200, 10)}
        assert counted(ran) == (180, 20)
        with pytest.raises(DataError, match=r"max_error_rate=0.09 allows 18 of this worker's 200"):
            make(shards, tmp_path / "strict", "tabular", analysis, max_error_rate=0.09)

    def test_a_tenth_of_the_texts(self, tmp_path: Path, s3: Bucket) -> None:
        source = put_texts(s3, 60)
        broken = [b"", b"caf\xe9", b" \n", b"x" * 100_001, b"\xff\xfe\0\0", b"\x80"]
        for at, data in enumerate(broken):
            s3.put(f"p/a/{10 * at}.txt", data)
        shards = make_shards(tmp_path, {}, source=source, **WHOLE)
        ran = make_texts(shards, tmp_path, max_error_rate=0.1)
        assert rejects(ran) == {
            "10.txt": "not_utf8", "20.txt": "empty_text", "30.txt": "too_long", "40.txt": "not_utf8",
            "50.txt": "not_utf8",
        }  # fmt: skip
        assert counted(ran) == (54, 5), "the one without bytes was set aside as it was listed"


class TestFullDisk:
    """A limit of the kernel's on the size of files fails as a full disk does: in the middle of a table's copy."""

    PROGRAM = """
import resource, signal, sys
from pathlib import Path
from millrace.runtime.execute import execute
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
sys.exit(execute(Path(sys.argv[1])))
"""

    def test_is_no_fault_of_the_rows(self, tmp_path: Path, s3: Bucket) -> None:
        s3.put("p/1.csv", as_csv(table(0, 60)))
        s3.put("p/2.csv", as_csv(table(60, 60).with_columns(note=pl.lit("x" * 10_000))))
        data = {"kind": "text", "vocabulary": str(tmp_path / "vocab.txt")}
        (tmp_path / "vocab.txt").write_bytes(vocabulary())
        shards = make_shards(tmp_path, {}, source=s3.uri("p"))
        parameters = PreprocessParameters.model_validate({"data": data, "max_error_rate": 1})
        directory = tmp_path / "task"
        TaskRequest(
            name="preprocess",
            component=preprocess.spec.entry,
            parameters=parameters.model_dump(mode="json"),
            inputs={"shards": (GivenArtifact(path=shards),)},
        ).write(directory)
        command = [sys.executable, "-c", self.PROGRAM, str(directory)]
        failed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert failed.returncode == 1, failed.stdout + failed.stderr
        assert "File too large" in failed.stderr
        assert read_result(directory) is None
        assert not (directory / "scratch").exists()
        told = read_failure(directory)
        assert told is not None
        assert told.kind == "error"
        ran = run_component(preprocess, parameters, directory, shards=shards)
        assert counted(ran) == (120, 0)
