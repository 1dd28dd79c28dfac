"""Who may do what on an API server: credentials that are right, wrong or expire, Roles that lack a verb."""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from hands import Hands
from leases import Lock, connect
from leases.contract import Applied, Unknown, Verdict, absent
from leases.errors import ConfigurationError, StoreDenied, StoreUnavailable
from leases.testing._probes import Hints, a_claim, applied, put
from leases_backends import kubernetes as backend
from leases_backends._kubernetes_answers import VERBS
from mistakes import check_refused
from servers.certificates import Authority
from servers.kubernetes import KubernetesServer, own

TIMEOUT = 10.0


@pytest.fixture
def kubernetes(kubernetes: object) -> KubernetesServer:
    return own(kubernetes)


@pytest.fixture
def namespace(kubernetes: KubernetesServer) -> str:
    """A namespace of the test's own."""
    name = f"access-{secrets.token_hex(4)}"
    kubernetes.namespace(name)
    return name


@pytest.fixture
def name() -> str:
    return "job"


def refused(work: Callable[[], object]) -> str:
    """What somebody is told who is refused."""
    with pytest.raises(StoreDenied) as denied:
        work()
    return str(denied.value)


# Credentials.


def test_a_wrong_token_on_the_command_line(
    kubernetes: KubernetesServer, namespace: str, tmp_path: Path
) -> None:
    """Each command says it in a line."""
    wrong = kubernetes.kubeconfig("wrong-here", {"token": "not-the-token"})
    check_refused(kubernetes.url_of(namespace, wrong), tmp_path, secret="not-the-token")


def test_a_wrong_token_is_said_at_once(kubernetes: KubernetesServer, namespace: str, name: str) -> None:
    """The first call names the kubeconfig, and not the token."""
    wrong = kubernetes.kubeconfig("wrong", {"token": "not-the-token"})
    with closing(backend.connect(kubernetes.url_of(namespace, wrong))) as store:
        for call in (
            lambda: store.read(name, TIMEOUT),
            lambda: store.swap(absent(name), a_claim(store, absent(name)), TIMEOUT),
            lambda: list(store.scan("", TIMEOUT)),
        ):
            told = refused(call)
            assert "401" in told and str(wrong) in told and "not-the-token" not in told
        found = list(store.examine(TIMEOUT))
        assert found[-1].verdict is Verdict.BAD and "401" in found[-1].text


def test_a_client_certificate_is_enough(kubernetes: KubernetesServer, namespace: str, name: str) -> None:
    """Given as files, or within the kubeconfig."""
    pair = kubernetes.authority.client("carla")
    kubernetes.grant(namespace, "carla", VERBS)
    inside = {
        "client-certificate-data": base64.b64encode(pair.cert.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }
    for kubeconfig in (kubernetes.user("carla"), kubernetes.kubeconfig("carla-inside", inside)):
        with closing(backend.connect(kubernetes.url_of(namespace, kubeconfig))) as store:
            assert put(store, store.read(name, TIMEOUT)).held


def test_a_certificate_of_another_authority_is_refused(
    kubernetes: KubernetesServer, namespace: str, name: str, tmp_path: Path
) -> None:
    """The client's by the server, and the server's by the client."""
    other = Authority(tmp_path / "other")
    pair = other.client("carla")
    stranger = kubernetes.kubeconfig(
        "stranger", {"client-certificate": str(pair.cert), "client-key": str(pair.key)}
    )
    with closing(backend.connect(kubernetes.url_of(namespace, stranger))) as store:
        assert "401" in refused(lambda: store.read(name, TIMEOUT))
    deceived = kubernetes.kubeconfig(
        "deceived", {"token": kubernetes.admin}, cluster={"certificate-authority": str(other.ca)}
    )
    with closing(backend.connect(kubernetes.url_of(namespace, deceived))) as store:
        told = refused(lambda: store.read(name, TIMEOUT))
        assert "certificate" in told and kubernetes.admin not in told


def test_a_server_of_another_name_is_refused_unless_it_is_named(
    kubernetes: KubernetesServer, namespace: str, name: str
) -> None:
    """`tls-server-name` is what the certificate has to be for."""
    for server_name, right in (("localhost", True), ("elsewhere.test", False)):
        kubeconfig = kubernetes.kubeconfig(
            f"sni-{server_name}", {"token": kubernetes.admin}, cluster={"tls-server-name": server_name}
        )
        with closing(backend.connect(kubernetes.url_of(namespace, kubeconfig))) as store:
            if right:
                assert store.read(name, TIMEOUT).version is None
            else:
                assert "certificate" in refused(lambda: store.read(name, TIMEOUT))


def test_credentials_that_expire_in_the_midst_of_a_hold_are_read_anew(
    kubernetes: KubernetesServer, namespace: str, name: str, tmp_path: Path
) -> None:
    """A token in a file is replaced; the old one is void before the next renewal; the lease goes on."""
    user = kubernetes.account(namespace, "robot")
    kubernetes.grant(namespace, user, VERBS)
    old = kubernetes.token(namespace, "robot")
    file = tmp_path / "token"
    file.write_text(old)
    kubeconfig = kubernetes.kubeconfig("robot", {"tokenFile": str(file)})
    with (
        connect(kubernetes.url_of(namespace, kubeconfig)) as store,
        closing(backend.connect(admins(kubernetes, namespace))) as witness,
        store.lock(name, ttl=15.0, timeout=TIMEOUT) as lease,
    ):
        token = lease.token
        kubernetes.account(namespace, "robot")
        file.write_text(kubernetes.token(namespace, "robot"))
        until(lambda: is_void(kubernetes, old))
        before = witness.read(name, TIMEOUT)
        until(lambda: witness.read(name, TIMEOUT).version != before.version)
        assert lease.held and lease.token == token


@pytest.fixture
def in_a_pod(
    kubernetes: KubernetesServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What a pod has: the address in its environment, and a folder with token, authority and namespace."""
    host, _, port = kubernetes.address.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    (tmp_path / "ca.crt").write_bytes(kubernetes.authority.ca.read_bytes())
    (tmp_path / "namespace").write_text(namespace)
    (tmp_path / "token").write_text("void")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    return tmp_path


def test_a_pod_uses_its_service_account(
    kubernetes: KubernetesServer, namespace: str, name: str, in_a_pod: Path
) -> None:
    """Its namespace by default, and a token that was replaced since, in one call."""
    kubernetes.grant(namespace, kubernetes.account(namespace, "pod"), VERBS)
    with closing(backend.connect("kubernetes://")) as store:
        assert f"kubernetes://{namespace}?" in store.identity
        (in_a_pod / "token").write_text(kubernetes.token(namespace, "pod"))
        assert put(store, store.read(name, TIMEOUT)).held
    with (
        closing(backend.connect("kubernetes:///")) as again,
        closing(backend.connect(again.identity)) as same,
    ):
        assert same.identity == again.identity and same.read(name, TIMEOUT).held


def plugin_of(script: Path, source: str) -> dict[str, object]:
    """What a kubeconfig says of a plugin: a program by which `status` comes to be what is handed out."""
    answer = "{'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', 'status': status}"
    script.write_text(f"import json\n{source}print(json.dumps({answer}))\n")
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-S", str(script)],
        "interactiveMode": "Never",
    }


def test_a_plugin_brings_credentials(
    kubernetes: KubernetesServer, namespace: str, name: str, tmp_path: Path
) -> None:
    """It is run when they are needed, and again when they have expired, not with every call."""
    token, runs = tmp_path / "token", tmp_path / "runs"
    token.write_text("void")
    plugin = plugin_of(
        tmp_path / "plugin.py",
        f"open({str(runs)!r}, 'a').write('x')\nstatus = {{'token': open({str(token)!r}).read()}}\n",
    )
    kubeconfig = kubernetes.kubeconfig("plugin", {"exec": plugin})
    with closing(backend.connect(kubernetes.url_of(namespace, kubeconfig))) as store:
        token.write_text(kubernetes.admin)
        slot = store.read(name, TIMEOUT)
        for _ in range(3):
            slot = put(store, slot)
    assert runs.read_text() == "xx"


def test_a_plugin_that_hangs_keeps_nobody_waiting_for_longer_than_allowed(
    kubernetes: KubernetesServer, namespace: str, name: str, tmp_path: Path
) -> None:
    """The call is void after its timeout; what the plugin brings at last is used."""
    first = tmp_path / "first"
    plugin = plugin_of(
        tmp_path / "plugin.py",
        "import os, time\n"
        f"first = not os.path.exists({str(first)!r})\n"
        f"open({str(first)!r}, 'a').close()\n"
        "first or time.sleep(1.5)\n"
        f"status = {{'token': 'void' if first else {kubernetes.admin!r}}}\n",
    )
    kubeconfig = kubernetes.kubeconfig("slow-plugin", {"exec": plugin})
    with closing(backend.connect(kubernetes.url_of(namespace, kubeconfig))) as store:
        outcome = store.swap(absent(name), a_claim(store, absent(name)), 0.5)
        assert isinstance(outcome, Unknown) and outcome.void
        until(lambda: isinstance(store.swap(absent(name), a_claim(store, absent(name)), TIMEOUT), Applied))


def test_a_plugin_that_hangs_at_first_keeps_nobody_waiting_either(
    kubernetes: KubernetesServer, namespace: str, tmp_path: Path, hands: Hands
) -> None:
    """Connecting goes on, and who comes later has what the plugin brings at last."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    plugin = plugin_of(
        tmp_path / "plugin.py", f"open({str(gate)!r}).read()\nstatus = {{'token': {kubernetes.admin!r}}}\n"
    )
    kubeconfig = kubernetes.kubeconfig(f"hanging-plugin-{hands.colour}", {"exec": plugin})
    lock = Lock("job", store=kubernetes.url_of(namespace, kubeconfig))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="connecting to the store took all"):
            hands.hand()("acquire", lock, 0.2)
    gate.write_text("")  # Which waits for the plugin to read it.
    try:
        hands.hand()("acquire", lock, TIMEOUT).release()
    finally:
        lock._connect().close()  # Of a lock by URL it is kept to the end of the process.


# Configuration: whatever cannot work is said by `connect`.


def bad_configurations(kubernetes: KubernetesServer, folder: Path) -> Iterator[tuple[str, str, str]]:
    """A URL that cannot work, and words of what is said about it."""
    good = kubernetes.folder / "admin.kubeconfig"
    file = folder / "broken"
    file.write_text("{unclosed: [")
    yield f"kubernetes://ns?kubeconfig={folder}/nowhere", "there is no kubeconfig", "kubeconfig=FILE"
    yield f"kubernetes://ns?kubeconfig={file}", "cannot be read", "kubeconfig=FILE"
    yield f"kubernetes://ns?kubeconfig={good}&context=nobody", "nobody", "context=NAME"
    yield f"kubernetes://ns?kubeconfig={good}&server=https://elsewhere", kubernetes.address, "context=NAME"
    yield f"kubernetes://ns?kubeconfig={good}&foreign_wait=0.5", "foreign_wait", "from 1 to 100"
    yield f"kubernetes://n_s?kubeconfig={good}", "n_s", "kubernetes://NAMESPACE"
    yield f"kubernetes://ns/folder?kubeconfig={good}", "nothing but a namespace", "kubernetes://NAMESPACE"
    yield f"kubernetes://ns:443?kubeconfig={good}", "nothing but a namespace", "kubernetes://NAMESPACE"
    yield f"kubernetes://ns?kubeconfig={good}&resource=configmaps", "resource", "kubeconfig"
    cases: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
        "insecure": ({"token": "t"}, {"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify"),
        "nobody": ({}, {}, "no credentials"),
        "no-file": ({"tokenFile": f"{folder}/none"}, {}, "No such file"),
        "no-ca": ({"token": "t"}, {"certificate-authority": f"{folder}/none"}, "File does not exist"),
        "bad-ca": ({"token": "t"}, {"certificate-authority": str(file)}, "certificate or key"),
        "bad-key": ({"client-certificate": str(file), "client-key": str(file)}, {}, "certificate or key"),
        "ftp": ({"token": "t"}, {"server": "ftp://x"}, "https"),
        "spaces": ({"token": "sec\nret"}, {}, "characters"),
        "failing": ({"exec": {"apiVersion": "v1", "command": "/bin/false"}}, {}, "no credentials"),
    }
    for name, (user, cluster, said) in cases.items():
        kubeconfig = kubernetes.kubeconfig(f"bad-{name}", user, cluster=cluster)
        yield (
            f"kubernetes://ns?kubeconfig={kubeconfig}",
            said,
            "certificate-authority" if name == "insecure" else "kubeconfig=FILE",
        )


def test_what_cannot_work_is_said_when_connecting(
    kubernetes: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every error says what is wrong and ends in the next step; none shows a credential."""
    monkeypatch.setattr(logging, "error", lambda *_: None)  # the official package logs by it
    for url, said, step in bad_configurations(kubernetes, tmp_path):
        with pytest.raises(ConfigurationError) as error:
            backend.connect(url)
        told = str(error.value)
        assert said in told and step in told and "sec" not in told.replace("insecure", ""), (url, told)
        assert kubernetes.admin not in told


def test_the_kubeconfig_of_the_environment_is_the_default(
    kubernetes: KubernetesServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`$KUBECONFIG`, its current context, and the namespace of that context."""
    kubeconfig = kubernetes.folder / "admin.kubeconfig"
    whole = json.loads(kubeconfig.read_text())
    whole["contexts"][0]["context"]["namespace"] = namespace
    mine = kubernetes.folder / "mine.kubeconfig"
    mine.write_text(json.dumps(whole))
    monkeypatch.setenv("KUBECONFIG", str(mine))
    with closing(backend.connect("kubernetes://")) as store, closing(backend.connect(store.identity)) as same:
        assert store.identity == f"kubernetes://{namespace}?server={kubernetes.address}" == same.identity
        assert put(store, store.read("job", TIMEOUT)) == same.read("job", TIMEOUT)
    with closing(backend.connect("kubernetes://default")) as other:
        assert other.identity.startswith("kubernetes://default?")


# Permissions.


@pytest.mark.parametrize("missing", VERBS)
def test_a_verb_that_is_missing_is_named(
    kubernetes: KubernetesServer, namespace: str, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the call that needs it, or by a warning where locks work without; and by an examination."""
    user = f"without-{missing}"
    url = kubernetes.url_of(namespace, kubernetes.user(user))
    kubernetes.grant(namespace, user, [verb for verb in VERBS if verb != missing])
    with (
        closing(backend.connect(url)) as store,
        closing(backend.connect(admins(kubernetes, namespace))) as admin,
    ):
        there = put(admin, absent("there"))
        match missing:
            case "get":
                assert store.read("there", TIMEOUT) == there  # the first look is a list
                told = refused(lambda: store.read("there", TIMEOUT))
            case "list":
                told = refused(lambda: store.read("there", TIMEOUT))
            case "create":
                told = refused(lambda: store.swap(absent("new"), a_claim(store, absent("new")), TIMEOUT))
            case "update":
                told = refused(lambda: store.swap(there, a_claim(store, there), TIMEOUT))
            case _:
                with closing(store.watch(there, Hints())):
                    until(lambda: caplog.messages)
                told = caplog.messages[0]
        assert f"{missing!r} is missing" in told and f'verbs: ["{missing}"]' in told and namespace in told
        lacking = [found.subject for found in store.examine(TIMEOUT) if found.advice]
        assert lacking == [f"permission to {missing}"]


def test_an_examination_finds_nothing_wrong_where_nothing_is(
    kubernetes: KubernetesServer, namespace: str
) -> None:
    """With the five verbs and nothing else: version, clock, health, and each permission."""
    kubernetes.grant(namespace, "plain", VERBS)
    with closing(backend.connect(kubernetes.url_of(namespace, kubernetes.user("plain")))) as store:
        found = {finding.subject: finding for finding in store.examine(TIMEOUT)}
    assert all(finding.verdict is Verdict.GOOD for finding in found.values()), found
    assert kubernetes.version in found["version"].text
    assert {f"permission to {verb}" for verb in VERBS} <= found.keys() >= {"clock", "health", "leases"}


def test_a_role_may_name_its_locks(
    kubernetes: KubernetesServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Then each of them is watched alone, and an examination says which they are."""
    user = "named"
    kubernetes.grant(namespace, user, VERBS, names=["one", "two"])
    with (
        closing(backend.connect(kubernetes.url_of(namespace, kubernetes.user(user)))) as store,
        closing(backend.connect(admins(kubernetes, namespace))) as admin,
    ):
        slots = [put(store, store.read(name, TIMEOUT)) for name in ("one", "two")]
        hints = [Hints(), Hints()]
        watches = [store.watch(slot, hint) for slot, hint in zip(slots, hints, strict=True)]
        for slot, hint in zip(slots, hints, strict=True):
            hint.expect(put(admin, slot))
        for watch in watches:
            watch.close()
        assert "'list' is missing" in refused(lambda: store.read("three", TIMEOUT))
        texts = [found.text for found in store.examine(TIMEOUT) if found.verdict is Verdict.DOUBTFUL]
        assert len(texts) == len(VERBS) - 1 and all("one, two" in text for text in texts)
    assert caplog.messages == []


def test_a_namespace_that_is_not_there_is_said(kubernetes: KubernetesServer, name: str) -> None:
    """By the first write; and one that is being removed takes no new locks."""
    admin = kubernetes.folder / "admin.kubeconfig"
    with closing(backend.connect(kubernetes.url_of("nowhere", admin))) as store:
        told = refused(lambda: store.swap(absent(name), a_claim(store, absent(name)), TIMEOUT))
        assert "no namespace 'nowhere'" in told
    kubernetes.namespace("leaving")
    kubernetes.request("DELETE", "/api/v1/namespaces/leaving")
    with closing(backend.connect(kubernetes.url_of("leaving", admin))) as store:
        told = refused(lambda: store.swap(absent(name), a_claim(store, absent(name)), TIMEOUT))
        assert "being terminated" in told and "missing" not in told


def test_a_removal_needs_a_verb_of_its_own(kubernetes: KubernetesServer, namespace: str, name: str) -> None:
    """`delete`, which nobody else needs; and it removes nothing but the version that was seen."""
    kubernetes.grant(namespace, "remover", VERBS)
    url = kubernetes.url_of(namespace, kubernetes.user("remover"))
    with closing(backend.connect(url)) as store:
        slot = put(store, absent(name))
        assert "'delete' is missing" in refused(lambda: store.remove(slot, TIMEOUT))
        kubernetes.grant(namespace, "remover", [*VERBS, "delete"])
        renewed = put(store, slot)
        assert not isinstance(store.remove(slot, TIMEOUT), Applied)
        assert applied(store.remove(renewed, TIMEOUT)).version is None
        assert store.read(name, TIMEOUT).version is None
        assert store.read(name, TIMEOUT).floor > renewed.floor


# Helpers.


def admins(kubernetes: KubernetesServer, namespace: str) -> str:
    """A URL of somebody who may do everything."""
    return kubernetes.url_of(namespace, kubernetes.folder / "admin.kubeconfig")


def until(true: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait until a function says something true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def is_void(kubernetes: KubernetesServer, token: str) -> bool:
    """Whether the API server does not take a token any more."""
    context = ssl.create_default_context(cafile=str(kubernetes.authority.ca))
    request = urllib.request.Request(
        f"{kubernetes.address}/api", headers={"Authorization": f"Bearer {token}"}
    )
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
    )
    try:
        opener.open(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    return False
