"""A simulator of the protocol: many machines, one store, and a world in which everything goes wrong.

One seed is one run, to the last bit. It draws a store, a fleet and a set of faults, lets them meet for a
few ttls, and judges every step by the invariants of the protocol. Then all faults end, and somebody must
hold soon, and nobody may lose anything any more. Run it with

    python -m leases.testing.simulation --seeds 20000
    python -m leases.testing.simulation --seed 4711 --trace --svg run.svg
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leases.errors import ConfigurationError
from leases.machine import Machine
from leases.terms import Terms
from leases.testing.bid import NEVER, Bid
from leases.testing.cells import Kind
from leases.testing.scene import Scene
from leases.testing.swarm import STEPS, Plan, prepare
from leases.testing.world import NAME, Violation

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

_BLOCK: Final = 200  # seeds that a worker takes at a time
_SHOWN: Final = 10  # violations that are printed


@dataclass(slots=True)
class Totals:
    """What happened in some runs."""

    seeds: int = 0
    seconds: float = 0.0
    steps: int = 0
    read: int = 0
    applied: int = 0
    conflict: int = 0
    unknown: int = 0
    grants: int = 0
    renewals: int = 0
    losses: int = 0
    takeovers: int = 0
    handed: int = 0
    freed: int = 0
    writes: int = 0
    refused_writes: int = 0
    violations: list[Violation] = field(default_factory=list)

    def add(self, other: Totals) -> None:
        """Count another's runs too."""
        for each in fields(self):
            if each.name != "violations":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.violations.extend(other.violations)

    def __str__(self) -> str:
        return (
            f"{self.seeds} seeds, {self.seconds / 3600:.1f} simulated hours, {self.steps} steps: "
            f"{self.grants} grants, {self.takeovers} takeovers, {self.handed} hand-overs, "
            f"{self.renewals} renewals, {self.losses} losses, {self.freed} releases; "
            f"{self.read} reads, {self.applied} swaps applied, {self.conflict} conflicts, "
            f"{self.unknown} unknown; {self.writes} writes, {self.refused_writes} refused as late; "
            f"{len(self.violations)} violations"
        )


def simulate(
    seed: int | str,
    *,
    machine: type[Machine] = Machine,
    terms: type[Terms] = Terms,
    kind: Kind | None = None,
    watched: bool = False,
) -> Plan:
    """Run one seed.

    Args:
        seed: what the run is drawn from.
        machine: the state machine to judge.
        terms: the durations it goes by; they are judged too.
        kind: the store's rules, instead of those that the seed draws.
        watched: keep marks, to read or to draw; the run is the same.

    Raises:
        Violation: of the first invariant that broke.
    """
    plan = prepare(seed, machine=machine, terms=terms, kind=kind, watched=watched)
    play(plan)
    return plan


def play(plan: Plan) -> None:
    """Run what was prepared, to its end.

    Raises:
        Violation: of the first invariant that broke; of rule 0 where an assertion of the machine failed.
    """
    world = plan.scene.world
    try:
        world.run(plan.length, STEPS)
        plan.scene.heal()
        if plan.drain:
            _drain(plan)
        else:
            _settle(plan)
    except Violation:
        raise
    except AssertionError as error:
        message = f"an assertion of the machine failed: {error}"
        raise Violation(0, message, seed=world.seed, step=world.steps, at=world.time) from error


def _settle(plan: Plan) -> None:
    """All is well again: somebody must hold soon, and keep what it holds."""
    scene, judge, world = plan.scene, plan.scene.judge, plan.scene.world
    for process in scene.processes:
        process.habits.work = max(process.habits.work, 2 * plan.longest)
        process.habits.think = 0.01 * plan.ttl
        world.at(judge.healed, process.want, process.habits.threads)
    judge.steady = judge.healed + plan.longest / min(host.rate for host in scene.hosts)
    world.run(judge.healed)
    if judge.holding() is not None:
        judge.first = world.time
    patience = within(plan)
    step = patience / 16
    while judge.first == NEVER and world.time < judge.healed + patience:
        world.run(world.time + step)
    if judge.first == NEVER:
        world.fail(11, f"nobody holds {patience:.3f} s after all faults ended")
    world.run((max(judge.steady, world.time) if plan.patient else world.time) + 0.7 * plan.ttl)
    holder = judge.holding()
    if holder is not None and plan.patient:
        _check_metadata(scene, holder)


def _check_metadata(scene: Scene, holder: Bid) -> None:
    """What a holder was given to show a while ago is shown."""
    metadata, since = holder.metadata
    claim = scene.network.cells.peek(NAME).claim
    if holder.faltered:  # What is not renewed shows nothing new.
        return
    if since < scene.judge.healed and claim is not None and dict(claim.metadata) != metadata:
        scene.world.fail(12, f"{holder.label} was given {metadata} to show, and shows {dict(claim.metadata)}")


def within(plan: Plan) -> float:
    """How long it may take from the end of all faults until somebody holds.

    A dead holder's record is seen at the next read, and has to stand for its ttl from then on; both by
    clocks that may be slow. Then come one retry and a few round trips.
    """
    scene = plan.scene
    terms = [process.terms for process in scene.processes]
    slowest = min(host.rate for host in scene.hosts)
    read = max(t.ttl / 2 + t.attempt for t in terms)
    retry = max(t.attempt + min(1.0, t.ttl / 4) for t in terms)
    think = max(2 * (process.habits.think + process.habits.hold_back) for process in scene.processes)
    return (plan.longest + read + 2 * retry) / slowest + 60 * scene.network.weather.delay + think


def _drain(plan: Plan) -> None:
    """All is well again, and nobody wants anything any more: what is left behind must go by itself."""
    scene, judge, world = plan.scene, plan.scene.judge, plan.scene.world
    for process in scene.processes:
        process.closing = True
        process.habits.work = 0.01 * plan.ttl
        process.waiting.clear()
        for bid in tuple(process.bids):
            if bid.working:
                world.at(judge.healed, process.finish, bid)
            elif bid.tenure is None:
                world.at(judge.healed, process.give_up, bid)
    patience = within(plan)
    ends = judge.healed + 4 * patience
    world.run(judge.healed + patience / 16)
    while (left := [bid for process in scene.processes for bid in process.bids]) and world.time < ends:
        world.run(world.time + patience / 16)
    if left:
        world.fail(15, f"{left[0].label} is still {left[0].machine.phase.value}")
    scene.processes[0].closing = False
    judge.healed, judge.first = world.time, NEVER
    scene.processes[0].want(0)
    world.run(world.time + within(plan))
    if judge.first == NEVER:
        world.fail(15, "the lock is still kept by somebody who has let go")


# ---- many seeds ------------------------------------------------------------------------------------


def sweep(
    seeds: Iterable[int],
    *,
    machine: type[Machine] = Machine,
    terms: type[Terms] = Terms,
    kind: Kind | None = None,
    most: int = _SHOWN,
) -> Totals:
    """Run seeds one after another in this process, until so many of them have failed."""
    totals = Totals()
    for seed in seeds:
        _count(totals, partial(simulate, seed, machine=machine, terms=terms, kind=kind))
        if len(totals.violations) >= most:
            break
    return totals


def _count(totals: Totals, run: Callable[[], Plan]) -> None:
    totals.seeds += 1
    try:
        plan = run()
    except Violation as violation:
        totals.violations.append(violation)
        return
    network, tally, world = plan.scene.network, plan.scene.judge.tally, plan.scene.world
    totals.seconds += world.time
    totals.steps += world.steps
    for name, count in (*network.counts.items(), *tally.counts()):
        setattr(totals, name, getattr(totals, name) + count)


def sweep_on(jobs: int, seeds: range, *, kind: Kind | None = None) -> Totals:
    """Run seeds in so many processes, until some have failed."""
    blocks = (seeds[i : i + _BLOCK] for i in range(0, len(seeds), _BLOCK))
    totals = Totals()
    if jobs <= 1:
        for block in blocks:
            totals.add(_block(block, kind))
            if len(totals.violations) >= _SHOWN:
                break
        return totals
    with _workers(jobs) as pool:
        for part in pool.imap(partial(_block, kind=kind), blocks):
            totals.add(part)
            if len(totals.violations) >= _SHOWN:
                break
    return totals


@contextmanager
def _workers(jobs: int) -> Generator[Pool]:
    """Processes that end with this one, also when SIGTERM ends it, which would leave them a broken pipe."""
    import multiprocessing

    asked: list[int] = []
    ready = False

    def end(number: int, frame: object) -> None:
        asked.append(number)
        if ready:  # While they are being started, the first words to them have to be finished.
            raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()  # Signals are the main thread's.
    before = signal.signal(signal.SIGTERM, end) if main else None
    try:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            ready = True
            if asked:
                raise SystemExit(128 + asked[0])
            yield pool
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _block(seeds: range, kind: Kind | None) -> Totals:
    """A worker's share. The runs make many small circles, and nothing is gained by looking for them often."""
    gc.disable()
    try:
        return sweep(seeds, kind=kind)
    finally:
        gc.enable()
        gc.collect()


# ---- the command line ------------------------------------------------------------------------------


_MORE: Final = """\
Each seed is one run: a store, a fleet and a set of faults are drawn from it, and every step is judged by the
promises of the protocol. Then all faults end, and somebody must hold soon. The same seed is the same run, to
the last bit, on every machine.

With --json there is one object: what happened in how many runs, and each violation with its seed, its rule
and its message; with --seed it is what the run was, its digest, and its violation or null.

exit codes:
   0  every promise was kept
   1  one was broken, and the seed is told
  64  the words on the command line make no sense

examples:
  leases simulate --seeds 2000
  leases simulate --seed 4711 --trace --svg run.svg    one run, step by step, and a drawing of it
  leases simulate --kind etcd --json | jq .takeovers
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the simulator can be asked."""
    parser.epilog = _MORE
    parser.add_argument(
        "--seeds", type=_positive, default=20_000, metavar="N", help="how many to run (default 20000)"
    )
    parser.add_argument("--start", type=int, default=0, metavar="S", help="the first of them (default 0)")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="J", help="processes")
    parser.add_argument("--seed", metavar="S", help="run this one alone, and say what happened")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="with --seed: draw its timeline")
    kinds = [kind.value for kind in Kind]
    parser.add_argument(
        "--kind", choices=kinds, metavar="KIND", help=f"the store's rules: one of {', '.join(kinds)}"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f'"{text}" is not a number above 0; write one such as 1000')
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; 0 if every promise was kept, else 1.

    Raises:
        ConfigurationError: to show one run, and not which.
    """
    kind = None if args.kind is None else Kind(args.kind)
    if args.seed is not None:
        seed = int(args.seed) if args.seed.lstrip("-").isdigit() else args.seed
        return _run_one(seed, kind, args)
    if args.trace or args.svg:
        raise ConfigurationError("--trace and --svg show one run; name it with --seed S")
    began = time.perf_counter()
    totals = sweep_on(args.jobs, range(args.start, args.start + args.seeds), kind=kind)
    took = time.perf_counter() - began
    if args.json:
        print(json.dumps({**_facts(totals), "seeds_per_second": round(totals.seeds / took, 1)}))
        return 1 if totals.violations else 0
    for violation in totals.violations[:_SHOWN]:
        print(violation)
    print(f"{totals}; {totals.seeds / took:.0f} seeds/s")
    if totals.violations:
        again = f" --kind {args.kind}" if args.kind else ""
        print(f"see it with: --seed {totals.violations[0].seed} --trace{again}")
    return 1 if totals.violations else 0


def _facts(totals: Totals) -> dict[str, Any]:
    """The totals for JSON."""
    counts = {each.name: getattr(totals, each.name) for each in fields(totals)}
    return {**counts, "violations": [_violation(violation) for violation in totals.violations]}


def _violation(violation: Violation) -> dict[str, Any]:
    return {
        "seed": violation.seed,
        "rule": violation.rule,
        "step": violation.step,
        "at": violation.at,
        "message": violation.why,
    }


def _run_one(seed: int | str, kind: Kind | None, args: argparse.Namespace) -> int:
    plan = prepare(seed, kind=kind, watched=True)
    broken = None
    try:
        play(plan)
    except Violation as violation:
        broken = violation
    world = plan.scene.world
    if args.svg is not None:
        _write(args.svg, picture(plan))
    if args.json:
        found = None if broken is None else _violation(broken)
        facts = {"seed": seed, "run": describe(plan), "digest": world.digest(), "violation": found}
        print(json.dumps(facts))
        return 0 if broken is None else 1
    for mark in (world.marks or ()) if args.trace else broken.tail if broken is not None else ():
        print(mark)
    print(f"seed {seed}: {describe(plan)}; digest {world.digest()}")
    if broken is not None:
        print(broken)
    return 0 if broken is None else 1


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}; name another file") from error


def picture(plan: Plan) -> str:
    """The timeline of a watched run, as an SVG."""
    from leases.testing.timeline import draw

    lanes = [(process.name, process.host.name) for process in plan.scene.processes]
    lanes.sort(key=lambda lane: lane[1])
    marks = plan.scene.world.marks or []
    return draw(marks, lanes, title=f"seed {plan.scene.world.seed}", note=describe(plan))


def describe(plan: Plan) -> str:
    """What a seed means, in a line."""
    faults = ", ".join(sorted(plan.faults)) or "no faults"
    ttls = "/".join(sorted({f"{process.terms.ttl:.3g}" for process in plan.scene.processes}))
    fleet = f"{len(plan.scene.processes)} processes on {len(plan.scene.hosts)} hosts"
    return f"{plan.kind.value}, {fleet}, ttl {ttls} s, rho {plan.rate:g}: {faults}"


def main() -> int:
    """The simulator as a command."""
    parser = argparse.ArgumentParser(prog="python -m leases.testing.simulation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
