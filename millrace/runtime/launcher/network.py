"""How hosts reach each other: names, addresses, and the network card in between."""

from __future__ import annotations

import http.client
import os
import re
import socket

import psutil

from millrace.errors import ConfigError
from millrace.runtime.launcher.messages import Order, Report
from millrace.runtime.launcher.server import PORT, REPORTS

__all__ = ["PORT_VARIABLE", "ask", "card_of", "own_address", "place_of", "resolve"]

PORT_VARIABLE = "MILLRACE_PORT"
"""Environment variable: where the first host listens."""
_ASK_SECONDS = 4.0


def place_of(name: str) -> tuple[str, int]:
    """Host and port of the first host, whose name may come with `:port`.

    Raises:
        ConfigError: When the variable is no port.
    """
    host, _, port = name.partition(":")
    text = port or os.environ.get(PORT_VARIABLE, str(PORT))
    if not re.fullmatch(r"[1-9]\d{0,4}", text) or int(text) > 65_535:
        raise ConfigError(f"{PORT_VARIABLE}: {text!r} is no port, allowed: 1 to 65535")
    return host, int(text)


def resolve(name: str) -> str:
    """The IPv4 address of a host: Horovod's store knows no others.

    Raises:
        OSError: When the name is not known, or not yet.
    """
    return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])


def own_address(address: str, port: int) -> str:
    """The address of this host from which another one is reached.

    Raises:
        OSError: When there is no route to it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting sends nothing
        probe.connect((address, port))
        return str(probe.getsockname()[0])


def card_of(address: str) -> str:
    """The network card that has an address.

    Raises:
        ConfigError: When none has it.
    """
    cards = psutil.net_if_addrs()
    for name, addresses in cards.items():
        if any(item.address == address for item in addresses):
            return name
    raise ConfigError(f"no network card has the address {address}; there are {', '.join(sorted(cards))}")


def ask(address: str, port: int, report: Report) -> Order:
    """Tell the first host how this one is, and get its order.

    Raises:
        OSError: When it can't be reached, or is no such host.
    """
    connection = http.client.HTTPConnection(address, port, timeout=_ASK_SECONDS)
    try:
        connection.request("PUT", REPORTS, report.model_dump_json())
        response = connection.getresponse()
        content = response.read(2**20)
        if response.status != http.HTTPStatus.OK:
            raise ConnectionError(f"{address}:{port} answers {response.status}")
        return Order.model_validate_json(content)
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"{address}:{port} does not answer as a first host does: {error}") from error
    finally:
        connection.close()
