"""Which machine type holds a task, and the table behind it."""

from __future__ import annotations

from pathlib import Path

import botocore.session
import pytest

from millrace.compilers.sagemaker.machines import Kind, choose, read_machines
from millrace.errors import ConfigError, UnsupportedError
from millrace.specs import Resources

_SHAPES: dict[str, str] = {
    "p": "ProcessingInstanceType",
    "t": "TrainingInstanceType",
    "b": "TransformInstanceType",
    "e": "ProductionVariantInstanceType",
}


@pytest.mark.parametrize(
    ("resources", "kind", "machine"),
    [
        (Resources(cpus=1, memory_gib=2), "processing", "ml.t3.medium"),
        (Resources(cpus=2, memory_gib=4), "processing", "ml.t3.large"),
        (Resources(cpus=2, memory_gib=4), "training", "ml.m5.large"),
        (Resources(cpus=2, memory_gib=3), "endpoint", "ml.c5.large"),
        (Resources(cpus=1, memory_gib=2), "transform", "ml.m5.large"),
        (Resources(cpus=4, memory_gib=8, gpus=1), "training", "ml.g4dn.xlarge"),
        (Resources(cpus=8, memory_gib=8, gpus=4), "training", "ml.g4dn.12xlarge"),
    ],
)
def test_the_cheapest_that_fits_is_taken(resources: Resources, kind: Kind, machine: str) -> None:
    assert choose(resources, kind) == machine


def test_a_task_without_gpus_gets_no_machine_with_gpus() -> None:
    table = read_machines().machines
    sizes = [Resources(cpus=cpus, memory_gib=memory) for cpus in (1, 8, 32, 64) for memory in (1, 64, 128)]
    assert {table[choose(size, "training")].gpus for size in sizes} == {0}


def test_nothing_is_large_enough() -> None:
    with pytest.raises(UnsupportedError, match=r"4096 GiB.*target\.tasks\.TASK\.instance"):
        choose(Resources(memory_gib=4096), "training")


def test_every_type_may_be_used_for_what_the_table_says() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    for name, machine in read_machines().machines.items():
        for use in machine.uses:
            assert name in model.shape_for(_SHAPES[use]).enum, (name, use)


def test_a_table_of_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "machines.yaml"
    own.write_text(
        "{region: eu-west-1, currency: EUR, read: 2026-01-01, source: a bill, storage: 0.2, spot: [0.2, 0.5]"
    )
    with pytest.raises(ConfigError, match="no YAML"):
        read_machines(own)
    read_machines.cache_clear()
    own.write_text(
        "{region: eu-west-1, currency: EUR, read: 2026-01-01, source: a bill, storage: 0.2, spot: [0.2, 0.5]}"
    )
    with pytest.raises(ConfigError, match="machines"):
        read_machines(own)
    own.write_text(
        "{region: eu-west-1, currency: EUR, read: 2026-01-01, source: a bill, storage: 0.2, spot: [0.2, 0.5],"
        " machines: {ml.m5.large: [2, 8, 0, 0.13, pt]}}"
    )
    assert read_machines(own).machines["ml.m5.large"].price == 0.13


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cost\.machines.*machines\.yaml"):
        read_machines(tmp_path / "machines.yaml")
