"""A headless Chromium for tests of pages, and the network requests that it makes."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

_SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # or it refuses to run as root, as in a container
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    # nothing gets out, even by mistake
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


@contextmanager
def chromium(width: int = 1280, height: int = 900, *, dark: bool = False) -> Iterator["WebDriver"]:
    """Runs Chromium for a test, which is skipped where Chromium, its driver or selenium is missing.

    Args:
        width: Of the page's viewport, in CSS pixels; exact, however narrow.
        height: Likewise.
        dark: Whether the page is told that its reader prefers dark colours.

    Yields:
        A selenium driver; `requested_urls` and `console_errors` tell what went on in it.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    binary = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    service = shutil.which("chromedriver")
    if binary is None or service is None:
        pytest.skip(
            "no Chromium with its driver here; on Debian: apt-get install chromium chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for switch in _SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def requested_urls(driver: "WebDriver") -> list[str]:
    """What the page asked for since the last call, itself and `data:` URLs included, in order."""
    urls = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            urls.append(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            urls.append(message["params"]["url"])
    return urls


def console_errors(driver: "WebDriver") -> list[str]:
    """The errors in the browser's console since the last call, such as uncaught exceptions."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
