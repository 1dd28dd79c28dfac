"""The image of examples/container, built and run by a Docker engine: as nobody, with nothing to write to."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from docker.utils.build import exclude_paths

from composed import Composed
from images import EXTRAS, IN_CONTAINERS, PATIENCE, Image, health, until
from images import built as built
from images import engine as engine
from images import image as image
from layers import ROOT
from leases import connect
from leases.sidecar.pod import SECRETS
from pods import selected
from servers.fixtures import Shared
from servers.kubernetes import KubernetesServer, own
from servers.process import HOST, Ports
from test_manifests import OBJECTS, TEMPLATE, a_pod, create
from test_manifests import applied as applied
from test_manifests import namespace as namespace

TTL: Final = 60.0
OF_EXTRAS: Final = {"grpc": "etcd", "kazoo": "zookeeper", "kubernetes": "kubernetes", "uvicorn": "sidecar"}

# They need all of the image, and networks between containers.
NETWORKS: Final = pytest.mark.skipif(not IN_CONTAINERS, reason="needs an engine's networks: make test-docker")

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]  # the first one builds


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


@pytest.fixture
def port() -> Iterator[int]:
    ports = Ports("http")
    yield ports["http"]
    ports.close()


@pytest.fixture
def name() -> str:
    return f"image-{secrets.token_hex(4)}"


@pytest.mark.slow
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
            " 'left': [f for top in os.listdir('/') if top not in ('proc', 'sys', 'dev')\n"
            "   for f, *_ in os.walk('/' + top) if f == '/src' or f.endswith('/.cache')],\n"
            f" 'modules': [m for m in {['pip', *OF_EXTRAS]!r} if u.find_spec(m)]}}))"
        )
    )
    assert found == {
        "uid": 65532, "gid": 65532, "caps": "0" * 16, "writable": [], "owned": [], "shell": None, "left": [],
        "modules": [module for module, extra in OF_EXTRAS.items() if extra in EXTRAS],
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


# Deployed.


@pytest.fixture
def composed(image: Image, built: str) -> Iterator[Composed]:
    composed = Composed(image, built, f"{built}-base")
    yield composed
    composed.close()


@NETWORKS
@pytest.mark.slow
def test_the_compose_file_elects_one(composed: Composed) -> None:
    """One application of two does the leader's work; the other does when that one's elector ends."""
    composed.up()
    names = ("web-1", "web-2")

    def leads() -> list[str]:
        said = {name: composed.answer(name) for name in names}
        leaders = [name for name, (status, _) in said.items() if status == "200"]
        agreed = len({text for _, text in said.values()}) == 1
        return leaders if agreed and len(leaders) == 1 else []

    until(leads, composed.running["etcd"])
    (leader,) = leads()
    (other,) = {*names} - {leader}
    assert composed.answer(other) == ("503", composed.answer(leader)[1])
    elector = composed.running[leader.replace("web", "elector")]
    began = time.monotonic()
    elector.kill(signal=signal.SIGTERM)
    assert elector.wait(timeout=60)["StatusCode"] == 0
    until(lambda: composed.answer(other)[0] == "200", composed.running["etcd"])
    elector.start()  # As `restart` would, after a crash.
    until(lambda: composed.answer(leader) == ("503", composed.answer(other)[1]), elector)
    print(f"\nanother leads {time.monotonic() - began:.2f} s after SIGTERM to the elector")


@pytest.fixture
def kubernetes(kubernetes: object) -> KubernetesServer:
    return own(kubernetes)


@NETWORKS
@pytest.mark.slow
def test_the_image_elects_in_a_pod(
    kubernetes: KubernetesServer, applied: str, image: Image, tmp_path: Path
) -> None:
    """With the manifest's arguments, account and nothing else: it leads, labels its pod, and resigns."""
    made = create(kubernetes, applied, a_pod())
    _mounted(kubernetes, applied, tmp_path)
    (elector,) = TEMPLATE["spec"]["initContainers"]
    host, _, port = kubernetes.address.removeprefix("https://").partition(":")
    metadata = made["metadata"] | {"namespace": applied}
    fields = {
        one["name"]: metadata[one["valueFrom"]["fieldRef"]["fieldPath"].partition(".")[2]]
        for one in elector["env"]
    }
    started = image.start(
        *elector["args"],
        environment={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, **fields},
        volumes=[f"{tmp_path}:{SECRETS}:ro"],
    )
    selector = OBJECTS["Service", "web-leader"]["spec"]["selector"]
    until(lambda: selected(kubernetes, applied, selector) == ["web-0"], started)
    url = kubernetes.url_of(applied, kubernetes.folder / "admin.kubeconfig")
    with connect(url) as store:
        assert store.status("web").holder == "web-0"
        started.kill(signal=signal.SIGTERM)
        assert started.wait(timeout=60)["StatusCode"] == 0, started.logs().decode()
        assert not store.status("web").held
    assert selected(kubernetes, applied, selector) == []


def _mounted(server: KubernetesServer, namespace: str, folder: Path) -> None:
    """What the projected volume of the manifest has in it, readable as it is there."""
    (folder / "token").write_text(server.token(namespace, TEMPLATE["spec"]["serviceAccountName"]))
    (folder / "ca.crt").write_bytes(server.authority.ca.read_bytes())
    (folder / "namespace").write_text(namespace)
    folder.chmod(0o755)


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
