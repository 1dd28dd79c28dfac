"""The rules of the protocol, broken one at a time: what the tests are tested by.

A mutant is a copy of a module whose source was changed in a few places; nothing in the module itself knows of
it. Every mutant has to be caught, and says by what.
"""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Change = tuple[str, str]  # what occurs exactly once in the source, and what stands there instead


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken rule.

    Attributes:
        name: what it is called on the command line.
        rule: the rule that it breaks.
        changes: source text that occurs exactly once, and what stands there instead.
        world: the small world in which the explorer finds it out.
        module: whose source is changed.
        schedule: a test of the machine, driven by hand, that fails where the explorer has no eye for it.
    """

    name: str
    rule: str
    changes: tuple[Change, ...]
    world: str = ""
    module: str = "leases.machine"
    schedule: str = ""


def load(mutant: Mutant) -> types.ModuleType:
    """The broken module, beside the right one.

    Raises:
        ValueError: the source does not have the text to change exactly once; the mutant has to follow it.
    """
    right = importlib.import_module(mutant.module)
    assert right.__file__ is not None
    source = Path(right.__file__).read_text(encoding="utf-8")
    for old, new in mutant.changes:
        if source.count(old) != 1:
            raise ValueError(
                f"mutant {mutant.name}: {old!r} occurs {source.count(old)} times in {mutant.module}"
            )
        source = source.replace(old, new)
    broken = types.ModuleType(f"{mutant.module} ({mutant.name})")
    broken.__file__ = right.__file__
    broken.__package__ = right.__package__
    sys.modules[broken.__name__] = broken  # Dataclasses look there for the module that they are made in.
    try:
        exec(compile(source, f"{right.__file__} ({mutant.name})", "exec"), broken.__dict__)  # noqa: S102
    finally:
        del sys.modules[broken.__name__]
    return broken


def modules(mutant: Mutant | None) -> tuple[Any, Any]:
    """The machine's module and that of its terms, of which a mutant has broken one."""
    found = {name: importlib.import_module(name) for name in ("leases.machine", "leases.terms")}
    if mutant is not None:
        found[mutant.module] = load(mutant)
    return found["leases.machine"], found["leases.terms"]


_RIPE: Final = "ripe = self._seen_at(now, slot) + claim.ttl - now.wait"
_EXPIRE: Final = "if self.phase in _OURS and now.hold >= self.deadline:"
_LAST_LOOK: Final = """the last look at the clock, after any sealing."""
_HELD: Final = "return self.phase in _BELIEVING and now.hold < self.deadline"
_NEXT: Final = "return max(self._floor, seen.floor, token if token is not None else 0) + 1"
_MET: Final = "self._last = slot if self._mine_to_free(slot) else None"

_MUTANTS: Final = (
    Mutant(
        "deadline-from-reply",
        "the deadline counts from before the send",
        (
            (
                "self._count(attempt)\n        self._view, self._sightings",
                "self._count(attempt._replace(sent=now.hold))\n        self._view, self._sightings",
            ),
        ),
        "takeover",
    ),
    Mutant(
        "renewed-from-reply",
        "a renewal counts from before its send",
        (("self._extend(attempt)", "self._extend(attempt._replace(sent=now.hold))"),),
        "late",
    ),
    Mutant(
        "observed-at-send",
        "a version is timed from after the reply in which it was first seen",
        (
            (
                "Sighting(slot.version, slot.body, now.wait)",
                "Sighting(slot.version, slot.body, self._poll_at - self.terms.attempt)",
            ),
        ),
        "takeover",
    ),
    Mutant(
        "wall-clock-trusted",
        "no decision looks at the wall clock, least of all at another's",
        ((_RIPE, "ripe = claim.renewed + claim.ttl - now.wall"),),
        "takeover",
    ),
    Mutant(
        "own-ttl",
        "a waiter waits the ttl that the record names",
        ((_RIPE, "ripe = self._seen_at(now, slot) + self.terms.ttl - now.wait"),),
        "ttls",
    ),
    Mutant(
        "release-of-what-stands",
        "a release names a version of its own, and touches nothing else",
        ((_MET, "self._last = slot if slot.held else None"),),
        "release",
    ),
    Mutant(
        "release-after-reading",
        "a release trusts what it wrote, not what a fresh read shows to stand there",
        (
            (
                "self._not_before, self._doubt, self._flight = now.wait, False, None",
                "self._not_before, self._doubt, self._flight = now.wait, True, None",
            ),
            (_MET, "self._last = slot if slot.held else None"),
        ),
        "release",
    ),
    Mutant(
        "no-margin",
        "V leaves room for the rates of clocks",
        (("bound = ttl * (1 - rate) / (1 + rate) - guard", "bound = ttl - guard"),),
        "takeover",
        "leases.terms",
    ),
    Mutant(
        "one-step-above",
        "the bound on V is tight: one unit more is too much",
        (("bound = ttl * (1 - rate) / (1 + rate) - guard", "bound = ttl * (1 - rate) / (1 + rate) + 1"),),
        "takeover",
        "leases.terms",
    ),
    Mutant(
        "takeover-of-newest",
        "a takeover names the version that was timed, and no newer one",
        (
            (
                "            sighting = Sighting(slot.version, slot.body, now.wait)",
                (
                    "            first = self._sightings[0].at if self._sightings else now.wait\n"
                    "            sighting = Sighting(slot.version, slot.body, first)"
                ),
            ),
        ),
        "silent",
    ),
    Mutant(
        "unknown-is-success",
        "what is unknown is no success",
        (
            (
                "            self._after_silence(now, void and self._sent(request) is not None)",
                (
                    "            sent = self._sent(request)\n"
                    "            if sent is not None and self.phase in _OURS:\n"
                    "                return self._extend(sent)\n"
                    "            self._after_silence(now, void and sent is not None)"
                ),
            ),
        ),
        "unknown",
    ),
    Mutant(
        "unknown-is-failure",
        "what is unknown may have happened: a witness is recognised by its beat",
        (
            (
                "        if void:\n            self._settle(request)",
                "        self._attempts = tuple(a for a in self._attempts if a.request != request)",
            ),
        ),
        "unknown",
    ),
    Mutant(
        "late-success",
        "success is not reported after its deadline",
        ((f'{_LAST_LOOK}"""\n        self._expire(now)\n', f'{_LAST_LOOK}"""\n'),),
        "takeover",
    ),
    Mutant(
        "checked-before-sealing",
        "the look at the clock comes after the sealing of fences, and not when the grant is told",
        (
            (f'{_LAST_LOOK}"""\n        self._expire(now)\n', f'{_LAST_LOOK}"""\n'),
            (_EXPIRE, "if self.phase in _BELIEVING and now.hold >= self.deadline:"),
        ),
        "takeover",
    ),
    Mutant(
        "held-is-a-flag",
        "whether the lease stands is asked of the clock, every time",
        ((_HELD, "return self.phase in _BELIEVING"),),
        "takeover",
    ),
    Mutant(
        "renewal-past-deadline",
        "a renewal is never sent past the deadline",
        ((_EXPIRE, "if self.phase in _OURS and now.hold >= self.deadline + 1:"),),
        "takeover",
    ),
    Mutant(
        "vanished-is-free",
        "where release leaves a record, one that vanished is not free",
        (("if self.traits.release_deletes or self._missing is None:", "if True:"),),
        "vanish",
    ),
    Mutant(
        "vanished-from-last-sighting",
        "a vanished record is timed from when it was first missing",
        (("self._missing = (slot.claim.ttl, -1.0)", "self._missing = (slot.claim.ttl, now.wait)"),),
        "vanish",
    ),
    Mutant(
        "one-beat",
        "every send has a beat of its own, a retry too",
        (
            (
                "self.holder, self.claim_id, self._beat(), self.terms.ttl",
                "self.holder, self.claim_id, self.claim_id[16:], self.terms.ttl",
            ),
        ),
        "silent",
    ),
    Mutant(
        "another-send",
        "a committed attempt counts from its own send, not from the latest",
        (
            (
                "self.deadline = max(self.deadline, attempt.sent + self.terms.hold)",
                "self.deadline = max(self.deadline, max(a.sent for a in self._attempts) + self.terms.hold)",
            ),
        ),
        "late",
    ),
    Mutant(
        "ttl-in-mid-tenure",
        "the ttl of a tenure is fixed",
        (
            (
                "claim = replace(self._fresh(now, self.token), acquired=self._acquired)",
                "claim = replace(self._fresh(now, self.token), ttl=self.terms.ttl / 2)",
            ),
        ),
        "late",
    ),
    Mutant(
        "blind-to-sleep",
        "the holder's clock counts the sleep of its host",
        (
            (_HELD, "return self.phase in _BELIEVING and now.wait < self.deadline"),
            (_EXPIRE, "if self.phase in _OURS and now.wait >= self.deadline:"),
            ("            now.hold,\n            seen,", "            now.wait,\n            seen,"),
        ),
        schedule="test_s10_the_holder_counts_the_sleep_of_its_host",
    ),
    Mutant(
        "waits-asleep",
        "the waiter's clock does not count the sleep of its host",
        (
            (_RIPE, "ripe = self._seen_at(now, slot) + claim.ttl - now.hold"),
            (
                "Sighting(slot.version, slot.body, now.wait)",
                "Sighting(slot.version, slot.body, now.hold)",
            ),
        ),
        schedule="test_s10_the_waiter_does_not_count_the_sleep_of_its_host",
    ),
    Mutant(
        "namesake-inherits",
        "a process that comes back under the same name inherits nothing",
        (
            (
                "        if claim is None or not claim.held:\n            return False\n        return any(",
                (
                    "        if claim is None or not claim.held:\n            return False\n"
                    "        return claim.holder == self.holder or any("
                ),
            ),
        ),
        "restart",
    ),
    Mutant(
        "stale-news-deposes",
        "older news is no news",
        (("        if self._is_old(slot):\n            return Whose.OLD, None", "        pass"),),
        "live",
    ),
    Mutant(
        "unordered-news-deposes",
        "where versions have no order, only a swap deposes a holder",
        (("and not self._is_proof(refusal_of):", "and False:"),),
        "live-unordered",
    ),
    Mutant(
        "timer-restarts",
        "a version keeps its first sighting, whatever stale reads show in between",
        (
            (
                "        if all((s.version, s.body) != (slot.version, slot.body) for s in self._sightings):",
                (
                    "        if self._sightings[-1:] == () or self._sightings[-1].version != slot.version:\n"
                    "            self._sightings = ()"
                ),
            ),
        ),
        schedule="test_s70_two_stale_replicas_alternate",
    ),
    Mutant(
        "instants-everywhere",
        "instants are compared only on a store that lives on this host",
        (("self._boot = boot if traits.local else None", "self._boot = boot"),),
        schedule="test_instants_that_say_nothing",
    ),
    Mutant(
        "instants-of-any-boot",
        "an instant of another boot says nothing",
        (("claim.boot != self._boot or claim.sent is None", "claim.sent is None"),),
        schedule="test_instants_that_say_nothing",
    ),
    Mutant(
        "copy-is-mine",
        "a beat that was never sent is a copy's, and the lease is lost",
        (
            (
                "return (Whose.COPY if mine else Whose.OTHER), None",
                "return (Whose.EDITED if mine else Whose.OTHER), None",
            ),
        ),
        schedule="test_a_beat_that_was_never_sent_is_a_copys",
    ),
    Mutant(
        "edit-counts",
        "an edit of the object is no renewal",
        (
            (
                "self._last, self._renew_at = slot, now.hold",
                "self._last, self.deadline = slot, now.hold + self.terms.hold",
            ),
        ),
        "live-edited",
    ),
    Mutant(
        "deadline-moves-back",
        "the deadline never moves back",
        (
            (
                "            self._go(Phase.JEOPARDY)\n            self._out.append(Endangered",
                (
                    "            self._go(Phase.JEOPARDY)\n            self.deadline -= self.terms.attempt\n"
                    "            self._out.append(Endangered"
                ),
            ),
        ),
        "late",
    ),
    Mutant(
        "token-of-creation",
        "the token is the number of the acquiring write, and a takeover does not create",
        (
            (
                "token = attempt.token if attempt.token is not None else slot.order",
                "token = attempt.token if attempt.token is not None else attempt.seen.order or slot.order",
            ),
        ),
        "takeover",
    ),
    Mutant(
        "token-kept-on-takeover",
        "a takeover has a token of its own",
        (
            (
                _NEXT,
                "return token if seen.held and token else max(self._floor, seen.floor, token or 0) + 1",
            ),
        ),
        "counter",
    ),
    Mutant(
        "token-kept-on-reacquisition",
        "the next acquisition has a token of its own, the same holder's too",
        (
            (
                _NEXT,
                "return token if token and not seen.held else max(self._floor, seen.floor, token or 0) + 1",
            ),
        ),
        "counter",
    ),
    Mutant(
        "token-kept-on-hand-over",
        "the next thread of a process has a token of its own",
        (
            (
                _NEXT,
                (
                    "kept = token is not None and self._mine_to_free(seen)\n"
                    "        return token if kept else max(self._floor, seen.floor, token or 0) + 1"
                ),
            ),
        ),
        "counted-heirs",
    ),
    Mutant(
        "metadata-forgotten",
        "a metadata update that meets a renewal in flight is sent right after it",
        (("if attempt.edition != self._edition:", "if False:"),),
        schedule="test_s72_a_metadata_update_waits_for_the_renewal_in_flight",
    ),
    Mutant(
        "swap-storm",
        "a version that conflicted is timed anew",
        (("            if attempt.seen.held:", "            if False:"),),
        schedule="test_s16_a_replica_that_shows_an_old_record_for_ever",
    ),
    Mutant(
        "hints-first",
        "a renewal that is due goes before any hint",
        (("(self.phase in _OURS and not self._renewal_due(now)):", "(self.phase in _OURS):"),),
        schedule="test_hints_do_not_starve_the_renewal",
    ),
    Mutant(
        "renews-for-ever",
        "work that was told to stop, or shows no progress, is not renewed any more",
        (("        elif now.hold < self._renew_until:", "        else:"),),
        schedule="test_a_lease_that_is_not_to_be_renewed_runs_out",
    ),
    Mutant(
        "late-refusal-decides",
        "a refusal that nobody waits for decides nothing",
        (
            (
                "        if not awaited:\n            return  # It says",
                "        if False:\n            return  # It says",
            ),
        ),
        schedule="test_an_old_refusal_deposes_nobody",
    ),
)

MUTANTS: Final = {mutant.name: mutant for mutant in _MUTANTS}
