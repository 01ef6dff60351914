"""Names and small files that the service gives to every host of a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from millrace.runners.sagemaker.place import Place

__all__ = ["Group", "as_json", "base_environment", "host_names", "machines", "now", "resource_config"]


@dataclass(frozen=True)
class Group:
    """Hosts of one machine type."""

    name: str
    machine: str
    count: int


def host_names(groups: Sequence[Group]) -> dict[str, Group]:
    """The group of each host: algo-1, algo-2 and so on, through all groups."""
    members = [group for group in groups for _ in range(group.count)]
    return {f"algo-{number}": group for number, group in enumerate(members, start=1)}


def resource_config(host: str, hosts: Mapping[str, Group]) -> bytes:
    """What tells a host who it is and who the others are."""
    groups = list(dict.fromkeys(hosts.values()))
    return as_json(
        {
            "current_host": host,
            "current_instance_type": hosts[host].machine,
            "current_group_name": hosts[host].name,
            "hosts": sorted(hosts),
            "instance_groups": [
                {
                    "instance_group_name": group.name,
                    "instance_type": group.machine,
                    "hosts": sorted(name for name, of in hosts.items() if of == group),
                }
                for group in groups
            ],
            "network_interface_name": "eth0",
        }
    )


def base_environment(place: Place, *, isolated: bool) -> dict[str, str]:
    """Variables of every container; an isolated one has no way to the store, and no credentials."""
    if isolated:
        return {"AWS_REGION": place.region, "AWS_DEFAULT_REGION": place.region}
    return dict(place.environment)


def machines(groups: Sequence[Group]) -> str:
    """What was asked for, and that it is not imitated."""
    asked = ", ".join(f"{group.count} x {group.machine}" for group in groups)
    return f"asked for {asked}: here each host has what this machine has"


def as_json(document: Any) -> bytes:
    """A document as the service writes it."""
    return json.dumps(document).encode()


def now() -> str:
    """The time as the service's answers tell it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
