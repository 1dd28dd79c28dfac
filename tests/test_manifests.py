"""The manifests of examples/kubernetes on a real API server: accepted, and with no Role wider than needed."""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from layers import ROOT
from leases import Elector, connect
from leases.cli.options import parse
from leases.errors import StoreDenied
from leases.sidecar import command
from leases.sidecar.pod import LABEL, SECRETS, Pod, PodLabel, patch
from leases_command import Shop, until
from pods import RBAC, labels, selected
from servers.kubernetes import KubernetesServer, own
from servers.process import HOST, Ports

FOLDER: Final = ROOT / "examples" / "kubernetes"
ELECTION: Final = "web"
SETTLE: Final = 20.0
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}
PLURALS: Final = {"NetworkPolicy": "networkpolicies"}

Objects = dict[tuple[str, str], dict[str, Any]]


def manifests() -> Objects:
    """Every object, by kind and name, as the customization lists them."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    found = [one for name in listed for one in yaml.safe_load_all((FOLDER / name).read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


OBJECTS: Final = manifests()
TEMPLATE: Final = OBJECTS["Deployment", "web"]["spec"]["template"]


@pytest.fixture
def kubernetes(kubernetes: object) -> KubernetesServer:
    return own(kubernetes)


@pytest.fixture
def namespace(kubernetes: KubernetesServer) -> str:
    """A namespace in which pods have to keep to the strictest of Kubernetes' own standards."""
    name = f"manifests-{secrets.token_hex(4)}"
    kubernetes.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": RESTRICTED}})
    return name


@pytest.fixture
def applied(kubernetes: KubernetesServer, namespace: str) -> str:
    """The same with all the objects in it."""
    for one in OBJECTS.values():
        create(kubernetes, namespace, one)
    return namespace


def create(server: KubernetesServer, namespace: str, one: Mapping[str, Any]) -> Any:
    """Create an object, unless a field of it is unknown, or said twice."""
    group = one["apiVersion"]
    root = "/api/v1" if group == "v1" else f"/apis/{group}"
    plural = PLURALS.get(one["kind"], one["kind"].lower() + "s")
    path = f"{root}/namespaces/{namespace}/{plural}?fieldValidation=Strict"
    return server.request("POST", path, one)


def a_pod(name: str = "web-0") -> dict[str, Any]:
    """A pod as the Deployment makes them."""
    whole: dict[str, Any] = json.loads(json.dumps(TEMPLATE))
    whole["metadata"]["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", **whole}


def containers_of(template: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*template["spec"]["initContainers"], *template["spec"]["containers"]]


# As files.


def test_every_file_is_applied() -> None:
    """None lies beside the customization without being part of it."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert listed == sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def test_the_customization_puts_your_image_in(tmp_path: Path) -> None:
    """`kubectl kustomize` has every object, and the sidecar's image where the customization names it."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl")
    folder = tmp_path / "mine"
    shutil.copytree(FOLDER, folder)
    text = (folder / "kustomization.yaml").read_text()
    (folder / "kustomization.yaml").write_text(text.replace("newName: leases", "newName: here.test/leases"))
    made = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True)
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(made.stdout)}
    assert found.keys() - OBJECTS.keys() == {("ConfigMap", _application(found))}
    images = [one["image"] for one in containers_of(found["Deployment", "web"]["spec"]["template"])]
    assert images == ["here.test/leases:latest", "python:3.13-slim"]


def _application(found: Objects) -> str:
    """The name of the application's files, which has a new ending whenever they change."""
    volumes = found["Deployment", "web"]["spec"]["template"]["spec"]["volumes"]
    (name,) = [one["configMap"]["name"] for one in volumes if "configMap" in one]
    return str(name)


def test_the_sidecar_is_told_what_it_takes() -> None:
    """Its arguments are options that there are, its election is the one of the Role, its port is probed."""
    (elector,) = TEMPLATE["spec"]["initContainers"]
    word, *words = elector["args"]
    assert word == "elector"
    args = parse("leases elector", "the sidecar", command, words)
    named = [
        rule["resourceNames"] for rule in OBJECTS["Role", "web-elector"]["rules"] if "resourceNames" in rule
    ]
    assert [[args.name]] == named == [[ELECTION]]
    assert args.pod_label is not None and args.http.host == ""
    assert [port["containerPort"] for port in elector["ports"]] == [args.http.port]
    assert {env["name"] for env in elector["env"]} == {"POD_NAME", "POD_NAMESPACE", "POD_UID"}


def test_the_application_asks_its_sidecar(shop: Shop) -> None:
    """It does a leader's work while its sidecar says so, and none without a sidecar."""
    ports = Ports("elector", "application")
    try:
        where = f"http://{ports.at('elector')}"
        shop.start(
            str(FOLDER / "application.py"),
            env={"ELECTOR": where, "PORT": str(ports["application"])},
            program=(sys.executable,),
        )
        until(lambda: ask(ports["application"], "/ready") == (200, "ready"))
        assert ask(ports["application"]) == (503, "led by nobody, token None")
        elector = shop.start("elector", ELECTION, "--id", "web-0", "--http", ports.at("elector"))
        until(lambda: ask(ports["application"])[0] == 200)
        status, text = ask(ports["application"])
        assert status == 200 and text.startswith("led by web-0, token ")
        elector.terminate()
        assert elector.wait(30) == 0
        assert ask(ports["application"])[0] == 503
    finally:
        ports.close()


def ask(port: int, path: str = "/") -> tuple[int, str]:
    """What the application answers; 0 while it is not there."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def test_the_application_ends_before_its_lease() -> None:
    """The elector is a sidecar of the native kind, which is told to end when the application has ended."""
    (elector,) = TEMPLATE["spec"]["initContainers"]
    assert elector["restartPolicy"] == "Always"


def test_only_the_sidecar_has_a_token() -> None:
    """The application cannot patch pods; the sidecar finds what it needs where every client looks."""
    assert TEMPLATE["spec"]["automountServiceAccountToken"] is False
    mounts = {
        one["name"]: [mount["mountPath"] for mount in one["volumeMounts"] if mount["name"] == "token"]
        for one in containers_of(TEMPLATE)
    }
    assert mounts == {"elector": [str(SECRETS)], "web": []}
    (token,) = [one["projected"] for one in TEMPLATE["spec"]["volumes"] if one["name"] == "token"]
    paths = {item["path"] for source in token["sources"] for item in _items(source)}
    assert paths == {"token", "ca.crt", "namespace"}


def _items(source: dict[str, Any]) -> list[dict[str, Any]]:
    ((_, content),) = source.items()
    items: list[dict[str, Any]] = content.get("items", [content])
    return items


def test_everything_selects_the_same_pods() -> None:
    """Deployment, Services, budget, policy and spread; by ports that there are."""
    has = TEMPLATE["metadata"]["labels"]
    spec = {key: one.get("spec", {}) for key, one in OBJECTS.items()}
    selectors = [
        spec["Deployment", "web"]["selector"]["matchLabels"],
        spec["PodDisruptionBudget", "web"]["selector"]["matchLabels"],
        spec["NetworkPolicy", "web"]["podSelector"]["matchLabels"],
        spec["Service", "web"]["selector"],
        *(one["labelSelector"]["matchLabels"] for one in TEMPLATE["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector == has for selector in selectors)
    assert spec["Service", "web-leader"]["selector"] == has | {LABEL: "leader"}
    ports = {port["name"] for port in TEMPLATE["spec"]["containers"][0]["ports"]}
    (elector,) = TEMPLATE["spec"]["initContainers"]  # Whose names of ports not every network knows.
    ports |= {port["containerPort"] for port in elector["ports"]}
    used = {port["targetPort"] for name in ("web", "web-leader") for port in spec["Service", name]["ports"]}
    used |= {port["port"] for rule in spec["NetworkPolicy", "web"]["ingress"] for port in rule["ports"]}
    assert used <= ports


# On an API server.


def test_the_api_server_takes_them_all(kubernetes: KubernetesServer, applied: str) -> None:
    """Every object with every field, and pods of the template in a namespace of the restricted standard."""
    assert create(kubernetes, applied, a_pod())["spec"]["initContainers"][0]["restartPolicy"] == "Always"
    changes: list[tuple[Callable[[Any], object], str]] = [
        (lambda pod: pod["spec"].update(hostNetwork=True), "restricted"),
        (lambda pod: pod["spec"]["containers"][0].pop("securityContext"), "restricted"),
        (lambda pod: pod["spec"]["initContainers"][0].update(restartpolicy="Always"), "unknown field"),
    ]
    for change, said in changes:
        wrong = a_pod("web-1")
        change(wrong)
        with pytest.raises(urllib.error.HTTPError) as refused:
            create(kubernetes, applied, wrong)
        with refused.value as error:
            assert said in error.read().decode()


@pytest.fixture
def sidecar(kubernetes: KubernetesServer, applied: str, tmp_path: Path) -> Pod:
    """What the sidecar in a pod of the Deployment has: the token of its account, and its own name."""
    made = create(kubernetes, applied, a_pod())
    (tmp_path / "token").write_text(kubernetes.token(applied, TEMPLATE["spec"]["serviceAccountName"]))
    (tmp_path / "ca.crt").write_bytes(kubernetes.authority.ca.read_bytes())
    host, _, port = kubernetes.address.removeprefix("https://").partition(":")
    return Pod(host, int(port), applied, made["metadata"]["name"], made["metadata"]["uid"], tmp_path)


def url_of(server: KubernetesServer, pod: Pod) -> str:
    """The namespace's URL, as the sidecar of a pod."""
    user = {"tokenFile": str(pod.secrets / "token")}
    return server.url_of(pod.namespace, server.kubeconfig(f"of-{pod.namespace}", user))


def test_the_role_is_enough(
    kubernetes: KubernetesServer, sidecar: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    """An elector leads, is seen, resigns; its pod is labelled, and selected by the Service of the leader."""
    elector = Elector(ELECTION, store=url_of(kubernetes, sidecar), holder=sidecar.name)
    label = PodLabel(sidecar)
    selector = OBJECTS["Service", "web-leader"]["spec"]["selector"]
    elector.start()
    try:
        until(lambda: elector.is_leader)
        label.show(True)
        assert label.settle(SETTLE)
        assert selected(kubernetes, sidecar.namespace, selector) == [sidecar.name]
        label.show(False)
        assert label.settle(SETTLE)
        assert elector.resign(SETTLE)
        assert selected(kubernetes, sidecar.namespace, selector) == []
    finally:
        label.close()
        elector.stop(SETTLE)
    assert labels(kubernetes, sidecar)[LABEL] == "standby"
    assert "missing" not in caplog.text


VERBS: Final = [
    (resource, verb)
    for rule in OBJECTS["Role", "web-elector"]["rules"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
]


@pytest.mark.parametrize(("resource", "verb"), VERBS, ids=[" ".join(one) for one in VERBS])
def test_the_role_is_the_least(
    kubernetes: KubernetesServer,
    sidecar: Pod,
    resource: str,
    verb: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without any one of its verbs something is refused, or warned of, in words that name it."""
    role = json.loads(json.dumps(OBJECTS["Role", "web-elector"]))
    for rule in role["rules"]:
        if resource in rule["resources"]:
            rule["verbs"] = [one for one in rule["verbs"] if one != verb]
    role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    kubernetes.request("PUT", f"{RBAC}/namespaces/{sidecar.namespace}/roles/web-elector", role)
    told = _trouble_with(kubernetes, sidecar, resource)
    until(lambda: f"{verb!r} is missing" in told() + caplog.text)


def _trouble_with(server: KubernetesServer, sidecar: Pod, resource: str) -> Callable[[], str]:
    """Do what an elector does, anew with each call, and say what was said of it."""
    if resource == "pods":
        return lambda: patch(sidecar, LABEL, "leader")
    url = url_of(server, sidecar)

    def told() -> str:
        try:
            with closing(connect(url)) as store:
                for _ in range(2):  # The second look at a name is another request than the first.
                    with store.lock(ELECTION, timeout=SETTLE):
                        next(iter(store.watch(ELECTION)))
                    store.status(ELECTION)
        except StoreDenied as denied:
            return str(denied)
        return ""

    return told
