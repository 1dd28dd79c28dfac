"""A server that somebody runs for the tests, named by an address in the environment."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import pytest

from servers import get
from servers.table import variable


@dataclass(frozen=True)
class Given:
    """Its leases URL. A test that asks for more of a server is skipped."""

    server: str
    url: str
    version: str = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"{name}: only of a server that the tests start; {variable(self.server)} names another")

    def namespace(self, name: str) -> str:
        """Of Kubernetes: a URL of a namespace that is there from now on."""
        made: str = importlib.import_module(f"servers.{self.server}").namespace(self.url, name)
        return made

    def close(self) -> None:
        """Nothing: it is not ours to end."""


def given(server: str) -> Given | None:
    """The server that the environment names, if it names one."""
    url = get.address(server)
    return Given(server, url) if url is not None else None
