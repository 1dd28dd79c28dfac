"""What is of the wrong type is refused where it is given, by its name, with what to pass instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leases import ConfigurationError, Lock, Terms
from stubborn import fresh_url, store_on

# As from a program that no type checker has seen.
lock: Any = Lock
terms: Any = Terms

REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda _: lock("job", metadata="abc"), "metadata='abc' .*; pass a dict"),
    (lambda _: lock("job", metadata=[]), r"metadata=\[\] .*; pass a dict"),
    (lambda _: lock("job", metadata=0), "metadata=0 .*; pass a dict"),
    (lambda _: lock("job", fences=5), "fences=5 is not a sequence; pass a list of fences"),
    (lambda _: lock("job", fences=["x"]), "'x' among the fences has no seal"),
    (lambda _: lock("job", terms=15), "terms=15 are none; pass Terms"),
    (lambda _: lock("job", ttl="15"), "ttl='15' is not between"),
    (lambda _: lock("job", ttl="15", terms=Terms(15)), "ttl='15' is not between"),
    (lambda _: lock("job", timeout="1"), "timeout='1' is not a number of seconds"),
    (lambda _: lock("job", store=5), "store=5 is neither a URL nor a connected store"),
    (lambda _: lock("job", on_lost=5), "on_lost=5 is neither"),
    (lambda _: lock("job", holder=5), "a holder is text, not int"),
    (lambda _: lock(5), "a lock name is text, not int"),
    (lambda _: terms("15"), "ttl='15' is not between"),
    (lambda _: terms(5, hold="3"), "hold='3' is not a number; pass one"),
    (lambda _: terms(5, renew=True), "renew=True is not a number"),
    (lambda _: terms(5, attempt=[1]), r"attempt=\[1\] is not a number"),
    (lambda _: terms(5, rate="0"), "rate='0' is not a number"),
    (lambda _: terms(5, rate=None), "rate=None is not a number"),
    (lambda _: terms(5, guard="0"), "guard='0' is not a number"),
    (lambda store: store.lock("job").acquire("1"), "timeout='1' is not a number of seconds"),
    (lambda store: store.status("job", timeout="1"), "timeout='1' is not a number of seconds"),
    (lambda store: store.status(5), "a lock name is text, not int"),
    (lambda store: store.list(5), "a prefix is text, not int"),
    (lambda store: store.list(timeout=0), "timeout=0 is not a positive number of seconds"),
    (lambda store: store.prune(5), "a prefix is text, not int"),
    # These give generators, and check before those are asked for anything.
    (lambda store: store.scan(5), "a prefix is text, not int"),
    (lambda store: store.scan(timeout=0), "timeout=0 is not a positive number of seconds"),
    (lambda store: store.watch(""), "a lock name is 1 to 256 bytes"),
    (lambda store: store.watch("job", poll=-1), "poll=-1 is not a number of seconds"),
    (lambda store: store.watch("job", poll=0), "poll=0 is not a positive number of seconds"),
    (lambda store: store.watch("job", poll="5"), "poll='5' is not a number of seconds"),
]


@pytest.mark.parametrize(("use", "what"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_wrong_type_is_refused_at_once(use: Callable[[Any], Any], what: str) -> None:
    """No raw TypeError or AttributeError from somewhere within, and nothing later."""
    with store_on() as store, pytest.raises(ConfigurationError, match=what):
        use(store)


def test_closed_store_is_told_at_once() -> None:
    """A look at a store that was closed fails where it is asked for."""
    store = store_on()
    store.close()
    with pytest.raises(ConnectionError, match="was closed"):
        store.watch("job")
    with pytest.raises(ConnectionError, match="was closed"):
        store.scan()


def test_what_is_right_is_taken() -> None:
    """Whatever maps text to text, and whatever can be sealed."""

    class Fence:
        def seal(self, lease: object) -> None: ...

    lock("job", store=fresh_url(), metadata={}, fences=(fence for fence in [Fence()]), terms=Terms(5, hold=3))
