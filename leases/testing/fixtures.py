"""Fixtures for tests of code that uses `leases`: in a conftest.py,

    pytest_plugins = ["leases.testing.fixtures"]

====================  =====================================================================================
``lease_sandbox``     a store of the test's own, in memory, on a clock that is moved by hand: see
                      `leases.testing.sandbox.Sandbox`. While the test runs, code that names no store uses it
``lease_store``       its store, as `leases.connect` returns one
``lease_clock``       its clock: ``advance(seconds)`` does what is due meanwhile, such as renewals, at once
``lose_lease``        ``lose_lease(lease_or_name, reason="expired")`` forces a loss
``endanger_lease``    ``endanger_lease(lease_or_name)`` forces jeopardy, until ``lease_sandbox.heal()``
====================  =====================================================================================

Without pytest, `leases.testing.sandbox` has the same as a context manager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from leases.testing.sandbox import Sandbox, sandbox

if TYPE_CHECKING:
    from leases.store import Store
    from leases.testing.steering import Steered


@pytest.fixture
def lease_sandbox() -> Iterator[Sandbox]:
    """A store of the test's own on a clock that is moved by hand, which code that names no store uses."""
    with sandbox() as box:
        yield box


@pytest.fixture
def lease_store(lease_sandbox: Sandbox) -> Store:
    """The sandbox's store."""
    return lease_sandbox.store


@pytest.fixture
def lease_clock(lease_sandbox: Sandbox) -> Steered:
    """The sandbox's clock; `advance` does what is due."""
    return lease_sandbox.clock


@pytest.fixture
def lose_lease(lease_sandbox: Sandbox) -> Callable[..., None]:
    """Force a loss: `Sandbox.lose`."""
    return lease_sandbox.lose


@pytest.fixture
def endanger_lease(lease_sandbox: Sandbox) -> Callable[..., None]:
    """Force jeopardy: `Sandbox.endanger`."""
    return lease_sandbox.endanger
