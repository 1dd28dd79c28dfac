"""A connection is there within its time limit, or not at all, whatever looking up the name costs."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import pytest

from leases.contract import Backend, Unknown, absent
from leases.errors import StoreUnavailable
from leases.registry import open_backend
from leases.testing._probes import a_claim
from leases_backends import _tcp

NAME: Final = "store.test"
LIMIT: Final = 0.4
_resolve = socket.getaddrinfo


class Names:
    """What looking up `NAME` gives: these addresses, as often as they are, once the gate is open."""

    def __init__(self, *hosts: str) -> None:
        self.hosts, self.gate, self.lookups = hosts, threading.Event(), 0
        self.gate.set()

    def __call__(self, host: str, port: int, *args: Any, **named: Any) -> Any:
        if host != NAME or named.get("flags"):  # which ask whether it is an address
            return _resolve(host, port, *args, **named)
        self.lookups += 1
        self.gate.wait(10.0)
        return [found for one in self.hosts for found in _resolve(one, port, *args, **named)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """A name server of the test's own."""
    names = Names("127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.gate.set()
    while (one := next((t for t in threading.enumerate() if t.name == "leases-lookup"), None)) is not None:
        one.join(5.0)


@pytest.fixture
def silent() -> Iterator[int]:
    """A port of 127.0.0.2 that answers nobody, because too many stand in line there."""
    with ExitStack() as sockets:
        server = sockets.enter_context(socket.socket())
        try:
            server.bind(("127.0.0.2", 0))
        except OSError:
            pytest.skip("this system has no second address on loopback")
        server.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def consul(port: int, folder: Path) -> str:
    return f"consul://{NAME}:{port}"


def kubernetes(port: int, folder: Path) -> str:
    file = folder / "kubeconfig"
    file.write_text(
        "{apiVersion: v1, kind: Config, current-context: c,"
        " contexts: [{name: c, context: {cluster: k, user: u}}],"
        f' clusters: [{{name: k, cluster: {{server: "http://{NAME}:{port}"}}}}],'
        " users: [{name: u, user: {token: abc}}]}"
    )
    return f"kubernetes://default?kubeconfig={file}"


@pytest.fixture(params=[consul, kubernetes])
def backend(request: pytest.FixtureRequest, names: Names, silent: int, tmp_path: Path) -> Iterator[Backend]:
    """A backend whose server has that name and that port."""
    with closing(open_backend(request.param(silent, tmp_path))) as opened:
        yield opened


def test_a_name_that_nobody_resolves_costs_no_more_than_was_allowed(backend: Backend, names: Names) -> None:
    """A swap is void after its timeout, as nothing was sent."""
    names.gate.clear()
    began = time.monotonic()
    outcome = backend.swap(absent("x"), a_claim(backend, absent("x")), LIMIT)
    assert isinstance(outcome, Unknown) and outcome.void
    assert time.monotonic() - began < 5.0


def test_all_addresses_together_cost_no_more_than_was_allowed(backend: Backend, names: Names) -> None:
    """Twenty that are silent take as long as one."""
    names.hosts = ("127.0.0.2",) * 20
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        backend.read("x", LIMIT)
    assert time.monotonic() - began < 10 * LIMIT


def test_a_silent_address_leaves_time_for_the_next(names: Names, silent: int) -> None:
    """The last of four has a quarter of the time."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", silent))
        server.listen()
        with _tcp.connected(NAME, silent, 4 * LIMIT) as connection:
            assert connection.getpeername() == ("127.0.0.1", silent)


def test_a_name_is_looked_up_once_for_all(names: Names) -> None:
    """Who asks in the meantime waits for the same answer, so that threads do not pile up."""
    names.gate.clear()
    for _ in range(5):
        with pytest.raises(TimeoutError):
            _tcp.connected(NAME, 9, 0.01)
    assert names.lookups == 1


def test_a_name_that_no_host_can_have_is_an_error_of_the_network() -> None:
    """Python has another kind of error for it."""
    with pytest.raises(socket.gaierror):
        _tcp.connected(f"a..{'b' * 70}", 9, 1.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_looks_up_by_itself(names: Names) -> None:
    """The thread that did is the parent's."""
    names.gate.clear()
    with pytest.raises(TimeoutError):
        _tcp.connected(NAME, 9, 0.01)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if not _tcp._lookups else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
