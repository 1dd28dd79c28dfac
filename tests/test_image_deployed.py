"""The image as it is deployed: by the compose file, and in a pod with a real API server and no node.

These build the whole image and need networks between containers, so they run in `make test-docker` alone.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker.errors
import pytest
import yaml

from images import IN_CONTAINERS, Image, until
from images import built as built
from images import engine as engine
from images import image as image
from layers import ROOT
from leases import connect
from leases.sidecar.pod import SECRETS
from pods import selected
from servers.kubernetes import KubernetesServer, own
from test_manifests import OBJECTS, TEMPLATE, a_pod, create
from test_manifests import applied as applied
from test_manifests import namespace as namespace

pytestmark = [
    pytest.mark.containers,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the first one builds
    pytest.mark.skipif(not IN_CONTAINERS, reason="needs networks between containers: make test-docker"),
]

COMPOSE: Final = ROOT / "examples" / "container" / "compose.yaml"
ASK: Final = (
    "import urllib.request as r, urllib.error as e\n"
    "try:\n"
    "    a = r.urlopen('http://localhost:8080/', timeout=5)\n"
    "except e.HTTPError as error:\n"
    "    a = error\n"
    "print(a.status, a.read().decode().strip())\n"
)


class Composed:
    """A compose file, run as `docker compose up` does, as far as this file asks for it.

    Args:
        image: what is run in the place of the images that are built, or that hold nothing but a Python.
    """

    def __init__(self, image: Image, built: str, python: str) -> None:
        self._image, self._names = image, {"leases": built, "python:3.13-slim": python}
        whole = yaml.safe_load(COMPOSE.read_text())
        self.services: dict[str, dict[str, Any]] = whole["services"]
        self.running: dict[str, Any] = {}
        name = f"leases-test-{secrets.token_hex(4)}"
        self._network = image.client.networks.create(name, driver="bridge")
        self._volumes = {one: image.client.volumes.create(f"{name}-{one}") for one in whole["volumes"]}

    def up(self) -> None:
        """Start every service after those that it depends on."""
        waiting = dict(self.services)
        while waiting:
            ready = [
                name
                for name, one in waiting.items()
                if not set(one.get("depends_on", ())) - set(self.running)
            ]
            for name in ready:
                self.running[name] = self._start(name, dict(waiting.pop(name)))

    def _start(self, name: str, service: dict[str, Any]) -> Any:
        for said in ("build", "ports", "restart", "depends_on", "stop_grace_period"):
            service.pop(said, None)
        options: dict[str, Any] = {
            "read_only": service.pop("read_only", False),
            "tmpfs": dict.fromkeys(service.pop("tmpfs", ()), "mode=1777"),
            "cap_drop": service.pop("cap_drop", None),
            "security_opt": service.pop("security_opt", None),
            "user": service.pop("user", None),
            "volumes": [self._mounted(one) for one in service.pop("volumes", ())],
        }
        match service.pop("network_mode", "").partition(":"):
            case "service", _, other:
                options["network_mode"] = f"container:{self.running[other].id}"
            case _:
                options |= {"network": self._network.name, "network_mode": None, "hostname": name}
        tag, command = str(service.pop("image")), service.pop("command")
        assert not service, f"the tests do not know what {sorted(service)} of {name} means"
        started = Image(self._image.client, self._names.get(tag, tag))
        self._image.also(started)
        found = started.start(*command, **options, name=f"{self._network.name}-{name}")
        if options.get("network"):
            self._network.disconnect(found)
            self._network.connect(found, aliases=[name])
        return found

    def _mounted(self, text: str) -> str:
        source, _, target = text.partition(":")
        if source in self._volumes:
            return f"{self._volumes[source].name}:{target}"
        return f"{(COMPOSE.parent / source).resolve()}:{target}"

    def answer(self, name: str) -> tuple[str, str]:
        """What an application says to who asks it."""
        code, output = self.running[name].exec_run(["python3", "-c", ASK])
        status, _, text = output.decode().strip().partition(" ")
        return (status, text) if code == 0 else ("", output.decode())

    def close(self) -> None:
        for one in reversed(self.running.values()):
            with contextlib.suppress(docker.errors.APIError):
                one.remove(force=True)
        for volume in self._volumes.values():
            volume.remove(force=True)
        self._network.remove()


@pytest.fixture
def composed(image: Image, built: str) -> Iterator[Composed]:
    composed = Composed(image, built, f"{built}-base")
    yield composed
    composed.close()


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
    print(f"\nanother leads {time.monotonic() - began:.2f} s after SIGTERM to the elector")


@pytest.fixture
def kubernetes(kubernetes: object) -> KubernetesServer:
    return own(kubernetes)


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
