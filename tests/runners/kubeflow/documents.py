"""Small pipelines in kfp's own DSL, compiled; none of them knows Millrace."""

# kfp's DSL takes annotations as declarations; what functions get and give are channels, which no type tells.
# mypy: ignore-errors
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportCallIssue=false
# pyright: reportInvalidTypeForm=false, reportInvalidTypeArguments=false, reportGeneralTypeIssues=false
# ruff: noqa: B006, UP014 - what kfp's DSL reads: defaults that are lists, and named tuples made by a call

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Dataset, Input, Metrics, Model, Output

IMAGE = "python:3.11-slim-bookworm"
PYTHON = "millrace-test/kfp:2.17.0"
"""Holds kfp, for components that are Python functions."""
_REPORT = """
import json, sys
given = json.loads(sys.argv[1])
outputs = given["outputs"]
told = {"artifacts": {}, "parameterValues": json.loads(sys.argv[2])}
for name, metadata in json.loads(sys.argv[3]).items():
    artifact = outputs["artifacts"][name]["artifacts"][0]
    told["artifacts"][name] = {"artifacts": [{"name": name, "uri": artifact["uri"], "metadata": metadata}]}
with open(outputs["outputFile"], "w") as file:
    json.dump(told, file)
"""


@dsl.container_component
def say(text: str, out: dsl.OutputPath(str)):
    return dsl.ContainerSpec(IMAGE, ["sh", "-c"], ['mkdir -p "$(dirname "$1")" && printf %s "$0" > "$1"', text, out])


@dsl.container_component
def add(a: int, b: int, total: dsl.OutputPath(int)):
    return dsl.ContainerSpec(
        IMAGE, ["sh", "-c"], ['mkdir -p "$(dirname "$2")" && printf %s "$(($0 + $1))" > "$2"', a, b, total]
    )


@dsl.container_component
def make_dataset(rows: int, data: Output[Dataset], metrics: Output[Metrics]):
    return dsl.ContainerSpec(
        IMAGE,
        ["sh", "-c"],
        [
            'mkdir -p "$1" && seq "$0" > "$1/rows.txt" && printf empty > "$1/.hidden" && shift 1 && '
            'python -c "$1" "$2" "{}" "{\\"data\\": {\\"rows\\": $0, \\"kind\\": \\"toy\\"}, '
            '\\"metrics\\": {\\"accuracy\\": 0.5, \\"rows\\": $0}}"',
            rows,
            data.path,
            _REPORT,
            dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER,
        ],
    )


@dsl.container_component
def count(data: Input[Dataset], model: Output[Model], lines: dsl.OutputPath(int)):
    return dsl.ContainerSpec(
        IMAGE,
        ["sh", "-c"],
        [
            'mkdir -p "$(dirname "$1")" "$(dirname "$2")" && cp "$0/rows.txt" "$1" && '
            'python -c "$3" "$4" "{}" "{\\"model\\": {\\"format\\": \\"text\\"}}" && '
            'printf %s "$(wc -l < "$0/rows.txt")" > "$2"',
            data.path,
            model.path,
            lines,
            _REPORT,
            dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER,
        ],
    )


@dsl.container_component
def first_line(file: Input[Model], line: dsl.OutputPath(str)):
    return dsl.ContainerSpec(
        IMAGE, ["sh", "-c"], ['mkdir -p "$(dirname "$1")" && head -n 1 "$0" | tr -d "\\n" > "$1"', file.path, line]
    )


@dsl.container_component
def fail(text: str):
    return dsl.ContainerSpec(IMAGE, ["sh", "-c"], ['echo "about to fail: $0"; exit 3', text])


@dsl.container_component
def kinds(whole: int, real: float, flag: bool, items: list, mapping: dict, told: dsl.OutputPath(str)):
    return dsl.ContainerSpec(
        IMAGE,
        ["sh", "-c"],
        [
            'mkdir -p "$(dirname "$5")" && printf "%s|%s|%s|%s|%s" "$0" "$1" "$2" "$3" "$4" | tr -d " " > "$5"',
            whole,
            real,
            flag,
            items,
            mapping,
            told,
        ],
    )


@dsl.container_component
def flaky(attempt: dsl.OutputPath(str)):
    return dsl.ContainerSpec(
        IMAGE,
        ["sh", "-c"],
        ['[ "$KFP_RETRY_INDEX" = 2 ] && mkdir -p "$(dirname "$0")" && printf %s "$KFP_RETRY_INDEX" > "$0"', attempt],
    )


@dsl.container_component
def write_file(text: str):
    return dsl.ContainerSpec(IMAGE, ["sh", "-c"], ['printf %s "$0" > /data/file', text])


@dsl.container_component
def read_file(size: dsl.OutputPath(int)):
    return dsl.ContainerSpec(
        IMAGE, ["sh", "-c"], ['mkdir -p "$(dirname "$0")" && printf %s "$(wc -c < /elsewhere/file)" > "$0"', size]
    )


@dsl.container_component
def spend(memory: str):
    return dsl.ContainerSpec(IMAGE, ["python", "-c"], ["import sys; bytearray(int(sys.argv[1]) << 20)", memory])


@dsl.container_component
def sleep(seconds: int):
    return dsl.ContainerSpec(IMAGE, ["sleep"], [seconds])


@dsl.container_component
def show_status(status: dsl.PipelineTaskFinalStatus, state: dsl.OutputPath(str)):
    return dsl.ContainerSpec(
        IMAGE, ["sh", "-c"], ['mkdir -p "$(dirname "$1")" && printf %s "$0" > "$1"', status, state]
    )


@dsl.container_component
def silent(missing: dsl.OutputPath(str)):
    return dsl.ContainerSpec(IMAGE, ["sh", "-c"], ['echo "nothing at $0"', missing])


@dsl.container_component
def variables(told: dsl.OutputPath(str)):
    return dsl.ContainerSpec(
        IMAGE,
        ["sh", "-c"],
        ['mkdir -p "$(dirname "$0")" && printf "%s" "$PLAIN $HIDDEN $(cat /etc/shown/key) $(id -u)" > "$0"', told],
    )


@dsl.container_component
def join(texts: list, joined: dsl.OutputPath(str)):
    return dsl.ContainerSpec(
        IMAGE,
        ["python", "-c"],
        [
            "import json, os, sys; os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True); "
            "open(sys.argv[2], 'w').write('+'.join(f'{item:g}' for item in json.loads(sys.argv[1])))",
            texts,
            joined,
        ],
    )


@dsl.container_component
def split(text: str, items: dsl.OutputPath(list[int])):
    return dsl.ContainerSpec(
        IMAGE, ["sh", "-c"], ['mkdir -p "$(dirname "$1")" && printf "[%s]" "$0" > "$1"', text, items]
    )


@dsl.container_component
def merge(parts: Input[list[Dataset]], total: dsl.OutputPath(int)):
    return dsl.ContainerSpec(
        IMAGE,
        ["python", "-c"],
        [
            "import json, os, sys\n"
            "given = json.loads(sys.argv[1])\n"
            "uris = [item['uri'] for item in given['inputs']['artifacts']['parts']['artifacts']]\n"
            "paths = [uri.replace('s3://', '/s3/') + '/rows.txt' for uri in uris]\n"
            "os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True)\n"
            "open(sys.argv[2], 'w').write(str(sum(len(open(path).readlines()) for path in paths)))\n",
            dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER,
            total,
        ],
    )


@dsl.pipeline(name="chain")
def chain(rows: int = 3) -> NamedTuple("Outputs", lines=int, line=str):
    made = make_dataset(rows=rows)
    counted = count(data=made.outputs["data"])
    line = first_line(file=counted.outputs["model"])
    outputs = NamedTuple("Outputs", lines=int, line=str)
    return outputs(lines=counted.outputs["lines"], line=line.outputs["line"])


@dsl.pipeline(name="chain-and-more")
def chain_and_more(rows: int = 3) -> str:
    made = make_dataset(rows=rows)
    counted = count(data=made.outputs["data"])
    line = first_line(file=counted.outputs["model"]).set_caching_options(False)
    return say(text=line.outputs["line"]).outputs["out"]


@dsl.pipeline(name="types")
def types(
    whole: int = 7, real: float = 0.00001, flag: bool = True, items: list = [1.5, "x"], mapping: dict = {"a": ["b"]}
) -> str:
    return kinds(whole=whole, real=real, flag=flag, items=items, mapping=mapping).outputs["told"]


@dsl.pipeline(name="loop")
def loop() -> str:
    with dsl.ParallelFor([1, 2, 3], parallelism=2) as item:
        one = add(a=item, b=10)
    return join(texts=dsl.Collected(one.outputs["total"])).outputs["joined"]


@dsl.pipeline(name="inner")
def inner(a: int, b: int = 5) -> int:
    first = add(a=a, b=b)
    return add(a=first.outputs["total"], b=1).outputs["total"]


@dsl.pipeline(name="nested")
def nested(a: int = 1) -> int:
    one = inner(a=a)
    return inner(a=one.output, b=100).output


@dsl.pipeline(name="chooses")
def chooses(number: int) -> Dataset:
    with dsl.If(number >= 3):
        large = make_dataset(rows=number)
    with dsl.Else():
        small = make_dataset(rows=1)
    return dsl.OneOf(large.outputs["data"], small.outputs["data"])


@dsl.pipeline(name="mixed")
def mixed(limit: int = 3) -> str:
    """Conditions and graphs in loops over a task's output, a graph in a condition in a loop, artifacts of branches."""
    numbers = split(text="1,2,4")
    with dsl.ParallelFor(numbers.outputs["items"]) as number:
        total = add(a=number, b=0)
        with dsl.If(total.outputs["total"] >= limit):
            inner(a=number)
        chosen = chooses(number=number)
        count(data=chosen.output)
    return join(texts=dsl.Collected(total.outputs["total"])).outputs["joined"]


@dsl.pipeline(name="loop-then-exit")
def loop_then_exit():
    last = say(text="cleaned")
    with dsl.ExitHandler(last), dsl.ParallelFor([1, 2]) as number, dsl.If(number == 2):
        fail(text="on purpose")


@dsl.pipeline(name="table")
def table() -> str:
    with dsl.ParallelFor([1, 2]) as row, dsl.ParallelFor([10, 20]) as column:
        cell = add(a=row, b=column)
    return join(texts=dsl.Collected(cell.outputs["total"])).outputs["joined"]


@dsl.pipeline(name="branches")
def branches(which: str = "b") -> str:
    chosen = say(text=which)
    with dsl.If(chosen.outputs["out"] == "a"):
        one = say(text="first")
    with dsl.Elif(chosen.outputs["out"] == "b"):
        two = say(text="second")
    with dsl.Else():
        three = say(text="third")
    return say(text=dsl.OneOf(one.outputs["out"], two.outputs["out"], three.outputs["out"])).outputs["out"]


@dsl.pipeline(name="exit")
def exit_handler(works: bool = False):
    last = say(text="cleaned")
    with dsl.ExitHandler(last):
        begun = say(text="begun")
        with dsl.If(works == False):  # noqa: E712 - an expression of kfp
            fail(text="on purpose").after(begun)


@dsl.pipeline(name="retry")
def retry() -> str:
    return flaky().set_retry(num_retries=3, backoff_duration="0s").outputs["attempt"]


@dsl.pipeline(name="optional")
def optional(text: str = "given") -> str:
    return say(text=text).outputs["out"]


@dsl.component(base_image=PYTHON)
def square(number: float) -> float:
    return number * number


@dsl.component(base_image=PYTHON)
def store(numbers: list, data: dsl.Output[Dataset], metrics: dsl.Output[Metrics], page: dsl.Output[dsl.HTML]):
    from pathlib import Path

    Path(data.path).write_text(" ".join(f"{number:g}" for number in numbers))
    data.metadata["numbers"] = len(numbers)
    metrics.log_metric("total", sum(numbers))
    Path(page.path).write_text("<p>numbers</p>")


@dsl.component(base_image=PYTHON)
def describe(data: dsl.Input[Dataset], note: str = "no note") -> str:
    from pathlib import Path

    return f"{Path(data.path).read_text()} ({data.metadata['numbers']:g}; {note})"


@dsl.pipeline(name="python")
def python(numbers: list[float] = [1.5, 2.0]) -> str:
    with dsl.ParallelFor(numbers) as number:
        one = square(number=number)
    stored = store(numbers=dsl.Collected(one.output))
    return describe(data=stored.outputs["data"]).output


@dsl.pipeline(name="fan-in")
def fan_in() -> int:
    with dsl.ParallelFor([2, 3]) as rows:
        made = make_dataset(rows=rows)
    return merge(parts=dsl.Collected(made.outputs["data"])).outputs["total"]


@dsl.pipeline(name="dynamic")
def dynamic(items: list[dict[str, int]] = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]) -> str:
    with dsl.ParallelFor(items) as item:
        one = add(a=item.a, b=item.b)
    return join(texts=dsl.Collected(one.outputs["total"])).outputs["joined"]


@dsl.pipeline(name="hungry")
def hungry():
    spend(memory="300").set_memory_limit("128Mi")


@dsl.pipeline(name="late")
def late():
    kubernetes.set_timeout(sleep(seconds=60), seconds=1)


@dsl.pipeline(name="lasting")
def lasting(seconds: int = 300):
    with dsl.ParallelFor([1, 2]) as item:
        sleep(seconds=seconds)
        say(text="a turn").after(add(a=item, b=1))


@dsl.pipeline(name="status")
def status():
    last = show_status()
    with dsl.ExitHandler(last):
        fail(text="on purpose")


@dsl.pipeline(name="forgetful")
def forgetful() -> str:
    return say(text=silent().outputs["missing"]).outputs["out"]


@dsl.pipeline(name="secretive")
def secretive() -> str:
    task = variables()
    task.set_env_variable("PLAIN", "plain")
    kubernetes.use_secret_as_env(task, secret_name="store", secret_key_to_env={"password": "HIDDEN"})
    kubernetes.use_config_map_as_volume(task, config_map_name="shown", mount_path="/etc/shown")
    kubernetes.set_security_context(task, run_as_user=1234)
    return task.outputs["told"]


@dsl.pipeline(name="of-a-list")
def of_a_list(parts: Input[list[Dataset]]) -> int:
    return merge(parts=parts).outputs["total"]


@dsl.pipeline(name="list-in-graph")
def list_in_graph():
    with dsl.ParallelFor([2, 3]) as rows:
        made = make_dataset(rows=rows)
    of_a_list(parts=dsl.Collected(made.outputs["data"]))


@dsl.pipeline(name="skipped-turn")
def skipped_turn():
    with dsl.ParallelFor([1, 2]) as item, dsl.If(item == 2):
        one = add(a=item, b=10)
    join(texts=dsl.Collected(one.outputs["total"]))


@dsl.pipeline(name="claims")
def claims() -> int:
    claim = kubernetes.CreatePVC(
        pvc_name_suffix="-data", access_modes=["ReadWriteOnce"], size="1Gi", storage_class_name="standard"
    )
    written = write_file(text="kept")
    kubernetes.mount_pvc(written, pvc_name=claim.outputs["name"], mount_path="/data")
    read = read_file().after(written)
    kubernetes.mount_pvc(read, pvc_name=claim.outputs["name"], mount_path="/elsewhere")
    kubernetes.DeletePVC(pvc_name=claim.outputs["name"]).after(read)
    return read.outputs["size"]


def importing(uri: str) -> Callable[..., Any]:
    """A pipeline that reads a file which is in a store already."""

    @dsl.pipeline(name="importing")
    def pipeline() -> str:
        found = dsl.importer(artifact_uri=uri, artifact_class=Model, metadata={"origin": "store"})
        return first_line(file=found.output).outputs["line"]

    return pipeline


def compiled(pipeline: Any, folder: Path) -> Path:
    """The pipeline's document in a folder."""
    path = folder / f"{pipeline.name if hasattr(pipeline, 'name') else pipeline.__name__}.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return path
