"""Whose a container, network or volume of the Docker engine is, so that what dead rehearsals left can be removed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["LABEL", "OWNER", "lives", "owner", "remove_labelled"]

LABEL = "millrace.rehearsal"
OWNER = "millrace.rehearsal.owner"


def remove_labelled(api: Any, chosen: Callable[[Mapping[str, str]], bool]) -> None:
    """Remove containers, networks and volumes of rehearsals, as their labels are chosen."""
    from docker.errors import APIError

    for container in api.containers(all=True, filters={"label": LABEL}):
        if chosen(container["Labels"]):
            with suppress(APIError, OSError):  # one that is late must not keep the others
                api.remove_container(container["Id"], force=True, v=True)
    for network in api.networks(filters={"label": LABEL}):
        if chosen(network["Labels"] or {}):
            with suppress(APIError, OSError):
                api.remove_network(network["Id"])
    for volume in api.volumes(filters={"label": LABEL})["Volumes"] or []:
        if chosen(volume["Labels"] or {}):
            with suppress(APIError, OSError):
                api.remove_volume(volume["Name"], force=True)


def owner() -> str:
    """This process, told from any other one that has had or will have its number."""
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def lives(told: str) -> bool:
    """Whether the process that a label names still runs; one of another machine may."""
    import psutil

    host, _, rest = told.partition(":")
    number, _, created = rest.partition(":")
    if host != socket.gethostname():
        return True
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" == created
    except (psutil.Error, ValueError):
        return False
