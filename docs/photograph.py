"""Takes the pictures of the sidecar's status page that the README shows, in a real browser.

    PYTHONPATH=tests python docs/photograph.py docs/status-light.png docs/status-dark.png

`make recording` does it. Three real sidecars elect one of them, and each hands over to the next.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path

from servers.browser import Browser, browsing

PATIENCE = 20.0  # seconds for what takes milliseconds on an idle host
WIDTH, HEIGHT = 800, 780


class Replica:
    """A sidecar that runs.

    Args:
        name: its id.
        folder: where the store is.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        words = ("elector", "nightly-report", "--holder", name, "--http", "127.0.0.1:0")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leases", *words], cwd=folder, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "LEASES_URL": "sqlite:locks.db"},
        )  # fmt: skip
        assert self.process.stderr is not None
        told = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", told)
        if found is None:
            sys.exit(f"photograph: {name} does not serve: {told}")
        self.at = found[0]

    @property
    def leads(self) -> bool:
        """Whether it says so."""
        return '"is_leader":true' in self.ask("/")

    def ask(self, path: str, method: str = "GET") -> str:
        """What it answers."""
        with urllib.request.urlopen(urllib.request.Request(self.at + path, method=method)) as answer:
            body: bytes = answer.read()
        return body.decode()

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate()


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something.

    Raises:
        SystemExit: it does not come.
    """
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            sys.exit(f"photograph: {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def fleet(folder: Path) -> Generator[Replica]:
    """Three replicas, of which each has led; the third of them, who leads."""
    with contextlib.ExitStack() as stack:
        replicas: list[Replica] = []
        for name in ("web-1", "web-2", "web-3"):
            one = Replica(name, folder)
            stack.callback(one.close)
            replicas.append(one)
            until(lambda: any(each.leads for each in replicas), "nobody is elected")
        for one, to in itertools.pairwise(replicas):
            time.sleep(2.0)  # so that a tenure can be seen to have lasted
            one.ask(f"/transfer?to={to.name}", "POST")
            until(partial(_leads, to), f"{to.name} does not lead")
        yield replicas[-1]


def _leads(replica: Replica) -> bool:
    return replica.leads


def take(browser: Browser, replica: Replica, file: Path, *, dark: bool) -> None:
    """One picture."""
    browser.show(f"{replica.at}/ui", width=WIDTH, height=HEIGHT, dark=dark)
    until(
        lambda: browser.text("live") == "Live" and "web-1" in browser.text("history"), "it shows no history"
    )
    time.sleep(1.5)
    browser.picture(file)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of the status page for the README.")
    parser.add_argument("light", type=Path, help="the PNG for who likes it light")
    parser.add_argument("dark", type=Path, help="the PNG for who likes it dark")
    args = parser.parse_args(words)
    with (
        tempfile.TemporaryDirectory(prefix="app-", ignore_cleanup_errors=True) as folder,
        fleet(Path(folder)) as leader,
        browsing(Path(folder) / "profile") as browser,
    ):
        take(browser, leader, args.light.absolute(), dark=False)
        take(browser, leader, args.dark.absolute(), dark=True)


if __name__ == "__main__":
    main()
