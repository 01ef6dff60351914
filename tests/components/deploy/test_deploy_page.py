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
from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
from selenium.webdriver.support.ui import WebDriverWait

from millrace.components.deploy.app import create_app
from millrace.runtime.schemas import ModelCard
from millrace.runtime.texts import encoder
from tests.components import tabular_data
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


def by_bill(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """A model of birds: the class by the length of the bill alone, the last one where it is missing."""
    long, missing = rows[:, 0] > 0, rows[:, 1] > 0
    return np.stack([~long & ~missing, long & ~missing, missing], axis=1).astype(np.float32)


@pytest.mark.browser
def test_a_row_is_labelled_and_a_wrong_value_is_explained(browser: webdriver.Chrome) -> None:
    card = ModelCard(format="litert", name="bill", records=tabular_data.SCHEMA, parameters=1, bytes=4)
    wait = WebDriverWait(browser, 20)
    browser.execute("getLog", {"type": "browser"})  # of the page before
    with serving(create_app(lambda: by_bill, card, name="birds")) as url:
        browser.get(url)
        bill, status = browser.find_element(By.NAME, "bill"), browser.find_element(By.ID, "status")
        button = browser.find_element(By.TAG_NAME, "button")
        browser.find_element(By.NAME, "island").send_keys('Dream, "the" island')
        for text, told in (("", "gentoo"), ("49.5", "chinstrap"), ("38", "adelie")):
            bill.clear()
            bill.send_keys(text)
            button.click()
            wait.until(text_to_be_present_in_element((By.ID, "status"), f"{told} ("))
        assert browser.execute("getLog", {"type": "browser"})["value"] == []
        bill.send_keys("long")
        button.click()
        wait.until(lambda _: "column 'bill': '38long' is no number" in status.text)
        assert status.get_attribute("class") == "error"
