"""The image of examples/container, built and run by a Docker engine: as nobody, with nothing to write to."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors
import pytest
from docker.utils.build import exclude_paths

import images
from layers import ROOT
from leases import connect
from servers import containers
from servers.build import Missing
from servers.engine import WITHOUT_NETWORK, an_engine
from servers.fixtures import Shared
from servers.process import HOST, Ports

EXTRAS: Final = ("etcd", "sidecar")
PATIENCE: Final = 60.0
TTL: Final = 60.0
DOCKERFILE: Final = "examples/container/Dockerfile"


def test_a_build_is_sent_what_it_needs_and_no_more() -> None:
    """Not the history, nor the tests, nor what somebody left lying about in the checkout."""
    patterns = [
        line.strip()
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    sent = exclude_paths(str(ROOT), patterns)
    assert {Path(path).parts[0] for path in sent} - {"wheels", ".dockerignore"} == {
        "LICENSE", "README.md", "backends", "leases", "pyproject.toml",
    }  # fmt: skip
    assert not [path for path in sent if "__pycache__" in path]


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
            install = os.environ.get("CI") == "true" or os.environ.get("SERVERS") == "docker"
            own = containers.engine() is None
            host = stack.enter_context(an_engine(WITHOUT_NETWORK, install=install))
        except Missing as missing:
            if os.environ.get("SERVERS") == "docker":
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
            images.runtime(),
            repository=tag.partition(":")[0],
            tag=arguments["BASE"].partition(":")[2],
            changes=[f"ENV PATH={images.PATH}"],
        )
        made.append(arguments["BASE"])
        more = io.BytesIO(images.builder(arguments["BASE"]))
        made += _build(engine.client, arguments["BUILDER"], fileobj=more, custom_context=True)
        images.context(folder, EXTRAS)
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


@pytest.fixture
def port() -> Iterator[int]:
    ports = Ports("http")
    yield ports["http"]
    ports.close()


@pytest.fixture
def name() -> str:
    return f"image-{secrets.token_hex(4)}"


@pytest.mark.slow
@pytest.mark.timeout(300)  # the first one builds
def test_it_says_what_it_is(image: Image) -> None:
    """A user that is a number and not root, a check and an entry without a shell, and its default command."""
    about = image.client.images.get(image.tag).attrs["Config"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", about["User"])
    assert about["Entrypoint"] == ["/opt/leases/bin/leases"] and about["Cmd"] == ["elector"]
    assert about["Healthcheck"]["Test"][0] == "CMD" and len(about["Healthcheck"]["Test"]) > 1
    assert list(about["ExposedPorts"]) == ["4040/tcp"]
    assert about["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert not [text for text in about["Env"] if text.startswith(("PIP_", "EXTRAS"))]


@pytest.mark.slow
def test_it_runs_as_nobody_and_writes_nothing(image: Image) -> None:
    """No root, no capability, no shell, no pip, no sources, no caches; what was asked for and not more."""
    assert image.run("--version") == (0, "leases 0.1.0\n")
    found = json.loads(
        image.python(
            "import importlib.util as u, json, os, shutil\n"
            "def writable(path):\n"
            "    return os.access(path, os.W_OK)\n"
            "print(json.dumps({'uid': os.getuid(), 'gid': os.getgid(),\n"
            " 'caps': open('/proc/self/status').read().split('CapEff:')[1].split()[0],\n"
            " 'writable': [f for f, *_ in os.walk('/opt') if writable(f)],\n"
            " 'owned': [f for f, *_ in os.walk('/opt') if os.stat(f).st_uid == os.getuid()],\n"
            " 'shell': shutil.which('sh'),\n"
            " 'left': [f for f in ('/src', '/root/.cache') if os.path.exists(f)],\n"
            " 'modules': [m for m in ('pip', 'grpc', 'uvicorn', 'kubernetes', 'kazoo') if u.find_spec(m)]}))"
        )
    )
    assert found == {
        "uid": 65532, "gid": 65532, "caps": "0" * 16, "writable": [], "owned": [], "shell": None, "left": [],
        "modules": ["grpc", "uvicorn"],
    }  # fmt: skip


@pytest.mark.slow
def test_what_it_cannot_do_it_says(image: Image) -> None:
    """Without a name, and with a store that needs a file system, as one line and a code."""
    code, text = image.run()
    assert code == 64 and text.startswith("leases elector: ") and text.count("\n") == 1
    code, text = image.run("hold", "job", "--", "true")
    assert code != 0 and text.count("\n") == 1 and "Traceback" not in text


@pytest.mark.slow
def test_an_elector_leads_resigns_and_ends(image: Image, etcd: Shared, port: int, name: str) -> None:
    """It becomes healthy, is seen from outside, and after SIGTERM the next one leads at once."""
    command = ("elector", name, "--backend", etcd.url, "--ttl", f"{TTL:g}")
    first = image.start(
        *command, "--id", "first", f"--http={HOST}:{port}", healthcheck={"interval": 300_000_000}
    )
    until(lambda: ask(port)["is_leader"] is True, first)
    until(lambda: health(first) == "healthy", first)
    with connect(etcd.url) as store:
        assert store.status(name).holder == "first"
        second = image.start(*command, "--id", "second", "--http", f"{HOST}:0")
        until(lambda: "led by first" in second.logs().decode(), second)
        began = time.monotonic()
        first.kill(signal=signal.SIGTERM)
        assert first.wait(timeout=PATIENCE)["StatusCode"] == 0, first.logs().decode()
        until(lambda: store.status(name).holder == "second", second)
        assert time.monotonic() - began < TTL / 2
    assert f'released "{name}"' in first.logs().decode()


@pytest.mark.slow
def test_a_wedged_elector_is_unhealthy(image: Image, etcd: Shared, port: int, name: str) -> None:
    """One that is there and does not answer; the engine keeps why."""
    started = image.start(
        "elector", "--election", name, "--backend", etcd.url, "--http", f"{HOST}:{port}",
        healthcheck={"interval": 300_000_000, "retries": 1},
    )  # fmt: skip
    until(lambda: health(started) == "healthy", started)
    processes = started.top(ps_args="-o pid,args")["Processes"]
    inside = [int(pid) for pid, args in processes if "elector" in args]
    assert len(inside) == 2  # the first, which looks after the second
    os.kill(max(inside), signal.SIGSTOP)
    until(lambda: health(started) == "unhealthy", started)
    os.kill(max(inside), signal.SIGCONT)
    started.reload()
    assert "gives no answer" in started.attrs["State"]["Health"]["Log"][-1]["Output"]
    until(lambda: health(started) == "healthy", started)


@pytest.mark.slow
def test_a_command_is_held_for(image: Image, etcd: Shared, name: str) -> None:
    """`hold` as process 1: its command gets token and signals, orphans are buried, the lock is freed."""
    program = (
        "import os, signal, time\n"
        "out, back = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os.write(back, str(os.getpid()).encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "orphan = os.read(out, 9).decode()\n"
        "while os.path.exists(f'/proc/{orphan}'):\n"
        "    time.sleep(0.01)\n"
        "print('buried', int(os.environ['LEASES_TOKEN']) > 0, os.getpid() != 1, flush=True)\n"
        "signal.pause()\n"
    )
    started = image.start(
        "hold", name, "--backend", etcd.url, "--ttl", f"{TTL:g}", "--", "python3", "-c", program
    )
    until(lambda: b"buried True True" in started.logs(), started)
    started.reload()
    assert health(started) in ("starting", "healthy")
    started.kill(signal=signal.SIGTERM)
    assert started.wait(timeout=PATIENCE)["StatusCode"] == 128 + signal.SIGTERM
    with connect(etcd.url) as store:
        lease = store.lock(name, timeout=TTL / 2).try_acquire()
        assert lease is not None
        lease.release()


def ask(port: int, path: str = "/") -> dict[str, Any]:
    """What a sidecar answers; nothing while it is not there."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    except OSError:
        return {"is_leader": None}
    finally:
        connection.close()


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
