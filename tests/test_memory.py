"""The memory store where it is more than its rules: its URLs, and what a fork makes of it."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from leases.contract import absent
from leases.errors import ConfigurationError
from leases.testing._probes import TIMEOUT, in_child, put
from leases.testing.cells import Kind
from leases_backends.memory import connect


def test_equal_urls_are_one_store() -> None:
    """In one process; another path, or other rules, is another store."""
    with closing(connect("memory:one")) as store, closing(connect("memory:one")) as same:
        slot = put(store, store.read("x", TIMEOUT))
        assert same.read("x", TIMEOUT) == slot and same.identity == store.identity
        for url in ("memory:", "memory:two", "memory:one?kind=consul"):
            assert connect(url).read("x", TIMEOUT).claim is None


@pytest.mark.parametrize("kind", Kind)
def test_a_store_promises_what_its_rules_hold(kind: Kind) -> None:
    """The rules of another store come with its traits; only the plain one compares instants of this host."""
    traits = connect(f"memory:?kind={kind.value}").traits
    rules = kind.rules.traits
    assert (traits.release_deletes, traits.token_from_write) == (
        rules.release_deletes,
        rules.token_from_write,
    )
    assert (traits.ordered, traits.local, traits.least_ttl) == (rules.ordered, rules.local, rules.least_ttl)
    assert connect("memory:").traits.local


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("memory:?kind=redis", "known: memory, sqlite, etcd"),
        ("memory:?size=3", "known here: kind"),
        ("memory:?kind=", "'kind' has no value"),
        ("memory:?kind=etcd&kind=consul", "'kind' is given twice"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, advice: str) -> None:
    """With what would work."""
    with pytest.raises(ConfigurationError) as refused:
        connect(url)
    assert advice in str(refused.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_in_the_midst_of_a_call_does_not_block_the_child() -> None:
    """Another thread of the parent was in the store, and will never leave it in the child."""
    store = connect("memory:fork")
    slot = put(store, absent("x"))

    def child() -> None:
        assert put(store, slot).held and connect("memory:fork").read("x", TIMEOUT).version != slot.version

    with store._store.mutex:
        assert in_child(child) == 0
    assert store.read("x", TIMEOUT) == slot
