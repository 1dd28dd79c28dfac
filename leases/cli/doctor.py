"""`leases doctor [URL]`: whether locks will work on a store, from here, and how soon another takes over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from leases.cli import exits
from leases.cli.checkup import (
    Failover,
    RoundTrip,
    failovers,
    measure,
    of_clocks,
    of_failover,
    of_round_trip,
    of_traits,
    of_ttl,
)
from leases.cli.console import colours, plain, print_out
from leases.cli.options import UsageError, add_store, duration
from leases.contract import Finding, Verdict
from leases.errors import StoreError
from leases.store import connect
from leases.terms import Terms

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from leases.contract import Backend
    from leases.hub import Hub

_MORE: Final = """\
It reads, asks what may be written, and writes nothing that stays. One line for each thing that was looked at:
good, doubtful (locks may not work as you expect), or bad (they will not), with what to do about it.

The times to a takeover are formulas of the protocol and their values for --ttl: as they usually are, and at
most, when hints of the store are lost and a clock is as slow as is allowed for.

exit codes:
   0  locks will work
  64  the URL or the ttl makes no sense
  69  the store cannot be reached
  77  it refuses us, or a permission is missing
  78  something else is bad

examples:
  leases doctor
  leases doctor etcds://etcd-1,etcd-2/app?ca=/etc/app/ca.pem --ttl 5
  leases doctor --json | jq '.findings[] | select(.verdict != "good")'
"""
_SECONDS: Final = 5.0
_COLOURS: Final = {Verdict.GOOD: "\x1b[32m", Verdict.DOUBTFUL: "\x1b[33m", Verdict.BAD: "\x1b[31m"}
_PLAIN: Final = "\x1b[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    add = parser.add_argument
    add("url", metavar="URL", nargs="?", help="the store; the same as --backend")
    add_store(parser)
    add("--ttl", type=duration, default=15.0, metavar="SECS", help="of the leases to come; default 15")
    add("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Examine, and tell what was found as it is found."""
    if args.url is not None and args.backend is not None:
        raise UsageError("both a URL and --backend were given; leave one out")
    terms = Terms(args.ttl)
    with connect(args.url if args.url is not None else args.backend) as store:
        examination = Examination(store.hub, terms)
        findings: list[Finding] = []
        for finding in examination.run():
            findings.append(finding)
            if not args.json:
                print_out(_line(finding))
        code = examination.code(findings)
        if args.json:
            print_out(json.dumps(examination.facts(findings, code)) + "\n")
        else:
            print_out(_end(findings, code))
    return code


class Examination:
    """One look at a store from this process.

    Attributes:
        trip: the round trip, once it was measured.
    """

    def __init__(self, hub: Hub, terms: Terms) -> None:
        self._backend: Backend = hub.backend
        self._terms, self._local = terms, hub.boot is not None
        self.trip: RoundTrip | None = None
        self._refusal: StoreError | None = None

    def run(self) -> Iterator[Finding]:
        """Look at everything; what the store says comes first."""
        backend, terms = self._backend, self._terms
        yield Finding("store", Verdict.GOOD, f"{backend.identity} ({backend.traits.store})")
        reached = None
        for finding in backend.examine(_SECONDS):
            reached = finding.verdict if finding.subject == "reach" else reached
            yield finding
        if reached is not Verdict.DOUBTFUL:  # Then there is nothing yet, and a read would make it.
            yield from self._measured(told=reached)
        yield of_ttl(terms, backend.traits)
        yield from of_clocks(backend.traits)
        yield from of_traits(backend.traits)
        yield from map(of_failover, self.failovers())

    def _measured(self, told: Verdict | None) -> Iterator[Finding]:
        """The round trip, if there is one, and whether the store answers, unless that was told before."""
        try:
            self.trip = measure(self._backend, _SECONDS)
        except StoreError as error:
            self._refusal = error
            if told is not Verdict.BAD:
                yield Finding("reach", Verdict.BAD, str(error))
        else:
            if told is None:
                yield Finding("reach", Verdict.GOOD, f"{self._backend.identity} answers")
            yield of_round_trip(self.trip, self._terms)

    def failovers(self) -> Iterator[Failover]:
        """How soon another may begin, by the round trip that was measured."""
        trip = 0.0 if self.trip is None else self.trip.median
        return failovers(self._terms, self._backend.traits, trip, local=self._local)

    def code(self, findings: list[Finding]) -> int:
        """The exit code: the store's refusal, a missing permission, anything bad, or nothing."""
        bad = [finding for finding in findings if finding.verdict is Verdict.BAD]
        if self._refusal is not None:
            return exits.code_of(self._refusal)
        if any(finding.subject.startswith("permission") for finding in bad):
            return exits.REFUSED
        if any(finding.subject == "reach" for finding in bad):
            return exits.UNAVAILABLE
        return exits.UNFIT if bad else exits.OK

    def facts(self, findings: list[Finding], code: int) -> dict[str, Any]:
        """Everything for JSON. Seconds are seconds; a formula stands beside its value."""
        traits = self._backend.traits
        return {
            "store": self._backend.identity,
            "code": code,
            "ttl": self._terms.ttl,
            "round_trip": None if self.trip is None else self.trip._asdict(),
            "failover": [failover._asdict() for failover in self.failovers()],
            "traits": {name: getattr(traits, name) for name in traits.__slots__},
            "findings": [
                {
                    "subject": finding.subject,
                    "verdict": finding.verdict.value,
                    "text": finding.text,
                    "advice": finding.advice or None,
                }
                for finding in findings
            ],
        }


def _line(finding: Finding) -> str:
    text = f"{finding.text}; {finding.advice}" if finding.advice else finding.text
    verdict = _coloured(finding.verdict, f"{finding.verdict.value:<8}")
    return f"{verdict}  {plain(f'{finding.subject:<21} {text}')}\n"


def _end(findings: list[Finding], code: int) -> str:
    if code:
        return _coloured(Verdict.BAD, "locks will not work here") + "\n"
    doubts = sum(finding.verdict is Verdict.DOUBTFUL for finding in findings)
    if not doubts:
        return _coloured(Verdict.GOOD, "locks will work here") + "\n"
    what = "one thing is" if doubts == 1 else f"{doubts} things are"
    return _coloured(Verdict.DOUBTFUL, f"locks will work here, and {what} doubtful") + "\n"


def _coloured(verdict: Verdict, text: str) -> str:
    """In colour on a terminal whose user has not asked for none."""
    return f"{_COLOURS[verdict]}{text}{_PLAIN}" if colours() else text
