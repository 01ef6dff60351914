"""The page to try a model with, in a real browser."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.components.deploy.conftest import CLASSES, Linear, pictures


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
