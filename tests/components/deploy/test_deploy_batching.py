"""Requests that wait are answered together, each with its own answer."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from millrace.components.deploy.app import create_app
from millrace.components.deploy.batching import Batcher, ModelError, OverloadedError
from millrace.runtime.limits import Limits
from tests.components.deploy.conftest import CARD, Linear, linear_app, pictures, serving


async def until_ready(batcher: Batcher) -> None:
    batcher.start(lambda error: pytest.fail(str(error)))
    while not batcher.ready:
        await asyncio.sleep(0.001)


class TestBatcher:
    def test_waiting_requests_are_gathered_up_to_the_batch_size(self) -> None:
        model, observed = Linear(), list[int]()
        batcher = Batcher(lambda: model, Limits(max_batch_size=8, max_delay_ms=200), observed.append)

        async def ask() -> list[NDArray[np.float32]]:
            await until_ready(batcher)
            return await asyncio.gather(*(batcher.predict(pictures(1, seed)) for seed in range(16)))

        answers = asyncio.run(ask())
        batcher.stop(5)
        assert model.sizes == observed == [8, 8]
        for seed, answer in enumerate(answers):
            np.testing.assert_allclose(answer, Linear()(pictures(1, seed)), atol=1e-6)

    def test_a_large_request_is_divided(self) -> None:
        model = Linear()
        batcher = Batcher(lambda: model, Limits(max_batch_size=4, max_delay_ms=0), lambda size: None)

        async def ask() -> NDArray[np.float32]:
            await until_ready(batcher)
            return await batcher.predict(pictures(10))

        np.testing.assert_allclose(asyncio.run(ask()), Linear()(pictures(10)), atol=1e-6)
        batcher.stop(5)
        assert model.sizes == [4, 4, 2]

    def test_a_request_that_the_model_fails_on_does_not_spoil_others(self) -> None:
        def picky(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            if (images == 255).all(axis=(1, 2, 3)).any():
                raise ValueError("a white picture")
            return Linear()(images)

        batcher = Batcher(lambda: picky, Limits(max_delay_ms=100), lambda size: None)

        async def ask() -> list[NDArray[np.float32] | BaseException]:
            await until_ready(batcher)
            white = np.full((1, 4, 6, 1), 255, np.uint8)
            requests = [pictures(2, 1), white, pictures(3, 2)]
            return await asyncio.gather(*map(batcher.predict, requests), return_exceptions=True)

        first, failed, third = asyncio.run(ask())
        batcher.stop(5)
        assert isinstance(failed, ModelError)
        assert not isinstance(first, BaseException)
        assert not isinstance(third, BaseException)
        np.testing.assert_allclose(first, Linear()(pictures(2, 1)), atol=1e-6)
        np.testing.assert_allclose(third, Linear()(pictures(3, 2)), atol=1e-6)

    def test_more_than_may_wait_is_refused_and_what_waits_is_answered(self) -> None:
        batcher = Batcher(lambda: Linear(seconds=0.1), Limits(max_queue=4, max_instances=4), lambda size: None)

        async def ask() -> list[NDArray[np.float32] | BaseException]:
            await until_ready(batcher)
            requests = [pictures(3), pictures(2)]
            return await asyncio.gather(*map(batcher.predict, requests), return_exceptions=True)

        accepted, refused = asyncio.run(ask())
        batcher.stop(5)
        assert isinstance(accepted, np.ndarray)
        assert isinstance(refused, OverloadedError)
        assert batcher.waiting == 0

    def test_cancelled_requests_never_reach_the_model(self) -> None:
        model = Linear(seconds=0.2)
        batcher = Batcher(lambda: model, Limits(max_batch_size=1), lambda size: None)

        async def ask() -> None:
            await until_ready(batcher)
            tasks = [asyncio.ensure_future(batcher.predict(pictures(1, seed))) for seed in range(5)]
            await asyncio.sleep(0.05)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(ask())
        batcher.stop(5)
        assert model.sizes == [1]
        assert batcher.waiting == 0

    def test_a_model_that_answers_nan_is_an_error(self) -> None:
        batcher = Batcher(
            lambda: lambda images: np.full((len(images), 3), np.nan, np.float32), Limits(), lambda size: None
        )

        async def ask() -> None:
            await until_ready(batcher)
            await batcher.predict(pictures(1))

        with pytest.raises(ModelError):
            asyncio.run(ask())
        batcher.stop(5)


class TestOverHTTP:
    def test_each_of_200_concurrent_requests_gets_its_own_answer(self) -> None:
        model = Linear(seconds=0.005)
        with serving(linear_app(model, max_delay_ms=5)) as url, httpx.Client(base_url=url, timeout=60) as client:

            def ask(seed: int) -> bool:
                images = pictures(1 + seed % 5, seed)
                response = client.post("/invocations", json=images.tolist())
                given = [one["probabilities"] for one in response.json()["predictions"]]
                return np.allclose(given, Linear()(images), atol=1e-6)

            with ThreadPoolExecutor(50) as pool:
                assert all(pool.map(ask, range(200)))
        assert len(model.sizes) < 200, "nothing was answered together"
        assert max(model.sizes) <= 32

    def test_overload_is_answered_with_503_and_retry_after(self) -> None:
        app = linear_app(Linear(seconds=0.5), max_queue=2, max_instances=2, max_batch_size=1)
        with serving(app) as url, ThreadPoolExecutor(8) as pool:
            responses = list(
                pool.map(lambda seed: httpx.post(f"{url}/invocations", json=pictures(1, seed).tolist()), range(8))
            )
        statuses = [response.status_code for response in responses]
        assert set(statuses) == {200, 503}
        assert all(response.headers["retry-after"] for response in responses if response.status_code == 503)

    def test_health_is_answered_while_the_model_works(self) -> None:
        with serving(linear_app(Linear(seconds=1))) as url, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(httpx.post, f"{url}/invocations", json=pictures(1).tolist())
            time.sleep(0.1)
            started = time.monotonic()
            assert httpx.get(f"{url}/ping").status_code == 200
            assert time.monotonic() - started < 0.5
            assert asked.result().status_code == 200

    def test_not_ready_until_the_model_is_loaded(self) -> None:
        loaded = threading.Event()

        def load() -> Linear:
            loaded.wait(20)
            return Linear()

        seen = list[int]()

        def ask(url: str) -> None:
            seen.append(httpx.get(f"{url}/v2/health/ready").status_code)
            seen.append(httpx.get(f"{url}/v2/health/live").status_code)
            seen.append(httpx.post(f"{url}/invocations", json=pictures(1).tolist()).status_code)
            loaded.set()

        with serving(create_app(load, CARD), before_ready=ask) as url:
            assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        assert seen == [503, 200, 503]

    def test_a_client_that_goes_away_frees_its_place(self) -> None:
        model = Linear(seconds=0.5)
        with serving(linear_app(model, max_batch_size=1)) as url:

            def give_up(seed: int) -> None:
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(f"{url}/invocations", json=pictures(1, seed).tolist(), timeout=0.2)

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(give_up, range(4)))
            time.sleep(1)
            assert "millrace_waiting_images 0.0" in httpx.get(f"{url}/metrics").text
        assert len(model.sizes) < 4
