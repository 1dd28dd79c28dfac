"""The label of the pod that leads, on a real API server: set, corrected, or why it is not."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leases.errors import ConfigurationError
from leases.sidecar import pod as module
from leases.sidecar.pod import LABEL, Pod, PodLabel, patch
from leases_command import until
from pods import PATCHES, a_pod, allow, at, labels, put_label, selected
from servers.kubernetes import KubernetesServer, own
from servers.process import HOST
from servers.proxy import Proxy, Way

LEADS = {"app": "web", LABEL: "leader"}
SETTLE = 20.0

Make = Callable[..., PodLabel]


@pytest.fixture
def kubernetes(kubernetes: object) -> KubernetesServer:
    return own(kubernetes)


@pytest.fixture
def namespace(kubernetes: KubernetesServer) -> str:
    """A namespace of the test's own."""
    name = f"pods-{secrets.token_hex(4)}"
    kubernetes.namespace(name)
    return name


@pytest.fixture
def pod(kubernetes: KubernetesServer, namespace: str, tmp_path: Path) -> Pod:
    """A pod that may label itself."""
    allow(kubernetes, namespace, [PATCHES])
    return a_pod(kubernetes, namespace, tmp_path)


@pytest.fixture
def told() -> list[str]:
    """The troubles that were told."""
    return []


@pytest.fixture
def label_of(told: list[str]) -> Iterator[Make]:
    """Makes what keeps a label."""
    made: list[PodLabel] = []

    def make(pod: Pod, **options: str) -> PodLabel:
        made.append(PodLabel(pod, tell=told.append, **options))
        return made[-1]

    yield make
    for label in made:
        label.close()


def test_a_service_selects_the_leader(
    kubernetes: KubernetesServer, namespace: str, pod: Pod, label_of: Make, told: list[str]
) -> None:
    """The pod has the label while it leads; its other labels stay."""
    label = label_of(pod)
    for leading, found in ((False, []), (True, [pod.name]), (False, [])):
        label.show(leading)
        assert label.settle(SETTLE)
        assert selected(kubernetes, namespace, LEADS) == found
    assert labels(kubernetes, pod) == {"app": "web", LABEL: "standby"}
    assert told == [] and label.trouble == ""


def test_a_label_that_a_crash_has_left_is_corrected(
    kubernetes: KubernetesServer, namespace: str, pod: Pod, label_of: Make
) -> None:
    """Whoever starts stands by, and says so first."""
    put_label(kubernetes, pod, LABEL, "leader")
    label = label_of(pod)
    label.show(False)
    assert label.settle(SETTLE)
    assert selected(kubernetes, namespace, LEADS) == []


def test_another_key_may_be_chosen(kubernetes: KubernetesServer, pod: Pod, label_of: Make) -> None:
    """Two elections in one pod need two; what cannot be a key is refused before anything is sent."""
    label = label_of(pod, label="example.org/scheduler")
    label.show(True)
    assert label.settle(SETTLE)
    assert labels(kubernetes, pod)["example.org/scheduler"] == "leader"
    for wrong in ("", "a/b/c", "Upper/role", "-role", "role-", "r" * 64, "rôle", "role\n"):
        with pytest.raises(ConfigurationError, match="use one like leases/role"):
            PodLabel(pod, label=wrong)


def test_what_others_write_is_put_right(
    kubernetes: KubernetesServer, pod: Pod, label_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said again from time to time."""
    monkeypatch.setattr(module, "REPEAT_S", 0.2)
    label = label_of(pod)
    label.show(False)
    assert label.settle(SETTLE)
    put_label(kubernetes, pod, LABEL, "leader")
    until(lambda: labels(kubernetes, pod)[LABEL] == "standby")


def test_a_missing_verb_is_named_once(
    kubernetes: KubernetesServer, namespace: str, pod: Pod, label_of: Make, told: list[str]
) -> None:
    """And it is tried on: the Role may be corrected while the pod runs."""
    allow(kubernetes, namespace, [])
    until(lambda: "'patch' is missing" in module.patch(pod, LABEL, "standby"))
    label = label_of(pod)
    label.show(True)
    assert not label.settle(1.0)
    assert len(told) == 1 and told[0] == label.trouble
    assert "'patch' is missing" in told[0] and '"pods"' in told[0] and pod.name in told[0]
    allow(kubernetes, namespace, [PATCHES])
    assert label.settle(SETTLE)
    assert label.trouble == "" and selected(kubernetes, namespace, LEADS) == [pod.name]


def test_a_token_is_read_for_each_request(pod: Pod, label_of: Make, told: list[str]) -> None:
    """A service account's token is replaced while the pod runs."""
    good = (pod.secrets / "token").read_text()
    (pod.secrets / "token").write_text("void")
    label = label_of(pod)
    label.show(True)
    until(lambda: told)
    assert "401" in told[0] and "void" not in told[0]
    (pod.secrets / "token").write_text(good)
    assert label.settle(SETTLE)


def test_another_pod_is_left_alone(kubernetes: KubernetesServer, pod: Pod) -> None:
    """One that is not there is no success, nor is one that has only the name."""
    nowhere = module.patch(dataclasses.replace(pod, name="nowhere"), LABEL, "leader")
    assert "404" in nowhere and "POD_NAME" in nowhere
    later = module.patch(dataclasses.replace(pod, uid="0" * 8), LABEL, "leader")
    assert "another pod" in later and "POD_UID" in later
    assert LABEL not in labels(kubernetes, pod)


def test_a_server_out_of_reach_is_waited_for(
    kubernetes: KubernetesServer, pod: Pod, label_of: Make, told: list[str]
) -> None:
    """What was last asked for is what comes to be, whatever was asked for while nobody answered."""
    with Proxy(port=pod.port) as proxy:
        label = label_of(at(pod, proxy.port))
        proxy.silence(Way.FORTH)
        label.show(True)
        assert not label.settle(0.1)
        label.show(False)
        until(lambda: told)
        proxy.cut()
        proxy.heal()
        assert label.settle(SETTLE)
        assert labels(kubernetes, pod)[LABEL] == "standby"
        assert "see whether the pod reaches its API server" in told[0]


def test_a_change_of_mind_is_not_overtaken(kubernetes: KubernetesServer, pod: Pod, label_of: Make) -> None:
    """An answer to what was asked for before does not settle what is asked for now."""
    with Proxy(port=pod.port) as proxy:
        label = label_of(at(pod, proxy.port))
        proxy.delay(0.05)
        label.show(True)
        until(lambda: proxy.open > 0)
        label.show(False)
        assert label.settle(SETTLE)
        assert labels(kubernetes, pod)[LABEL] == "standby"


def test_a_stranger_is_not_given_the_token(pod: Pod, tmp_path: Path) -> None:
    """Who answers there has to have a certificate of the cluster's authority."""
    from servers.certificates import Authority

    (pod.secrets / "ca.crt").write_bytes(Authority(tmp_path / "other").ca.read_bytes())
    assert "certificate verify failed" in module.patch(pod, LABEL, "leader")


def test_what_is_told_may_fail(
    pod: Pod, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label comes to be all the same."""

    def fail(text: str) -> None:
        raise RuntimeError("out of order")

    good = (pod.secrets / "token").read_text()
    (pod.secrets / "token").write_text("void")
    label = PodLabel(pod, tell=fail)
    with caplog.at_level(logging.ERROR, "leases"):
        label.show(True)
        until(lambda: "out of order" in caplog.text)
    (pod.secrets / "token").write_text(good)
    assert label.settle(SETTLE)
    label.close()


# Without a server.


def in_a_pod(folder: Path, **more: str) -> dict[str, str]:
    """Files and environment of a pod."""
    (folder / "token").write_text("t")
    (folder / "namespace").write_text("orders\n")
    return {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443", **more}


def test_a_pod_knows_itself(tmp_path: Path) -> None:
    """By its environment, or by its files and its host's name."""
    env = in_a_pod(tmp_path, POD_NAME="web-1", POD_NAMESPACE="shop", POD_UID="u")
    assert Pod.mine(env, tmp_path) == Pod("10.0.0.1", 6443, "shop", "web-1", "u", tmp_path)
    bare = Pod.mine(in_a_pod(tmp_path), tmp_path)
    assert bare.namespace == "orders" and bare.name != "" and bare.uid == ""


def test_where_there_is_no_pod_it_is_said(tmp_path: Path) -> None:
    """Outside of a cluster, without a token, with an environment that cannot be right."""
    for env, said in (
        ({}, "run this in a pod"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "automountServiceAccountToken"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "https"}, "set it to one"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "65536"}, "set it to one"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            Pod.mine(env, tmp_path)
    env = in_a_pod(tmp_path)
    (tmp_path / "namespace").unlink()
    with pytest.raises(ConfigurationError, match="set POD_NAMESPACE"):
        Pod.mine(env, tmp_path)


def test_an_authority_need_not_be_of_the_strictest_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Newer versions of Python would refuse the authorities that many clusters have."""
    made: list[ssl.SSLContext] = []

    def strict(cafile: str) -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        made[-1].verify_flags |= ssl.VERIFY_X509_STRICT
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", strict)
    pod = Pod.mine(in_a_pod(tmp_path, KUBERNETES_SERVICE_HOST=HOST), tmp_path)
    assert "is not set" in patch(at(pod, 1), LABEL, "leader")
    assert not made[0].verify_flags & ssl.VERIFY_X509_STRICT
    assert made[0].verify_mode is ssl.CERT_REQUIRED and made[0].check_hostname


def test_nothing_is_sent_after_close(pod: Pod, label_of: Make) -> None:
    """Whoever leaves says nothing more."""
    label = label_of(pod)
    label.close()
    label.show(True)
    assert not label.settle(0.2)
