"""Every rule of the protocol, broken once: the explorer or a schedule by hand has to notice.

A test that cannot fail proves nothing. Here the tests are tried on machines that are wrong.
"""

from __future__ import annotations

import pytest

import side
import test_machine
from leases.testing.explorer import explore, schedule, summary
from leases.testing.mutants import MUTANTS, Mutant, load, modules
from leases.testing.simulation import simulate
from leases.testing.small_worlds import WORLDS
from leases.testing.world import Violation

EXPLORED = [mutant for mutant in MUTANTS.values() if mutant.world]
# What the simulator finds within a few seeds; of the others some need an eye that looks between two steps.
SIMULATED = (
    "deadline-from-reply", "renewed-from-reply", "observed-at-send", "wall-clock-trusted", "own-ttl",
    "release-of-what-stands", "release-after-reading", "takeover-of-newest", "unknown-is-success",
    "one-beat", "another-send", "ttl-in-mid-tenure", "namesake-inherits", "edit-counts", "token-of-creation",
    "token-kept-on-takeover", "token-kept-on-reacquisition", "token-kept-on-hand-over",
)  # fmt: skip
SCHEDULED = [mutant for mutant in MUTANTS.values() if not mutant.world]

pytestmark = pytest.mark.logic


@pytest.mark.parametrize("mutant", EXPLORED, ids=lambda mutant: mutant.name)
def test_the_explorer_finds_the_broken_rule(mutant: Mutant) -> None:
    """It shows a schedule that breaks a rule, and none that is shorter exists in that world."""
    result = explore(WORLDS[mutant.world], mutant)
    print(summary(result))
    print(schedule(result), end="")
    assert result.faults, f"{mutant.name} survives in the world {mutant.world}"
    assert result.schedule[-1].a and len(result.schedule) == result.depth


@pytest.mark.parametrize("mutant", SCHEDULED, ids=lambda mutant: mutant.name)
def test_a_schedule_by_hand_finds_the_broken_rule(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test that holds for the machine as it is fails for the broken one, for some of its parameters."""
    assert failures(mutant.schedule) == [], "the schedule has to hold for the machine as it is"
    broken, _ = modules(mutant)
    monkeypatch.setattr(side, "machinery", broken)
    found = failures(mutant.schedule)
    assert found, f"{mutant.name} survives {mutant.schedule}"
    print(f"{mutant.name}: found by {mutant.schedule}, {found[0]}")


@pytest.mark.parametrize("name", SIMULATED)
def test_the_simulator_finds_it_too(name: str) -> None:
    """It knows nothing of small worlds: whole processes, many stores, seconds that are no whole numbers."""
    broken, _ = modules(MUTANTS[name])
    found = None
    for seed in range(300):
        try:
            simulate(seed, machine=broken.Machine)
        except Violation as violation:
            found = violation
            break
    assert found is not None, f"{name} survives 300 seeds"
    print(f"{name}: {found}")


def failures(name: str) -> list[str]:
    """Run a test of test_machine with each of its parameters: what failed."""
    test = getattr(test_machine, name)
    cases: list[dict[str, object]] = [{}]
    for mark in getattr(test, "pytestmark", []):
        names, values = mark.args
        names = [names] if isinstance(names, str) else list(names)
        rows = [value if len(names) > 1 else (value,) for value in values]
        cases = [{**case, **dict(zip(names, row, strict=True))} for case in cases for row in rows]
    found = []
    for case in cases:
        try:
            test(**case)
        except AssertionError as error:
            found.append(f"{case}: {str(error).splitlines()[0] if str(error) else 'it does not hold'}")
    return found


def test_every_mutant_says_what_is_to_catch_it() -> None:
    """A world of the explorer or a schedule, and not both; a rule, and no rule twice under one name."""
    for mutant in MUTANTS.values():
        assert bool(mutant.world) != bool(mutant.schedule), mutant.name
        assert not mutant.schedule or hasattr(test_machine, mutant.schedule), mutant.name
        assert mutant.rule and mutant.changes


def test_a_mutant_whose_text_is_gone_fails_loudly() -> None:
    """Or the rule that it breaks would go untried without anybody noticing."""
    with pytest.raises(ValueError, match="occurs 0 times"):
        load(Mutant("gone", "a rule", (("no such text in the source", ""),)))


def test_a_mutant_leaves_the_machine_as_it_is() -> None:
    """The broken copy stands beside the right one, and is nobody's import."""
    right, _ = modules(None)
    broken, _ = modules(MUTANTS["held-is-a-flag"])
    assert broken.Machine is not right.Machine and side.machinery is right
