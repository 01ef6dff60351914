"""What training reads is decoded ahead of the step that takes it, in TensorFlow's deterministic mode too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.shard_data import write_shards

READ = """
import sys
from pathlib import Path
import tensorflow as tf
from millrace.training.collectives import Collectives
from millrace.training.data import inspect, training_batches
from millrace.training.options.images import Augmentation
from millrace.training.parameters import TrainParameters

tf.config.experimental.enable_op_determinism()
if sys.argv[1] == "stateful":
    numbers = tf.data.Dataset.range(9)
    next(iter(tf.data.Dataset.range(3).flat_map(lambda number: numbers.shuffle(9, seed=number)).prefetch(2)))
else:
    changes = Augmentation(rotation_degrees=9, brightness=(0.5, 1.5))
    for kind, cache, count in (("data", 0, 1), ("data", 0, 2), ("file", 0, 1), ("data", 512, 1)):
        parameters = TrainParameters(batch_size=8, sharding=kind, cache_mib=cache, augmentation=changes)
        ranks = Collectives(["one", "other"], 0, 5.0, {}) if count == 2 else None
        next(iter(training_batches(inspect(Path(sys.argv[2]), parameters), parameters, 3, ranks)))
"""


@pytest.mark.parametrize("reading", ["stateful", "ours"])
def test_nothing_is_taken_out_of_the_pipeline(tmp_path: Path, reading: str) -> None:
    """TensorFlow tells what it makes sequential; of the first of these it is known to."""
    told = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "make_deterministic=1"}
    command = [sys.executable, "-c", READ, reading, str(write_shards(tmp_path / "records", (20, 13)))]
    done = subprocess.run(command, env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("it introduces nondeterminism" in done.stderr) == (reading == "stateful"), done.stderr
