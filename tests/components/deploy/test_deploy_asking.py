"""How an endpoint is measured."""

from __future__ import annotations

import httpx

from millrace.components.deploy.asking import Address, requests_per_second
from millrace.components.deploy.limits import Limits
from tests.components.deploy.conftest import pictures


def test_a_machine_too_busy_for_the_time_given_still_answers(endpoint: httpx.Client) -> None:
    assert requests_per_second(Address(str(endpoint.base_url), "digits"), pictures(3), Limits(), seconds=0) > 0
