"""The simulator: more than ten thousand runs without a violation, each of them to be had again, and proof
that it would notice.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from leases.clock import Instant
from leases.contract import Traits
from leases.machine import Machine
from leases.testing import simulation
from leases.testing.cells import Kind
from leases.testing.clock import ManualClock
from leases.testing.mutants import MUTANTS, modules
from leases.testing.simulation import picture, play, simulate, sweep, sweep_on
from leases.testing.swarm import FAULTS, prepare
from leases.testing.timeline import Bar, draw, story
from leases.testing.world import Host, Mark, Violation, World

SEEDS = 20_000 if os.environ.get("LEASES_LONG") else 6_000

# Seeds at which the machine was once wrong, and what was wrong with it. The runs have changed since, as they
# do with every change to what is drawn; the schedule that each of them showed is a scenario of its own.
ONCE_WRONG = {
    7: "a release whose read outlived its patience turned in circles",
    16: "the same, in a chase",
    44: "a stale read of another time deposed a holder where versions have no order",
    307: "the same, from a frozen replica",
    362: "the same, and a release took it for its end",
    480: "the same, from a replayed hint",
    740: "the same, from a late hint",
    830: "a grant that came too late was given up, and sought on",
    119049: "a stale hint hid the record of a grant that came too late",
}


# ---- every seed keeps every promise ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_seed_breaks_an_invariant(capsys: pytest.CaptureFixture[str]) -> None:
    """Over all kinds of store and all faults, nothing that the protocol promises never happens did happen."""
    totals = sweep_on(2, range(SEEDS))
    with capsys.disabled():
        print(f"\n{totals}")
    assert totals.violations == [] and totals.seeds == SEEDS
    # It would prove nothing if nothing had happened.
    assert min(totals.grants, totals.renewals, totals.conflict, totals.unknown) > 3 * SEEDS
    assert min(totals.takeovers, totals.losses, totals.handed, totals.refused_writes) > SEEDS / 4


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_a_few_seeds_of_every_kind(kind: Kind) -> None:
    """Each kind of store's rules by itself keeps every invariant."""
    totals = sweep(range(40), kind=kind)
    assert totals.violations == [] and totals.grants > 40 and totals.takeovers


@pytest.mark.parametrize("seed", ONCE_WRONG, ids=str)
def test_a_seed_that_once_failed(seed: int) -> None:
    """What was wrong once is tried for ever."""
    simulate(seed)


def test_every_fault_and_every_kind_is_drawn() -> None:
    """A few hundred seeds have all of them, so that thousands have them in company."""
    plans = [prepare(seed) for seed in range(300)]
    assert {plan.kind for plan in plans} == set(Kind)
    assert {fault for plan in plans for fault in plan.faults} == set(FAULTS)
    assert {plan.drain for plan in plans} == {plan.patient for plan in plans} == {True, False}


def test_s9_clocks_beyond_the_bound_overlap_by_what_can_be_reckoned() -> None:
    """Where clocks run wrong by more than was agreed on, beliefs overlap by V/slow - ttl/fast at most."""
    beyond = 0.6
    overlapped = 0
    for seed in range(150):
        plan = prepare(seed, beyond=beyond)
        play(plan)
        terms = [process.terms for process in plan.scene.processes]
        most = max(t.hold / (1 - beyond) - t.ttl / (1 + beyond) for t in terms)
        overlapped += plan.scene.judge.tally.overlap > 0
        assert plan.scene.judge.tally.overlap <= most + 1e-6
    assert overlapped > 5


# ---- one seed is one run ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_is_one_run(seed: int) -> None:
    """Running a seed again shows the same marks at the same instants, and watching it changes nothing."""
    first, again, unwatched = simulate(seed, watched=True), simulate(seed, watched=True), simulate(seed)
    world = first.scene.world
    assert world.marks and world.digest() == again.scene.world.digest()
    assert (world.steps, world.time) == (unwatched.scene.world.steps, unwatched.scene.world.time)


def test_seeds_differ() -> None:
    """Two seeds are two runs."""
    assert simulate(1, watched=True).scene.world.digest() != simulate(2, watched=True).scene.world.digest()


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Nothing depends on the order of hashes, which differs between processes."""
    lines = set()
    for salt in ("0", "1", "2"):
        command = [sys.executable, "-m", "leases.testing.simulation", "--seed", "4711", "--trace"]
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=_ROOT)
        lines.add(done.stdout)
    assert len(lines) == 1 and "digest" in lines.pop()


def test_jobs_add_up() -> None:
    """Two processes count what one does."""
    one, two = sweep_on(1, range(220)), sweep_on(2, range(220))
    assert str(one) == str(two) and one.seeds == 220


# ---- it would notice -------------------------------------------------------------------------------

# Not all that the gate breaks breaks an invariant: some rules only save time, some only matter to records of
# other tools or to a copied process, which the simulator has none of.
_CAUGHT = (
    "deadline-from-reply",
    "renewed-from-reply",
    "observed-at-send",
    "wall-clock-trusted",
    "own-ttl",
    "renews-for-ever",
    "release-of-what-stands",
    "release-after-reading",
    "no-margin",
    "one-step-above",
    "takeover-of-newest",
    "unknown-is-success",
    "unknown-is-failure",
    "late-success",
    "checked-before-sealing",
    "held-is-a-flag",
    "renewal-past-deadline",
    "vanished-is-free",
    "vanished-from-last-sighting",
    "one-beat",
    "another-send",
    "ttl-in-mid-tenure",
    "blind-to-sleep",
    "waits-asleep",
    "namesake-inherits",
    "stale-news-deposes",
    "unordered-news-deposes",
    "instants-everywhere",
    "instants-of-any-boot",
    "edit-counts",
    "token-of-creation",
    "token-kept-on-takeover",
    "token-kept-on-reacquisition",
    "token-kept-on-hand-over",
)


@pytest.mark.logic
@pytest.mark.parametrize("name", _CAUGHT)
def test_a_broken_rule_is_caught(name: str) -> None:
    """Each broken rule breaks an invariant within a few hundred seeds."""
    machine, terms = modules(MUTANTS[name])
    totals = sweep(range(1500), machine=machine.Machine, terms=terms.Terms, most=1)
    assert totals.violations, f"{name} survived {totals.seeds} seeds"
    print(f"{name}: {totals.seeds} seeds, {totals.violations[0]}")


def test_a_violation_says_which_run_and_where() -> None:
    """The seed, the step and the instant are in the message, and survive a way between processes."""
    machine, _ = modules(MUTANTS["deadline-from-reply"])
    plan = prepare(3, machine=machine.Machine, watched=True)
    with pytest.raises(Violation) as caught:
        play(plan)
    violation = caught.value
    assert (violation.rule, violation.seed) == (8, 3)
    assert f"seed 3, step {violation.step}" in str(violation) and violation.tail[-1].what == "violation"
    twin = pickle.loads(pickle.dumps(violation))
    assert str(twin) == str(violation) and twin.tail == violation.tail


def test_an_assertion_of_the_machine_counts() -> None:
    """A machine that contradicts itself is a violation too, with its seed."""

    class Wrong(Machine):
        def confirm(self, now: Instant) -> bool:
            raise AssertionError("one and one is three")

    with pytest.raises(Violation, match=r"invariant 0: .*one and one is three \(seed 1, step"):
        simulate(1, machine=Wrong)


def test_turning_in_circles_is_seen() -> None:
    """A machine that always has something to do at once ends the run instead of hanging it."""

    class Restless(Machine):
        def wake(self, now: Instant) -> float | None:
            return 0.0

    with pytest.raises(Violation, match=r"invariant 13: .* turns in circles"):
        simulate(1, machine=Restless)


# ---- the command line ------------------------------------------------------------------------------


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    simulation.add_arguments(parser)
    return simulation.run(parser.parse_args(words))


def test_the_command_runs_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """It says what happened, and exits with 0 when nothing broke."""
    assert _run("--seeds", "30", "--start", "5", "--jobs", "1", "--kind", "etcd") == 0
    said = capsys.readouterr().out
    assert said.startswith("30 seeds, ") and "0 violations" in said and "seeds/s" in said


def test_the_command_shows_what_broke(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exits with 1, names the seeds, and how to see one of them."""
    machine, _ = modules(MUTANTS["deadline-from-reply"])
    broken = partial(prepare, machine=machine.Machine)
    monkeypatch.setattr(simulation, "prepare", lambda seed, **options: broken(seed, **_without(options)))
    assert _run("--seeds", "300", "--jobs", "1") == 1
    said = capsys.readouterr().out
    assert "invariant 8: " in said and "see it with: --seed 0 --trace" in said
    assert _run("--seed", "0") == 1
    said = capsys.readouterr().out
    assert "violation" in said and "invariant 8: " in said


def _without(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in ("machine", "terms")}


def test_one_seed_is_traced_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A single seed is printed step by step, and drawn."""
    file = tmp_path / "run.svg"
    assert _run("--seed", "12", "--trace", "--svg", str(file)) == 0
    said = capsys.readouterr().out
    assert " held " in said and " applied " in said and "seed 12: " in said
    assert ET.fromstring(file.read_text(encoding="utf-8")).tag.endswith("svg")


# ---- the timeline ----------------------------------------------------------------------------------


def test_a_story_is_told_from_marks() -> None:
    """Belief begins with success and ends at the loss or the deadline, whichever is first."""
    told = story(
        [
            Mark(1.0, "a", "granted", "7", 9.0),
            Mark(1.5, "a", "held", "7", 9.0),
            Mark(4.0, "a", "renewed", "7", 12.0),
            Mark(8.0, "a", "endangered", "7"),
            Mark(9.0, "a", "renewed", "7", 17.0),
            Mark(13.0, "a", "endangered", "7"),
            Mark(20.0, "a", "lost", "7 expired"),
            Mark(30.0, "a", "granted", "9", 38.0),
            Mark(31.0, "b", "held", "8", 40.0),
        ],
        "a",
        until=35.0,
    )
    assert told.held == [Bar(1.5, 17.0, "7")]
    assert told.granted == [Bar(1.0, 1.5, "7"), Bar(30.0, 35.0, "9")]
    assert told.danger == [Bar(8.0, 9.0), Bar(13.0, 17.0)]


@pytest.mark.parametrize("seed", [12, 131, 548])
def test_a_timeline_is_drawn(seed: int) -> None:
    """It is one well-formed file that needs no other, with a lane for each process and the tokens in it."""
    plan = simulate(seed, watched=True)
    text = picture(plan)
    words = {node.text for node in ET.fromstring(text).iter() if node.tag.endswith("text")}
    assert {process.name for process in plan.scene.processes} | {"store", f"seed {seed}"} <= words
    held = [mark for mark in plan.scene.world.marks or () if mark.what == "held"]
    assert held and all(f"holds token {mark.text}" in text for mark in held)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_words_are_escaped() -> None:
    """What a title says cannot break the picture."""
    text = draw([Mark(1.0, "world", "healed")], [("a<b", "host & co")], title="<script>", note='"&"')
    assert ET.fromstring(text) is not None and "<script>" not in text


# ---- the clocks ------------------------------------------------------------------------------------


def test_a_manual_clock_moves_by_hand() -> None:
    """It stands until it is moved; sleep moves the holder's clock alone, and the wall clock goes anywhere."""
    clock = ManualClock(Instant(100.0, 10.0, 1000.0))
    assert clock() == clock() == (100.0, 10.0, 1000.0)
    assert clock.advance(2.0) == clock() == (102.0, 12.0, 1002.0)
    assert clock.suspend(5.0) == clock() == (107.0, 12.0, 1007.0)
    assert clock.step_wall(-3600.0) == clock() == (107.0, 12.0, 1007.0 - 3600.0)


def test_a_manual_clock_does_not_run_backwards() -> None:
    """Only the wall clock can be set back."""
    clock = ManualClock()
    before = clock()
    for move in (clock.advance, clock.suspend):
        with pytest.raises(ValueError, match="does not run backwards"):
            move(-0.1)
    assert clock() == before and len({round(value) for value in before}) == 3


def test_a_host_has_clocks_of_its_own() -> None:
    """They run at its rate; sleep stops the waiter's; a new rate makes no step; a reboot begins anew."""
    world = World("clocks")
    host = Host(world, "h", rate=2.0)
    start = host.instant()
    world.run(10.0)
    assert _gone(start, host) == pytest.approx((20.0, 20.0, 20.0))
    assert host.real(host.hold()) == pytest.approx(10.0)
    host.suspend(5.0)
    world.run(20.0)
    assert _gone(start, host) == pytest.approx((40.0, 30.0, 40.0))
    host.set_rate(0.5)
    host.step_wall(-1000.0)
    world.run(30.0)
    assert _gone(start, host) == pytest.approx((45.0, 35.0, -955.0))
    boot = host.boot
    host.reboot()
    assert host.boot != boot


def _gone(start: Instant, host: Host) -> tuple[float, ...]:
    return tuple(now - then for now, then in zip(host.instant(), start, strict=True))


def test_events_happen_in_order() -> None:
    """What is due first happens first; what is due at one instant happens as it was asked for."""
    world = World("order")
    seen: list[int] = []
    for number, when in enumerate((3.0, 1.0, 2.0, 1.0)):
        world.at(when, seen.append, number)
    world.run(2.5)
    assert seen == [1, 3, 2] and world.time == 2.5
    world.run(3.0)
    assert seen[-1] == 0 and world.steps == 4


def test_the_simulated_machines_are_told_what_their_store_promises() -> None:
    """The traits are those of the kind."""
    plan = prepare(5, kind=Kind.ZOOKEEPER)
    traits = {process.traits for process in plan.scene.processes}
    assert traits == {Kind.ZOOKEEPER.rules.traits} and isinstance(traits.pop(), Traits)


_ROOT = Path(__file__).resolve().parent.parent
