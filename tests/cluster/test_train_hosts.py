"""The train component on several hosts: refused as long as nothing exchanges gradients."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.components.train.main import main
from millrace.components.train.spec import TrainInputs, TrainOutputs, TrainParameters
from millrace.errors import UnsupportedError
from millrace.runtime.context import Context, Hosts


def test_hosts_that_would_each_train_a_model_of_their_own_are_refused(tmp_path: Path) -> None:
    context = Context(scratch=tmp_path, checkpoints=tmp_path, hosts=Hosts(names=("a", "b"), index=1))
    with pytest.raises(UnsupportedError, match=r"2 hosts with 1 processes each are there"):
        main(TrainParameters(), TrainInputs.model_construct(), TrainOutputs.model_construct(), context)
