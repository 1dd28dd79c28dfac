"""The stores that a test can be run on, and a place of the test's own in one of them.

    @every_store                      # in memory, in a file, and on every real server
    def test_something(site: Site) -> None:
        store = site.store()

    @every_shared_store               # the same without memory: where other processes reach the records
    def test_of_processes(site: Site) -> None:
        run("--backend", site.url)

A test that takes `site` without either runs in memory alone. `LEASES_STORES=etcd,sqlite` picks among the
stores, and so does `pytest -m etcd`; `LEASES_STORES=fake-etcd` is memory by the rules of etcd. A server is
started for the first test that needs it and serves all of them; where it cannot be had, its fixture skips, or
fails where `CI` is set.

Another store is one more line in `STORES`.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import pytest

from leases import hub
from leases.clock import Clock, system_clock
from leases.contract import Backend
from leases.record import Claim
from leases.registry import open_backend
from leases.store import Store
from servers.process import Node, frozen
from stubborn import Stubborn, fresh_url

VARIABLE: Final = "LEASES_STORES"

_count = itertools.count()
_run: Final = secrets.token_hex(3)  # a server named by the environment keeps what an earlier run has left


@dataclass(frozen=True)
class Kind:
    """One kind of store.

    Attributes:
        name: what selects it: a parameter of tests, a mark, a word of `LEASES_STORES`; the fixture of its
            server, if it has one.
        fresh: a URL that no other test has; it may ask for the fixture of a server.
        short: a ttl in seconds for what has to happen in real time.
        shared: other processes reach the same records.
        served: by a server.
        guards: it writes keys beside its locks, by their records.
    """

    name: str
    fresh: Callable[[pytest.FixtureRequest], str]
    short: float
    shared: bool = True
    served: bool = True
    guards: bool = True

    @property
    def mark(self) -> str:
        """Its name as pytest's `-m` can spell it."""
        return self.name.replace("-", "_")


class Site:
    """A place of a test's own in one store; whatever the test opens by it is closed at its end.

    Attributes:
        kind: the kind of store.
        url: the place.
        short: a ttl in seconds for what has to happen in real time.
    """

    def __init__(self, kind: Kind, url: str, server: Any = None) -> None:
        self.kind, self.url, self.short = kind, url, kind.short
        self._server = server
        self._backends: list[Backend] = []
        self._stores: list[Store] = []

    def backend(self) -> Backend:
        """One more connection, as another process would have it."""
        backend = open_backend(self.url)
        if not self.kind.shared:  # In memory a test may be in a hurry.
            backend.traits = replace(backend.traits, least_ttl=0.1)
        self._backends.append(backend)
        return backend

    def stubborn(self) -> Stubborn:
        """One more connection, behind switches."""
        return Stubborn(inner=self.backend())

    def store(self, backend: Backend | None = None, *, clock: Clock = system_clock) -> Store:
        """A connected store that shares no queue with any other, as in another process."""
        store = Store(hub.Hub(backend if backend is not None else self.backend(), self.url, clock=clock))
        self._stores.append(store)
        return store

    def another(self, store: Store) -> Store:
        """The same place as another process of the same host sees it."""
        return self.store(clock=store._hub.clock)

    @contextmanager
    def frozen(self) -> Generator[None]:
        """The server stands still, and its connections are open and silent."""
        nodes: Sequence[Node] = getattr(self._server, "nodes", ())
        if not nodes:
            pytest.skip("this server is no process of ours, and cannot be stopped")
        with frozen(nodes):
            yield

    def close(self) -> None:
        """Close whatever was opened here, by its URL too."""
        by_url = hub._by_url.get(self.url)
        for connected in [store._hub for store in self._stores] + ([by_url] if by_url else []):
            connected.close()
        for backend in self._backends:
            backend.close()


def _in_memory(rules: str = "memory") -> Callable[[pytest.FixtureRequest], str]:
    return lambda request: fresh_url(rules)


def _in_a_file(request: pytest.FixtureRequest) -> str:
    return f"sqlite://{request.getfixturevalue('tmp_path')}/leases.db"


def _on_a_server(name: str) -> Callable[[pytest.FixtureRequest], str]:
    def fresh(request: pytest.FixtureRequest) -> str:
        parts = urlsplit(str(request.getfixturevalue(name).url))
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/tests-{_run}-{next(_count)}"))

    return fresh


def _in_a_namespace(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("kubernetes").namespace(f"tests-{_run}-{next(_count)}"))


STORES: Final = (
    Kind("memory", _in_memory(), 0.4, shared=False, served=False),
    Kind("sqlite", _in_a_file, 1.0, served=False),
    Kind("etcd", _on_a_server("etcd"), 1.5),
    Kind("zookeeper", _on_a_server("zookeeper"), 1.5),
    Kind("consul", _on_a_server("consul"), 1.5),
    Kind("kubernetes", _in_a_namespace, 1.5, guards=False),
)


SHARED: Final = tuple(kind for kind in STORES if kind.shared)
# They run where they are asked for by name: what they stand in for runs the same tests.
FAKES: Final = tuple(
    Kind(f"fake-{kind.name}", _in_memory(kind.name), 0.4, shared=False, served=False) for kind in SHARED
)


def _wanted(kinds: Sequence[Kind]) -> list[Kind]:
    """Those of the kinds that were asked for."""
    words = set(filter(None, os.environ.get(VARIABLE, "").split(",")))
    unknown = words - {kind.name for kind in (*STORES, *FAKES)}
    if unknown:
        known = ", ".join(kind.name for kind in (*STORES, *FAKES))
        raise pytest.UsageError(f"{VARIABLE} names {', '.join(sorted(unknown))}; the stores are {known}")
    asked = [kind for kind in kinds if not words or kind.name in words]
    return asked + [kind for kind in FAKES if kind.name in words and kinds is STORES]


def _every(kinds: Sequence[Kind]) -> pytest.MarkDecorator:
    params = [
        pytest.param(kind, id=kind.name, marks=getattr(pytest.mark, kind.mark)) for kind in _wanted(kinds)
    ]
    return pytest.mark.parametrize("site", params, indirect=True)


every_store: Final = _every(STORES)
every_shared_store: Final = _every(SHARED)
every_guarding_store: Final = _every(tuple(kind for kind in STORES if kind.guards))


def _shown(value: object) -> str:
    return ("+".join(map(str, value)) or "plain") if isinstance(value, tuple) else str(value)


def _once(kinds: Sequence[Kind]) -> Callable[[str, Sequence[object]], pytest.MarkDecorator]:
    def every(name: str, values: Sequence[object]) -> pytest.MarkDecorator:
        params = [
            pytest.param(
                kind, value, id=f"{kind.name}-{_shown(value)}", marks=getattr(pytest.mark, kind.mark)
            )
            for kind in _wanted(kinds)
            for value in (values if kind is kinds[0] else values[:1])
        ]
        return pytest.mark.parametrize(("site", name), params, indirect=["site"])

    return every


# The same for a test with another parameter: all its values on the first store, the first value on each.
every_shared_store_once: Final = _once(SHARED)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A place in the store that the test was marked for; in memory where it was marked for none."""
    kind: Kind = getattr(request, "param", STORES[0])
    made = Site(kind, kind.fresh(request), request.getfixturevalue(kind.name) if kind.served else None)
    yield made
    made.close()


def sent(claim: Claim) -> float:
    """When a process of this host sent a record, on the holder's clock.

    Where the record does not say it, the wall time tells that was read together with that clock.
    """
    if claim.sent is not None:
        return claim.sent
    now = system_clock()
    return now.hold - (now.wall - claim.renewed)


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark every test that asks for a server, and every test in a file about one, by the server's name."""
    names = {kind.name for kind in STORES}
    for item in items:
        asked = set(getattr(item, "fixturenames", ())) | set(item.path.stem.split("_"))
        for name in names & asked:
            item.add_marker(name)


def server_of(test: str) -> str | None:
    """The kind of server that a test runs on, as far as its id tells."""
    words = re.split(r"[^a-z]+", test)
    return next((kind.name for kind in STORES if kind.served and kind.name in words), None)
