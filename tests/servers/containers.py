"""A server in a container, from its official image."""

from __future__ import annotations

from typing import Protocol

from servers import get


class Contained(Protocol):
    """A server that runs in containers."""

    url: str
    version: str

    def close(self) -> None: ...


def container(server: str) -> Contained | None:
    """The server in a container, if an engine answers and has or can pull the image.

    Raises:
        Missing: SERVERS=docker, and there is no engine, or no image to be had.
    """
    if get.insists_on_docker():
        raise get.Missing(f"SERVERS=docker, and no engine answers; start one, or unset SERVERS ({server})")
    return None
