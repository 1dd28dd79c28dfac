"""What `leader_only` can decorate, and with what options."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
from collections.abc import Iterator
from typing import Any, assert_type

import pytest

from callers import Colour, led_by
from callers import colour_ as colour_
from callers import plain_ as plain_
from callers import store_ as store_
from hands import PATIENCE
from leases import ConfigurationError, NotLeader, Store, connect, leader_only
from stubborn import fresh_url

# ---- several functions -------------------------------------------------------------------------------


def test_functions_of_one_name_share_the_lead(colour: Colour, store: Store) -> None:
    """One elector for both, and one lease."""
    one = colour.make(lambda: one.lease().token, store=store)
    two = colour.make(lambda: two.lease().token, store=store, otherwise="raise")
    assert one.elector is two.elector
    assert colour.call(one) == colour.call(two)


def test_functions_of_two_names_lead_apart(plain: Colour, store: Store) -> None:
    """A process may lead the one and not the other."""
    one, two = plain.make(store=store), plain.make(name="other", store=store)
    with led_by(store):
        assert (one(), two()) == (None, "ran")


def test_different_options_for_one_name_are_refused(plain: Colour, store: Store) -> None:
    """Which of the two would it be?"""
    plain.make(store=store, ttl=5)
    with pytest.raises(ConfigurationError, match="ttl=5, this one with ttl=6; give them the same"):
        plain.make(store=store, ttl=6)


def test_one_store_named_in_two_ways_is_refused(plain: Colour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates of one process: one of them would never lead, in silence."""
    url = fresh_url()
    monkeypatch.setenv("LEASES_URL", url)
    with connect(url) as connected:
        functions = [plain.make(), plain.make(store=url), plain.make(store=connected)]
        for one, two in itertools.permutations(functions, 2):
            assert one() == "ran"
            with pytest.raises(ConfigurationError, match="name it alike in both"):
                two()
            assert one.resign(PATIENCE)


def test_a_name_is_free_again_when_its_functions_have_gone(plain: Colour, store: Store) -> None:
    """Options are compared with functions that are there."""
    plain.make(store=store, ttl=5)
    plain.made.clear()
    gc.collect()
    plain.make(store=store, ttl=6)


# ---- what is decorated -------------------------------------------------------------------------------


def test_it_looks_like_the_function(colour: Colour, store: Store) -> None:
    """Name, module and colour are those of the function, for schedulers that look at them."""
    led = colour.make(store=store)
    assert led.__name__ == ("coroutine_function" if colour.awaits else "function")
    assert led.__module__ == Colour.__module__
    assert inspect.iscoroutinefunction(led) is colour.awaits
    assert repr(led.is_leader) == '<does not lead "job">'
    assert inspect.isfunction(led)


def test_lease_outside_of_a_call(plain: Colour, store: Store) -> None:
    """The one under which this process leads, or NotLeader."""
    led = plain.make(store=store)
    with pytest.raises(NotLeader):
        led.lease()
    led()
    assert led.lease().held
    assert led.resign(PATIENCE)
    with pytest.raises(NotLeader) as raised:
        led.lease()
    assert raised.value.holder is None  # And not this very process, which led before.


def test_type_checkers_see_what_a_call_returns(plain: Colour, store: Store) -> None:
    """What is skipped returns the default, what waits or raises does not; arguments stay as they are."""

    @leader_only("job", store=store)
    def skips(number: int) -> str:
        return str(number)

    @leader_only("job", store=store, default=0)
    def replaces(number: int) -> str:
        return str(number)

    @leader_only("job", store=store, otherwise="wait", timeout=PATIENCE)
    async def waits(number: int) -> str:
        return str(number)

    assert assert_type(skips(1), str | None) == "1"
    assert assert_type(replaces(2), str | int) == "2"
    assert assert_type(asyncio.run(waits(3)), str) == "3"
    assert skips.resign(PATIENCE)


def test_methods(store: Store) -> None:
    """A method gets its object, a class method its class."""

    class Job:
        @leader_only("job", store=store)
        def run(self) -> str:
            return type(self).__name__

        @classmethod
        @leader_only("job", store=store)
        def run_class(cls) -> str:
            return cls.__name__

    job: Any = Job  # Type checkers differ on what a class method makes of what is no function to them.
    assert Job().run() == job.run_class() == "Job"
    assert Job.run.resign(PATIENCE)


@pytest.mark.parametrize("options", [
    {"otherwise": "ignore"}, {"default": 1, "otherwise": "wait"}, {"default": 1, "otherwise": "raise"},
    {"timeout": 1}, {"timeout": -1, "otherwise": "wait"}, {"timeout": 1, "otherwise": "raise"},
    {"ttl": 0}, {"ttl": 5, "on_lost": "explode"}, {"store": "nowhere"}, {"store": object()},
    {"store": {}}, {"name": ""}, {"name": 5}, {"name": []}, {"terms": 5}, {"stop_within": 100},
    {"semantics": "at-least-once", "on_lost": "exit"}, {"on_lost": "cancel"},
], ids=lambda options: " ".join(options))  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    """When the function is decorated, and not when it is called."""
    options = {"name": "job", "store": fresh_url(), **options}
    with pytest.raises(ConfigurationError):
        leader_only(options.pop("name"), **options)(lambda: None)


def test_an_option_that_is_none_is_refused() -> None:
    """As Python does it."""
    with pytest.raises(TypeError, match="'tll'"):
        leader_only("job", tll=5)  # type: ignore[call-overload]


def test_without_a_name_it_says_what_to_write() -> None:
    """The function itself is taken for the name then."""
    with pytest.raises(ConfigurationError, match='write @leader_only\\("nightly"\\)'):
        leader_only(lambda: None)  # type: ignore[call-overload]


def test_generator_functions_are_refused() -> None:
    """Their body would run when the call has ended long since."""

    def rows() -> Iterator[int]:
        yield 1

    async def rows_async() -> Any:
        yield 1

    for function in rows, rows_async:
        with pytest.raises(ConfigurationError, match=r"rows.*a generator function"):
            leader_only("job")(function)


def test_what_is_no_function_is_refused() -> None:
    """A class method has to be made last."""
    with pytest.raises(ConfigurationError, match="put @classmethod above"):
        leader_only("job")(classmethod(lambda cls: None))  # type: ignore[call-overload]
