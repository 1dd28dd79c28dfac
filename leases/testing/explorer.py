"""Searches small worlds for a schedule that breaks a rule: `python -m leases.testing.explorer`.

What runs is the machine itself, not a model of it. In every world two contenders and a store do all that the
world allows, in every order: letters arrive late, twice, or not at all, clocks go at different rates,
processes pause, sleep, die. After each step these rules are checked, by what the checker itself has seen and
sent:

   1  the intervals in which two believe are disjoint
   2  the holder changes only by a swap on a version that was timed, freed, absent, or the process's own
   3  tokens strictly increase over successes
   5  a release or renewal names a version of its own
   6  no success is reported after its deadline
   7  what was lost or released is never held again
   8  a deadline never moves back, and is never past the send of a committed attempt + V
   9  unknown becomes yes by a committed write only
  10  a loss is told as soon as the driver looks
  12  a live holder is not deposed
  14  events come once each, and in order
  15  who says that nothing is left has left nothing

The search is breadth first, so that no shorter schedule breaks a rule than the one that is shown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from leases.testing.mutants import MUTANTS, Mutant, modules
from leases.testing.search import Result, Search
from leases.testing.small_worlds import DEEP, WORLDS, World


def explore(world: World, mutant: Mutant | None = None, seconds: float | None = None) -> Result:
    """Search one world, with the machine as it is or with one of its rules broken."""
    return Search(world, *modules(mutant)).run(seconds=seconds)


def explore_all(
    worlds: Iterable[World], processes: int = 2, seconds: float | None = None
) -> Iterator[Result]:
    """Search many worlds, some at a time; results come as they are ready."""
    # A search is nothing but memory and arithmetic: other processes are the only way to use other cores.
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(partial(explore, seconds=seconds), worlds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 where a rule was broken, or where a mutant was not caught."""
    options = _parser().parse_args(arguments)
    worlds = DEEP if options.deep else WORLDS
    if options.list:
        return _list(worlds.values())
    if options.mutant:
        return _try(MUTANTS[options.mutant], [options.world] if options.world else [], worlds)
    chosen = [worlds[options.world]] if options.world else list(worlds.values())
    began, broken, states, transitions = time.perf_counter(), 0, 0, 0
    results = (
        map(partial(explore, seconds=options.seconds), chosen)
        if options.processes == 1 or len(chosen) == 1
        else explore_all(chosen, options.processes, options.seconds)
    )
    for result in results:
        print(summary(result), flush=True)
        print(schedule(result), end="", flush=True)
        broken += bool(result.faults)
        states, transitions = states + result.states, transitions + result.transitions
    seconds = time.perf_counter() - began
    print(
        f"{len(chosen)} worlds, {states} states, {transitions} transitions, {seconds:.0f} s, {broken} broken"
    )
    return 1 if broken else 0


def summary(result: Result) -> str:
    """One line: what was searched, how far, and what came of it."""
    verdict = "broken" if result.faults else "closed" if result.complete else "cut short"
    return (
        f"{result.world.name:15} {verdict:9} {result.states:9} states {result.transitions:10} transitions "
        f"depth {result.depth:3} {result.seconds:6.1f} s  {bounds(result.world)}"
    )


def bounds(world: World) -> str:
    """What the search of a world is bounded by."""
    first, second = world.ttls
    ttls = f"{first}" if first == second else f"{first} and {second}"
    rates = " or ".join(map(str, world.rates))
    begins = ", A holds" if world.held else ""
    return f"{world.swaps} swaps, {world.letters} letters, ttl {ttls}, {rates} a tick{begins}"


def schedule(result: Result) -> str:
    """A schedule that breaks a rule, a line for each step; empty where none was found."""
    if not result.faults:
        return ""
    lines = [f"  broken: {fault}" for fault in result.faults]
    for line in result.schedule:
        lines.append(f"  tick {line.tick:2}  {line.who:8} {line.what}")
        lines.append(f"{'':19} store: {line.store} | A: {line.a} | B: {line.b}")
    return "\n".join(lines) + "\n"


def _try(mutant: Mutant, named: list[str], worlds: dict[str, World]) -> int:
    print(f"{mutant.name} in {mutant.module} breaks: {mutant.rule}")
    names = named or ([mutant.world] if mutant.world else list(worlds))
    for name in names:
        result = explore(worlds[name], mutant)
        print(summary(result), flush=True)
        if result.faults:
            print(schedule(result), end="")
            return 0
    print("not caught" + ("" if mutant.world else ": a schedule among the tests is what catches it"))
    return 1


def _list(worlds: Iterable[World]) -> int:
    print("worlds")
    for world in worlds:
        print(f"  {world.name:28} {world.aim} ({bounds(world)})")
    print("mutants, and the rules that they break")
    for mutant in MUTANTS.values():
        print(f"  {mutant.name:28} {mutant.rule}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leases.testing.explorer",
        description="Search every interleaving of small worlds for one that breaks a rule of the protocol.",
        epilog="Ends with 1 where a rule was broken; with --mutant, where none was.",
    )
    parser.add_argument("--deep", action="store_true", help="one more swap in every world: takes much longer")
    parser.add_argument("--world", choices=[*WORLDS], metavar="NAME", help="this world alone")
    parser.add_argument("--mutant", choices=[*MUTANTS], metavar="NAME", help="break this rule first")
    parser.add_argument("--seconds", type=float, metavar="N", help="cut each world short after so long")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="worlds at a time; default 2")
    parser.add_argument("--list", action="store_true", help="list the worlds and the mutants")
    return parser


if __name__ == "__main__":
    sys.exit(main())
