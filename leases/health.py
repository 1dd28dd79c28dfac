"""Whether the leases of this process are looked after: for a liveness probe.

    from leases import health

    health.check().ok

It fails when what renews is wedged, because a new process would help: the keeper's thread is gone or stands
still, every courier of a store hangs in a call that does not return, or a timer of a claim is overdue. It
does not fail because a store is out of reach or a lease was lost: a new process would fare no better. It
waits for nothing and takes no lock, as a thread that is wedged may have any. A host that has slept is behind
for up to a second after it wakes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leases.errors import ConfigurationError
from leases.hub import Hub, hubs
from leases.keeper import keeper
from leases.tenure import Tenure

GRACE = 1.0  # seconds; threads are late by that much on a machine that is merely busy


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at this process found.

    Attributes:
        reasons: what is wrong, one sentence each; empty where nothing is.
    """

    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "; ".join(self.reasons) or "ok"


def check(*, grace: float = GRACE) -> Health:
    """Look at everything in this process that keeps leases. It takes microseconds, and never waits.

    Args:
        grace: seconds by which something may be late. Default 1.

    Raises:
        ConfigurationError: a grace that is no number of seconds.
    """
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not grace >= 0:
        raise ConfigurationError(f"grace={grace!r} is not a number of seconds; pass 0 or more")
    found = list(_of_the_keeper(grace))
    for hub in hubs():
        found.extend(_of_a_store(hub, grace))
    return Health(tuple(dict.fromkeys(found)))


def _of_the_keeper(grace: float) -> Iterator[str]:
    if keeper.late > grace:
        what = "stands still" if keeper.alive else "is gone"
        yield f"the thread that renews all leases {what}, {keeper.late:.1f} s behind; restart this process"


def _of_a_store(hub: Hub, grace: float) -> Iterator[str]:
    store = hub.backend.identity
    if hub.couriers.stuck(grace):
        yield f"all threads that talk to {store} hang in calls that do not return; restart this process"
    now = hub.clock()
    for member in hub.members:
        if isinstance(member, Tenure) and not member.gone:
            late = member.machine.late(now)
            if late > grace:
                who = f'lock "{member.name}" on {store}'
                yield f"{who} is not looked after, {late:.1f} s behind; restart this process"
