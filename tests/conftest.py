"""What every test shares: how hypothesis searches, and hands of both colours."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

import stores
from hands import Hands, Tasks, Threads
from lab.places import place as place
from leases_command import shop as shop
from servers.fixtures import consul as consul
from servers.fixtures import etcd as etcd
from servers.fixtures import kubernetes as kubernetes
from servers.fixtures import postgres as postgres
from servers.fixtures import zookeeper as zookeeper
from stores import site as site

# Who starts the tests in the background, or under nohup, has some signals ignored, and every process of ours
# would inherit that: the tests are about what happens when they come.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        is_ctrl_c = _number is signal.SIGINT
        signal.signal(_number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)

_HEARD = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGCHLD, signal.SIGCONT, signal.SIGTSTP, signal.SIGTTOU, signal.SIGWINCH,
)  # fmt: skip

# A deadline per example would judge the machine, and a machine that is shared is often slow.
settings.register_profile("here", deadline=None)
# In CI the same examples every time: whoever changed nothing must not be the one to find the old fault.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command that runs in the process of the tests hears of signals until the end of its process."""
    before = {number: signal.getsignal(number) for number in _HEARD}
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    signal.set_wakeup_fd(descriptor)


@pytest.fixture(params=[Threads, Tasks], ids=["threads", "asyncio"])
def hands(request: pytest.FixtureRequest) -> Iterator[Hands]:
    """Hands of one colour, then of the other."""
    made: Hands = request.param()
    yield made
    made.close()


def pytest_configure(config: pytest.Config) -> None:
    """Every kind of store has a mark of its own."""
    for kind in (*stores.STORES, *stores.FAKES):
        config.addinivalue_line("markers", f"{kind.mark}: runs on this kind of store")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m etcd` is every test that needs an etcd."""
    stores.mark(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup` one process runs all tests on a kind of server, which is started once.

    xdist's own groups go by a suffix of the id, which pytest 9.2 does not show any more.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped] # It has none.

    class ByServer(LoadScopeScheduling):  # type: ignore[misc] # of a module without types
        def _split_scope(self, nodeid: str) -> str:
            return stores.server_of(nodeid) or nodeid

    return ByServer(config, log)
