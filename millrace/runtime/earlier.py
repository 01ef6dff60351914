"""Artifacts of earlier runs: found on this machine, or copied here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError, DataError
from millrace.runtime.buckets import Patience, copy_from_bucket
from millrace.runtime.storage import list_objects, parse_source
from millrace.specs.earlier import RUN

__all__ = ["earlier_folder", "full_id", "output_of_run"]

_AT_A_TIME = 8


def earlier_folder(location: str, output: str, scratch: Path, *, names: Sequence[str] = ("*",)) -> Path:
    """The folder of an artifact of an earlier run, on this machine.

    Args:
        location: A path, file://, s3:// or gs://, or `run:ID/TASK` of an earlier local run.
        output: Name of the task's output, for `run:ID/TASK`.
        scratch: The task's folder for temporary files: what is in a bucket is copied there. It lies in the local
            runner's folder, where earlier runs are found.
        names: Of files in a bucket, those below the artifact that are copied: shell patterns against the whole name,
            where `*` also stands for `/`.

    Raises:
        ConfigError: When `location` is none of these.
        DataError: When there is no such run, task or folder.
        UserError: When it may not be read.
        TransientError: When a store stays unreachable.
    """
    if match := RUN.fullmatch(location):
        return output_of_run(match["id"], match["task"], output, scratch, title=location)
    scheme, place = parse_source(location)
    if scheme != "file":
        return _copied(location, scheme, place, scratch, names)
    folder = Path(place)
    if not folder.is_dir():
        raise DataError(f"{location}: there is no folder at {folder}")
    return folder


def full_id(runs: Path, name: str, task: str | None = None) -> str | None:
    """The id of a run: by itself, a beginning that no other run has, or `latest`; None when there is none.

    Args:
        runs: The folder of the runs.
        name: What was given.
        task: With `latest`: a task that the run must have ended well; without, it is just the newest run.

    Raises:
        ConfigError: When several runs begin so.
    """
    known = sorted(path.parent.name for path in runs.glob("*/run.json"))  # ids begin with the time
    if name in known:
        return name
    if name == "latest":
        return next((one for one in reversed(known) if task is None or _has_made(runs / one / "run.json", task)), None)
    found = [one for one in known if one.startswith(name)]
    if len(found) > 1:
        raise ConfigError(f"run {name!r}: {len(found)} runs begin so, the last ones are {', '.join(found[-3:])}")
    return found[0] if found else None


def _has_made(record: Path, task: str) -> bool:
    try:
        return bool(json.loads(record.read_bytes())["tasks"][task]["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def output_of_run(run: str, task: str, output: str, inside: Path, *, title: str) -> Path:
    """An output of a task of an earlier run of the local runner.

    Args:
        run: The run's id.
        task: The task's name.
        output: The output's name.
        inside: A folder inside the local runner's.
        title: What asks for it, for messages.

    Raises:
        DataError: When there is none.
    """
    records = [folder / "runs" / run / "run.json" for folder in inside.absolute().parents]
    try:
        told: Any = json.loads(next(record for record in records if record.is_file()).read_bytes())["tasks"]
        made = {name: one for name, one in told.items() if output in one.get("outputs", {}) and one.get("directory")}
    except StopIteration:
        known = {path.parent.name for record in records for path in record.parent.parent.glob("*/run.json")}
        recent = f"the last ones are {', '.join(sorted(known)[-3:])}" if known else "it has none"
        raise DataError(
            f"{title}: there is no run of that id in the runner's folder, {recent}; only the local runner knows "
            f"earlier runs, elsewhere name the {output}'s path or URI"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{title}: the record of that run can't be read: {error}") from error
    if task not in made:
        several = output if output.endswith("s") else f"{output}s"
        known_tasks = (
            f"it has {several} of: {', '.join(made)}" if made else "it made none before it ended: name another run"
        )
        raise DataError(f"{title}: that run has no {output} of a task {task!r}; {known_tasks}")
    return Path(made[task]["directory"], made[task]["outputs"][output]["path"])


def _copied(location: str, scheme: str, place: str, scratch: Path, names: Sequence[str]) -> Path:
    """Copy the files below a prefix, several at a time."""
    bucket, _, prefix = place.partition("/")
    head = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
    keys = [item.key for item in list_objects(location) if any(fnmatchcase(item.key, name) for name in names)]
    if not keys:
        raise DataError(f"{location}: there is nothing of that name, or it is empty")
    target = Path(tempfile.mkdtemp(prefix="earlier-", dir=scratch))

    def copy(key: str) -> None:
        file = target / key
        if target.resolve() not in file.resolve().parents:
            raise DataError(f"{location}: {key!r} lies outside of it")
        file.parent.mkdir(parents=True, exist_ok=True)
        copy_from_bucket(scheme, bucket, f"{head}{key}", file, Patience())

    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="copy") as pool:
        try:
            for _ in pool.map(copy, keys):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return target
