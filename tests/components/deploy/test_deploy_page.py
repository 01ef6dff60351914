"""The page to try a model with, in a real browser."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from millrace.components.deploy.app import create_app
from millrace.runtime.schemas import ModelCard
from millrace.runtime.texts import encoder
from tests.components.deploy.conftest import CLASSES, Linear, pictures, serving
from tests.components.text_data import TELLING, WORDS, text_schema


@pytest.mark.browser
def test_a_chosen_picture_is_labelled_and_a_broken_one_is_explained(
    endpoint: httpx.Client, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    images = pictures(1)
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    wait = WebDriverWait(browser, 20)
    browser.get(str(endpoint.base_url))
    own = Linear()(images)[0]
    file, status = browser.find_element(By.ID, "file"), browser.find_element(By.ID, "status")

    file.send_keys(str(tmp_path / "good.png"))
    wait.until(lambda _: status.text.startswith(CLASSES[own.argmax()]))
    rows = browser.find_elements(By.CSS_SELECTOR, "#answer tr")
    assert len(rows) == len(CLASSES)
    assert rows[0].text.endswith(f"{100 * own.max():.1f} %")
    # Nothing that the page's own security policy refuses.
    assert browser.execute("getLog", {"type": "browser"})["value"] == []

    file.send_keys(str(tmp_path / "broken.png"))
    wait.until(lambda _: "can't be read" in status.text)
    assert status.get_attribute("class") == "error"


def telling(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """A model of texts: the class whose own words are the most."""
    own = [[WORDS.index(word) for word in words] for words in TELLING]
    powers = np.exp(np.stack([np.isin(tokens, ids).sum(axis=1) for ids in own], axis=1).astype(np.float32))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


@pytest.mark.browser
def test_a_text_is_labelled(browser: webdriver.Chrome) -> None:
    schema = text_schema()
    card = ModelCard(format="litert", name="telling", records=schema, parameters=12, bytes=48)
    encode = encoder(WORDS, lower_case=True, max_seq_length=schema.max_seq_length, truncation="end")
    wait = WebDriverWait(browser, 20)
    browser.execute("getLog", {"type": "browser"})  # of the page before
    with serving(create_app(lambda: telling, card, name="texts", encode=encode)) as url:
        browser.get(url)
        browser.find_element(By.ID, "text").send_keys("Why is it RAIN, wind & snow <today>?")
        browser.find_element(By.TAG_NAME, "button").click()
        status = browser.find_element(By.ID, "status")
        wait.until(lambda _: status.text.startswith("weather"))
        rows = browser.find_elements(By.CSS_SELECTOR, "#answer tr")
        assert rows[0].text.split()[0] == "weather"
        assert rows[0].text.endswith(f"{100 * np.exp(3) / (np.exp(3) + 2):.1f} %")
        assert browser.execute("getLog", {"type": "browser"})["value"] == []
