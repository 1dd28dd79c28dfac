"""What leaves the machine: requests, whose outcome comes back, and events, each told once.

Requests are to be sent at once, in order; hand the outcome to `Machine.handle` with the same number. All
durations are seconds; deadlines and instants of loss are on the holder's clock.
"""

from __future__ import annotations

from typing import NamedTuple

from leases.contract import Slot
from leases.errors import LossReason
from leases.record import Claim


class Read(NamedTuple):
    """Read the name; hand the Slot, or Unknown, or Refused, to `handle`. `timeout` is in seconds."""

    request: int
    timeout: float


class Swap(NamedTuple):
    """Swap once; hand the outcome to `handle`. `timeout` is in seconds."""

    request: int
    seen: Slot
    claim: Claim | None
    timeout: float


class Blocked(NamedTuple):
    """The lock is not to be had yet; `slot` shows why. Told for every new version. Watch from it."""

    slot: Slot


class Open(NamedTuple):
    """The lock could be had now, and this claim stands back. Told once for every version."""

    slot: Slot


class Granted(NamedTuple):
    """A claim is committed. Seal the fences with the token, then ask `confirm`: only that is success."""

    token: int
    deadline: float


class Renewed(NamedTuple):
    """A renewal is committed; `deadline` is on the holder's clock, `sent` was its send."""

    deadline: float
    sent: float


class Endangered(NamedTuple):
    """A renewal is overdue; the lease still stands until the deadline."""

    deadline: float


class Lost(NamedTuple):
    """The lease is over, for ever; `at` is on the holder's clock."""

    reason: LossReason
    at: float


class Released(NamedTuple):
    """The release has an end. Not `clean`: the store did not say, and the record may last for its ttl."""

    clean: bool


class GaveUp(NamedTuple):
    """Acquiring cannot succeed, and waiting will not help."""

    error: Exception


class WentBack(NamedTuple):
    """The store's own numbering went back, as after a restored backup: nothing it says can be trusted."""

    number: int
    known: int


Request = Read | Swap
Event = Blocked | Open | Granted | Renewed | Endangered | Lost | Released | GaveUp | WentBack
Output = Request | Event
