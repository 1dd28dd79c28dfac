"""A compose file, run by the Docker engine that there is, as far as ours asks for it."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, Final

import docker.errors
import yaml

from images import Image
from layers import ROOT

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
            "environment": service.pop("environment", {}),
        }
        options |= {"network": self._network.name, "network_mode": None, "hostname": name}
        tag, command = str(service.pop("image")), service.pop("command")
        assert not service, f"the tests do not know what {sorted(service)} of {name} means"
        started = Image(self._image.client, self._names.get(tag, tag))
        self._image.also(started)
        found = started.start(*command, **options, name=f"{self._network.name}-{name}")
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
