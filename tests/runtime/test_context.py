from __future__ import annotations

import time
from pathlib import Path

from millrace.runtime.context import Context, Progress


def test_another_unit_begins_another_work(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    context = Context(scratch=tmp_path, checkpoints=tmp_path, progress_file=file)
    context.progress(1, None, "objects listed")
    time.sleep(0.2)
    context.progress(2, 2, "objects listed")
    listed = Progress.model_validate_json(file.read_bytes())
    context.progress(2, 2, "objects written")
    written = Progress.model_validate_json(file.read_bytes())
    assert listed.seconds >= 0.2
    assert written.seconds < listed.seconds
    assert written.unit == "objects written"
