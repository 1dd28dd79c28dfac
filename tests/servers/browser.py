"""A real browser, driven by Selenium: `python -m servers.browser` gets it, where it can be had.

It is Chromium with its driver, the system's own. It runs without a window, knows nobody, keeps nothing, and
of itself it talks to no network.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys

from servers.build import Missing, installed

PACKAGES: Final = ("chromium", "chromium-driver", "fonts-dejavu-core")
ASKED: Final = "Network.requestWillBeSent"
_QUIET: Final = (
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


def programs() -> tuple[str, str]:
    """The browser and its driver.

    Raises:
        Missing: they are not here.
    """
    driver = installed("chromedriver", *PACKAGES)
    browser = installed("chromium", *PACKAGES)
    if browser is None or driver is None:
        raise Missing("no browser is here; install Chromium (Debian: chromium and chromium-driver)")
    return browser, driver


@contextlib.contextmanager
def browsing(folder: Path) -> Generator[Browser]:
    """A browser with a profile of its own in an empty folder.

    Raises:
        Missing: there is none.
    """
    program, driver = programs()
    options = ChromeOptions()
    options.binary_location = program
    for word in (*_QUIET, f"--user-data-dir={folder}", *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()


class Browser:
    """A page in a browser, as its reader has it before him.

    Attributes:
        chrome: the driver.
    """

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    def show(self, url: str, *, width: int = 1000, height: int = 800, dark: bool = False) -> None:
        """Open a page on a screen of this size, in CSS pixels; narrow ones are phones."""
        self.screen(width, height, dark=dark)
        self.chrome.get(url)

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        """Change the screen, and whether its owner likes it dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])
        self._tell("Emulation.setDeviceMetricsOverride", **size)

    def ask(self, script: str) -> Any:
        """What an expression of JavaScript is."""
        return self.chrome.execute_script(f"return {script}")

    def text(self, name: str) -> str:
        """What is to be seen of an element, by its id; empty where it is hidden."""
        found: str = self.ask(f"document.getElementById('{name}').checkVisibility() ? "
                              f"document.getElementById('{name}').innerText : ''")  # fmt: skip
        return found.strip()

    def click(self, selector: str) -> None:
        """Click on the one element that a CSS selector finds."""
        self.chrome.find_element("css selector", selector).click()

    def press(self, key: str) -> None:
        """Press a key, by its name in Selenium, or type a character."""
        ActionChains(self.chrome).send_keys(getattr(Keys, key.upper(), key)).perform()

    def accessibility(self) -> list[tuple[str, str]]:
        """Role and name of everything that a screen reader finds, from the top."""
        nodes: list[dict[str, Any]] = self._tell("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def complaints(self) -> list[str]:
        """What the browser has said on its console since the last time."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """The URLs that were asked for since the last time, by whatever ran in the browser."""
        told = (json.loads(entry["message"])["message"] for entry in self._log("performance"))
        return [event["params"]["request"]["url"] for event in told if event["method"] == ASKED]

    def picture(self, file: Path) -> None:
        """What is on the screen, as PNG."""
        self.chrome.save_screenshot(str(file))

    def _log(self, kind: str) -> list[dict[str, Any]]:
        log: Any = self.chrome.get_log  # It is without types.
        entries: list[dict[str, Any]] = log(kind)
        return entries

    def _tell(self, command: str, **words: Any) -> Any:
        return self.chrome.execute_cdp_cmd(command, words)


if __name__ == "__main__":
    try:
        print(f"servers: a browser: {programs()[0]}", flush=True)
    except Missing as error:
        print(f"servers: {error}", file=sys.stderr, flush=True)
        sys.exit(1 if os.environ.get("CI") == "true" else 0)
