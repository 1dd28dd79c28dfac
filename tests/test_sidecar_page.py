"""What the sidecar's page shows of a terminal is what one sees there."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route

from leases.sidecar import command
from leases_command import Shop, until
from sidecars import Sidecar

PAGE = Path(__file__).parent.parent / "leases" / "sidecar" / "sidecar.md"
OF_OTHERS = {"--use-cluster-credentials", "--timeout-graceful-shutdown", "--limit-max-requests"}
HELD_BACK = 2  # seconds for a command that would go on for ever
_NUMBERS = re.compile(r"\b[0-9a-f]{8}-\d+\b|-?\b\d+(\.\d+)?\b")


def examples() -> Iterator[tuple[str, str]]:
    """Every curl of the page, with what is shown below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        for line, shown in re.findall(r"^\$ (.*?)\n(.*?)(?=^\$ |\Z)", block, re.M | re.S):
            if line.startswith("curl"):
                yield line, shown


@pytest.mark.waits
def test_every_example_shows_what_one_sees(shop: Shop) -> None:
    """One after the other, as somebody would type them; numbers are others each time."""
    one = Sidecar(shop, "--id", "scheduler-0", "--ttl", "6", name="scheduler")
    here = one.url.removeprefix("http://")
    for line, shown in examples():
        if not line.endswith("z"):  # Probes come after it was given away.
            until(one.leads)
        typed = line.replace("localhost:4040", here).replace("token=5", f"token={one.state()['token']}")
        seen = subprocess.run(
            ["timeout", str(HELD_BACK), "sh", "-c", typed], capture_output=True, text=True, check=False
        )
        out = seen.stdout.replace(one.state()["backend"], "etcd://etcd-1,etcd-2/app")
        assert _NUMBERS.sub("0", out.strip()) == _NUMBERS.sub("0", shown.strip()), typed


def test_every_path_and_every_option_is_told() -> None:
    """And no others."""
    from leases.sidecar.http import Site as Answers

    routes = Answers.routes(_Nobody())  # type: ignore[arg-type]
    paths = {route.path for route in routes if isinstance(route, Route)} - {"/{path:path}"}
    assert "/leader" in paths
    text = PAGE.read_text()
    assert {path for path in paths if not re.search(rf"{path}\b", text)} == set()
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    shown = parser.format_help()
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        assert option in shown or option in OF_OTHERS, option


class _Nobody:
    """Handlers by any name."""

    def __getattr__(self, name: str) -> object:
        return name
