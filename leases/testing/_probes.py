"""What the conformance suite asks with: claims to write, outcomes to judge, hints to wait for."""

from __future__ import annotations

import os
import queue
import secrets
import signal
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Final

from leases.contract import Applied, Backend, Conflict, Outcome, Slot, absent
from leases.record import RECORD_BYTES, Claim, encode

TIMEOUT: Final = 10.0  # seconds for a call that should be answered, on however slow a machine


class Hints(queue.SimpleQueue["Slot | None"]):
    """A listener that keeps what it was told."""

    def __call__(self, slot: Slot | None) -> None:
        self.put(slot)

    def expect(self, slot: Slot) -> None:
        """Wait for a hint that shows this slot, or asks to read."""
        until = time.monotonic() + TIMEOUT
        while (hint := self.get(timeout=max(0.0, until - time.monotonic()))) is not None:
            if (hint.name, hint.version, hint.claim) == (slot.name, slot.version, slot.claim):
                return


def a_claim(backend: Backend, seen: Slot, holder: str = "suite") -> Claim:
    """A new claim such as the protocol would write over what was seen."""
    token = None
    if not backend.traits.token_from_write:
        known = seen.claim.token if seen.claim is not None and seen.claim.token is not None else 0
        token = max(seen.floor, known) + 1
    return Claim(holder, secrets.token_hex(16), secrets.token_hex(8), 15.0, token, acquired=1.5, renewed=2.5)


def claims_of_all_sorts(backend: Backend) -> Iterator[Claim]:
    """Claims that use every field, up to the largest record."""
    plain = a_claim(backend, absent("any"), "höst-1 / 容器 🦊")
    yield plain
    yield replace(plain, token=2**100, beat=secrets.token_hex(8), ttl=0.1)
    yield replace(plain, boot="5b2f5c8e-0000-4000-8000-000000000000", sent=123456.789012345)
    yield replace(plain, metadata={"ключ": "значение", "": "\n\t\0\"'\\%", "emoji": "👩‍🚒"})
    yield replace(plain, id="", beat=secrets.token_hex(8))
    yield plain.freed(token=41, successor="web-2 é")
    room = RECORD_BYTES // 2 - 40
    full = replace(plain, beat=secrets.token_hex(8), metadata={"long": "x" * room})
    assert len(encode(full)) > RECORD_BYTES // 2
    yield full


def put(backend: Backend, seen: Slot, holder: str = "suite") -> Slot:
    """Swap a new claim onto what was seen, and return the slot that it made."""
    return applied(backend.swap(seen, a_claim(backend, seen, holder), TIMEOUT))


def awaited(backend: Backend, name: str, version: Hashable) -> Slot:
    """What stands under a name once it shows a version that another connection wrote: reads may lag."""
    until = time.monotonic() + TIMEOUT
    while True:
        slot = backend.read(name, TIMEOUT)
        if slot.version == version or time.monotonic() > until:
            return slot
        time.sleep(0.001)


def applied(outcome: Outcome) -> Slot:
    """The slot of a swap that must have been committed."""
    assert isinstance(outcome, Applied), outcome
    return outcome.slot


def conflicted(outcome: Outcome, stands: Slot | None = None) -> None:
    """Check that a swap conflicted and, if it says with what, that it says the truth."""
    assert isinstance(outcome, Conflict), outcome
    assert stands is None or outcome.slot in (None, stands)


def number(value: int | None) -> int:
    """A number that must be there."""
    assert value is not None
    return value


def long_name(name: str, end: str) -> str:
    """A name of 256 bytes, whose last decides."""
    return name + "n" * (256 - len(name) - len(end)) + end


def in_child(work: Callable[[], None]) -> int:
    """Run something in a forked child, and return how it ended: 0 is well, 1 an error, else a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        signal.alarm(60)
        work()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)
