"""The machine in small worlds, in every order in which things can happen there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leases.testing import explorer
from leases.testing.cells import Kind
from leases.testing.mutants import MUTANTS, Mutant, modules
from leases.testing.search import Search
from leases.testing.small_worlds import DEEP, WORLDS, World

QUICK = ("silent", "live", "live-edited", "live-unordered")

pytestmark = pytest.mark.logic


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_small_worlds_close_and_no_rule_is_broken() -> None:
    """Every state of every world was seen: what is printed is how many."""
    results = sorted(explorer.explore_all(WORLDS.values()), key=lambda result: result.world.name)
    for result in results:
        print(explorer.summary(result))
        print(explorer.schedule(result), end="")
    print(f"{sum(result.states for result in results)} states")
    assert [result.world.name for result in results] == sorted(WORLDS)
    assert all(result.complete and not result.faults for result in results)
    assert all(result.states > 1000 for result in results), "a world in which nothing happens tries nothing"


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_world_closes_and_no_rule_is_broken(name: str) -> None:
    """Some of them, on every Python."""
    result = explorer.explore(WORLDS[name])
    print(explorer.summary(result))
    assert result.complete and result.faults == () and result.schedule == []


def test_a_renewal_of_what_is_to_run_out_is_found() -> None:
    """A machine that renews on although it was told not to breaks a rule there within a few steps."""
    result = explorer.explore(WORLDS["falter"], MUTANTS["renews-for-ever"])
    assert result.faults == ("a renewal is sent although the lease is to run out",)


def test_a_claim_of_who_stands_back_is_found() -> None:
    """A machine that claims although it was told to stand back breaks a rule there."""
    rule = "self._open_in(now, self._view) <= 0 and not self._standing_back:"
    hasty = Mutant(
        "hasty", "who stands back claims nothing", ((rule, "self._open_in(now, self._view) <= 0:"),)
    )
    result = explorer.explore(WORLDS["stand-back"], hasty)
    assert result.faults == ("a claim is sent by who stands back",)


def test_a_search_that_was_cut_short_says_so() -> None:
    """It has seen nothing wrong, and not everything."""
    result = explorer.explore(WORLDS["takeover"], seconds=0.0)
    assert not result.complete and result.faults == ()
    assert "cut short" in explorer.summary(result)


def test_the_deep_worlds_are_the_same_with_more_in_them() -> None:
    """One more swap in each."""
    assert {name: replace(world, swaps=world.swaps - 1) for name, world in DEEP.items()} == WORLDS


def test_a_world_is_searched_the_same_way_each_time() -> None:
    """As many states and transitions, and the same schedule."""
    world = World("small", "to be seen twice", Kind.ETCD, swaps=2)
    first, second = explorer.explore(world), explorer.explore(world)
    assert (first.states, first.transitions, first.depth) == (second.states, second.transitions, second.depth)


@pytest.mark.parametrize(
    "name", ["late", "busy", "heirs", "local", "vanish", "restart", "unordered", "falter", "stand-back"]
)
def test_what_is_taken_for_equal_is_equal(name: str) -> None:
    """A search that tells everything apart comes, step for step, to the same stores, phases and beliefs."""
    machinery, terms = modules(None)
    merged = reached(Search(WORLDS[name], machinery, terms), 8)
    exact = reached(Search(WORLDS[name], machinery, terms, exact=True), 8)
    assert merged == exact and len(merged[-1]) > 20


def reached(search: Search, depth: int) -> list[set[tuple[str, str, str]]]:
    """What can be seen of the states that so many steps lead to, for every number of steps."""
    known, frontier, levels = {search.start}, [search.start], [set[tuple[str, str, str]]()]
    for _ in range(depth):
        following, level = [], set(levels[-1])
        for state in frontier:
            for _, _, after, faults in search.moves(state):
                assert not faults
                level.add(search.seen(after))
                if after not in known:
                    known.add(after)
                    following.append(after)
        frontier = following
        levels.append(level)
    return levels


def test_the_command_line_shows_a_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    """Who did what at which tick, what stands in the store, and what each side believes."""
    assert explorer.main(["--mutant", "held-is-a-flag"]) == 0
    shown = capsys.readouterr().out
    assert "1: both believe that they hold" in shown
    assert "tick  2" in shown and "store: B's claim" in shown and "believes for" in shown


def test_the_command_line_closes_a_world(capsys: pytest.CaptureFixture[str]) -> None:
    """And says how many states there were, and within which bounds."""
    assert explorer.main(["--world", "live"]) == 0
    shown = capsys.readouterr().out
    assert "closed" in shown and "states" in shown and "0 broken" in shown


def test_the_command_line_lists_worlds_and_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    """By name, with what they are for."""
    assert explorer.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in WORLDS) and "no-margin" in shown
