"""Pods of an API server without nodes: nobody runs them, but a process can act as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from leases.sidecar.pod import Pod
from servers.kubernetes import KubernetesServer

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
# A rule for every verb that labelling takes.
PATCHES: Final = {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}


def a_pod(
    server: KubernetesServer, namespace: str, folder: Path, *, name: str = "web-0", user: str = "web"
) -> Pod:
    """A pod that is there from now on, and a folder with the token of its service account."""
    server.account(namespace, user)
    secrets = folder / name
    secrets.mkdir()
    (secrets / "ca.crt").write_bytes(server.authority.ca.read_bytes())
    (secrets / "token").write_text(server.token(namespace, user) + "\n")
    (secrets / "namespace").write_text(namespace)
    made = server.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/pods",
        {
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"serviceAccountName": user, "containers": [{"name": "web", "image": "web"}]},
        },
    )
    address = urlsplit(server.address)
    assert address.hostname is not None and address.port is not None
    return Pod(address.hostname, address.port, namespace, name, made["metadata"]["uid"], secrets)


def allow(
    server: KubernetesServer, namespace: str, rules: Sequence[Mapping[str, object]], *, user: str = "web"
) -> None:
    """Let a service account do this, and nothing else."""
    where = f"{RBAC}/namespaces/{namespace}"
    role = {"metadata": {"name": user}, "rules": list(rules)}
    if any(item["metadata"]["name"] == user for item in server.request("GET", f"{where}/roles")["items"]):
        server.request("PUT", f"{where}/roles/{user}", role)
        return
    server.request("POST", f"{where}/roles", role)
    server.request(
        "POST",
        f"{where}/rolebindings",
        {
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"kind": "ServiceAccount", "name": user, "namespace": namespace}],
        },
    )


def labels(server: KubernetesServer, pod: Pod) -> dict[str, str]:
    """All labels of a pod."""
    found: dict[str, str] = _read(server, pod)["metadata"].get("labels", {})
    return found


def selected(server: KubernetesServer, namespace: str, selector: Mapping[str, str]) -> list[str]:
    """The pods that a Service with this selector would send to."""
    query = quote(",".join(f"{key}={value}" for key, value in selector.items()))
    found = server.request("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={query}")["items"]
    return [str(item["metadata"]["name"]) for item in found]


def put_label(server: KubernetesServer, pod: Pod, key: str, value: str) -> None:
    """Write a label as somebody else would."""
    whole = _read(server, pod)
    whole["metadata"].setdefault("labels", {})[key] = value
    server.request("PUT", _path(pod), whole)


def at(pod: Pod, port: int) -> Pod:
    """The same pod, which reaches its API server at another port."""
    return dataclasses.replace(pod, port=port)


def _read(server: KubernetesServer, pod: Pod) -> Any:
    return server.request("GET", _path(pod))


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
