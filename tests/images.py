"""The image of examples/container, and containers of it, for tests: built once, by the engine that there is.

`engine`, `built` and `image` are fixtures, for who imports them.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import docker
import docker.errors
import pytest

import image_base
from servers import containers
from servers.build import Missing
from servers.engine import WITHOUT_NETWORK, an_engine

# Of the whole image, where somebody asked for containers; else what takes half a minute less.
IN_CONTAINERS: Final = os.environ.get("SERVERS") == "docker"
EXTRAS: Final = (
    ("consul", "etcd", "kubernetes", "sidecar", "zookeeper") if IN_CONTAINERS else ("etcd", "sidecar")
)
PATIENCE: Final = 60.0
DOCKERFILE: Final = "examples/container/Dockerfile"


class Image:
    """The image, and how it is meant to be run: as nobody, nothing to write to but /tmp, no capabilities."""

    def __init__(self, client: Any, tag: str) -> None:
        self.client, self.tag = client, tag
        self._started: list[Any] = []

    def start(self, *words: str, **options: Any) -> Any:
        """Start a container."""
        settings: dict[str, Any] = {
            "network_mode": "host",
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 # its own
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "detach": True,
        }
        self._started.append(self.client.containers.run(self.tag, list(words), **(settings | options)))
        return self._started[-1]

    def run(self, *words: str, **options: Any) -> tuple[int, str]:
        """Run a container to its end: exit code, and what it wrote."""
        started = self.start(*words, **options)
        code = int(started.wait(timeout=PATIENCE)["StatusCode"])
        return code, started.logs().decode()

    def python(self, program: str) -> str:
        """What a program prints inside."""
        code, text = self.run("-c", program, entrypoint="/opt/leases/bin/python3")
        assert code == 0, text
        return text.strip()

    def also(self, other: Image) -> None:
        """Close another one with this."""
        other._started = self._started

    def close(self) -> None:
        for started in self._started:
            with contextlib.suppress(docker.errors.APIError):
                started.remove(force=True)
        self._started.clear()


@dataclass(frozen=True)
class Engine:
    """A client of an engine: of the one that answers here, or of one of our own while the tests run."""

    client: Any
    own: bool


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        try:
            # Where somebody asked for containers, and in CI, it is worth an installation.
            install = os.environ.get("CI") == "true" or IN_CONTAINERS
            own = containers.engine() is None
            host = stack.enter_context(an_engine(WITHOUT_NETWORK, install=install))
        except Missing as missing:
            if IN_CONTAINERS:
                pytest.fail(str(missing), pytrace=False)
            pytest.skip(str(missing))
        client = docker.DockerClient(base_url=host, timeout=120)
        yield Engine(stack.enter_context(contextlib.closing(client)), own)


@pytest.fixture(scope="module")
def built(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image's name, of which the base is made from this machine's Python."""
    folder, tag = tmp_path_factory.mktemp("context"), f"leases-test:{secrets.token_hex(4)}"
    arguments = {"BASE": f"{tag}-base", "BUILDER": f"{tag}-builder", "EXTRAS": ",".join(EXTRAS)}
    made = list[str]()
    try:
        engine.client.api.import_image_from_data(
            image_base.runtime(),
            repository=tag.partition(":")[0],
            tag=arguments["BASE"].partition(":")[2],
            changes=[f"ENV PATH={image_base.PATH}"],
        )
        made.append(arguments["BASE"])
        _can_run(engine, arguments["BASE"])
        more = io.BytesIO(image_base.builder(arguments["BASE"]))
        made += _build(engine.client, arguments["BUILDER"], fileobj=more, custom_context=True)
        image_base.context(folder, EXTRAS)
        wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "wheels"}
        made += _build(
            engine.client, tag, path=str(folder), dockerfile=DOCKERFILE, buildargs=arguments | wheels
        )
        yield tag
    finally:
        if not engine.own:  # Our own takes them along.
            for name in reversed(made):
                with contextlib.suppress(docker.errors.APIError):
                    engine.client.images.remove(name, force=True)


def _can_run(engine: Engine, base: str) -> None:
    """Our own engine starts in places that let it have no containers, as within a container: then skip."""
    try:
        engine.client.containers.run(base, ["python3", "-c", ""], network_mode="none", remove=True)
    except docker.errors.DockerException as error:
        if engine.own and not IN_CONTAINERS:
            pytest.skip(f"a Docker engine can be started here, but no container: {error}")
        raise


def _build(client: Any, tag: str, **options: Any) -> list[str]:
    """Build, without a network; all that was made on the way."""
    try:
        _, log = client.images.build(tag=tag, network_mode="none", rm=True, forcerm=True, **options)
    except docker.errors.BuildError as error:
        pytest.fail("".join(str(line.get("stream", line)) for line in error.build_log), pytrace=False)
    told = "".join(str(line.get("stream", "")) for line in log)
    return [*re.findall(r"---> ([0-9a-f]{12})$", told, re.MULTILINE), tag]


@pytest.fixture
def image(engine: Engine, built: str) -> Iterator[Image]:
    image = Image(engine.client, built)
    yield image
    image.close()


def health(started: Any) -> str:
    """What the engine thinks of a container."""
    started.reload()
    assert started.status == "running", started.logs().decode()
    return str(started.attrs["State"]["Health"]["Status"])


def until(true: Callable[[], object], within: Any) -> None:
    """Wait until a function says something true of a container that runs."""
    end = time.monotonic() + PATIENCE
    while not true():
        within.reload()
        told = within.logs().decode()
        assert within.status == "running" and time.monotonic() < end, f"it did not come true: {told}"
        time.sleep(0.05)
