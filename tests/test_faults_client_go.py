"""client-go has two leaders at once where electors of ours never have, see `test_faults_leaders.py`.

Should one of these fail because nobody overlapped, client-go has become better, and what our pages say of it
is to be mended.
"""

from __future__ import annotations

import json
import ssl
import time
import urllib.request
from collections.abc import Iterator

import pytest

from servers.kubernetes import KubernetesServer
from servers.proxy import BOTH, Proxy, Way
from test_kubernetes_client_go import Ring, until
from test_kubernetes_client_go import kubernetes as kubernetes
from test_kubernetes_client_go import ring as ring

LATE_SECONDS = 1.5  # of the 2 s that its RenewDeadline is here
TRIES = 5  # On a busy machine the first may stop before it is cut off.


@pytest.fixture
def link(kubernetes: KubernetesServer) -> Iterator[Proxy]:
    """Between the first elector and the API server."""
    with Proxy(kubernetes.nodes[-1].ports["https"]) as proxy:
        yield proxy


def far(ring: Ring, link: Proxy, *options: str) -> None:
    """An elector of client-go behind the link, which leads; and a rival that waits."""
    ring.close()  # those of an earlier try
    link.cut()
    link.heal()
    address = {"server": f"https://{link.at}"}
    kubeconfig = ring.server.kubeconfig(f"far-{ring.name}", {"token": ring.server.admin}, cluster=address)
    before = len(ring.told("start"))
    ring.theirs(*options, kubeconfig=kubeconfig)
    until(lambda: len(ring.told("start")) > before)
    ring.theirs("--retry=100ms")  # so that it sees in time both that the other renews and that it does not


def renewed(ring: Ring) -> str:
    """When the Lease was renewed last, as the API server shows it."""
    context = ssl.create_default_context(cafile=str(ring.server.authority.ca))
    url = f"{ring.server.address}/apis/coordination.k8s.io/v1/namespaces/default/leases/{ring.name}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {ring.server.admin}"})
    handlers = urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
    with urllib.request.build_opener(*handlers).open(request, timeout=10.0) as response:
        return str(json.load(response)["spec"]["renewTime"])


def two_led(ring: Ring) -> bool:
    """Whether both were at work at once, some time after the link was cut."""
    end = time.monotonic() + 10.0
    while not ring.told("overlap") and time.monotonic() < end:
        time.sleep(0.01)
    return bool(ring.told("overlap"))


def slow_reply_then_partition(ring: Ring, link: Proxy) -> bool:
    """Whether two led after a renewal was answered late, and then nothing more."""
    far(ring, link)
    link.delay(LATE_SECONDS, Way.BACK)
    for _ in range(2):
        before = renewed(ring)
        until(lambda before=before: renewed(ring) != before)  # type: ignore[misc]
    time.sleep(LATE_SECONDS + 0.1)
    link.silence(*BOTH)
    return two_led(ring)


def partition_with_release(ring: Ring, link: Proxy) -> bool:
    """Whether two led after the link broke, where the first was to release when it stops."""
    far(ring, link, "--release")
    link.silence(*BOTH)
    return two_led(ring)


def test_client_go_has_two_leaders_after_a_slow_reply_and_a_partition(ring: Ring, link: Proxy) -> None:
    """It counts its RenewDeadline from the last answer, and its rival the lease from the last renewal."""
    assert any(slow_reply_then_partition(ring, link) for _ in range(TRIES))


def test_client_go_has_two_leaders_while_its_release_hangs(ring: Ring, link: Proxy) -> None:
    """With ReleaseOnCancel it releases before its work has stopped, and where nobody answers it waits."""
    assert any(partition_with_release(ring, link) for _ in range(TRIES))
