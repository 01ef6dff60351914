"""Fixtures for tests of training."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.components.train_data import write_picture_records
from tests.conftest import needed


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks have run all cases of `horovod_training` and `horovod_scripts`."""
    if find_spec("horovod") is None:
        needed("needs Horovod: make horovod")
    from tests.training.horovod_ranks import run_ranks

    folder = tmp_path_factory.mktemp("ranks")
    write_picture_records(folder / "records", validation=(5, 6, 6), test=(5, 5, 5))
    run_ranks("tests.training.horovod_training", folder)
    return folder
