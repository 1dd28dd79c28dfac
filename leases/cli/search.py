"""What `leases hold` seeks: a lock, or one of the slots of a semaphore. Driven by `leases.cli.waiting`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leases.hub import Ticket
from leases.script import acquiring
from leases.tenure import Tenure, Wish

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from leases.hub import Hub
    from leases.script import Wait
    from leases.semaphore import Semaphore
    from leases.terms import Terms


class Want(NamedTuple):
    """What is to be acquired, checked as far as that is possible without the store.

    Attributes:
        url: the store.
        name: the lock, or the semaphore.
        holder: who is to hold it.
        terms: the durations.
        metadata: what others are to see.
        timeout: seconds to wait in all; None for ever, 0 not at all.
        slots: how many may hold it; None for a lock.
        at_least: seconds for which it is to be kept from its acquisition on, even if it is released before.
    """

    url: str
    name: str
    holder: str
    terms: Terms
    metadata: Mapping[str, str]
    timeout: float | None
    slots: int | None = None
    at_least: float = 0.0


class Search(NamedTuple):
    """A script that acquires, and what it is about.

    Attributes:
        script: see `leases.script`; without fences, so it never asks for a function to be called.
        names: the locks of which it seeks one.
        claims: those under way.
    """

    script: Generator[Wait, None, Tenure]
    names: list[str]
    claims: Callable[[], list[Tenure]]


def semaphore_of(want: Want) -> Semaphore:
    """The semaphore that is wanted; nothing is opened.

    Raises:
        ConfigurationError: a name or a number that cannot work.
    """
    from leases.semaphore import Semaphore

    assert want.slots is not None, "only who wants slots asks for it"
    return Semaphore(
        want.name, want.slots, store=want.url, holder=want.holder, metadata=want.metadata, terms=want.terms
    )


def search(hub: Hub, want: Want, ring: Callable[[], object]) -> Search:
    """Begin to seek what is wanted; `ring` is called when something has changed."""
    return _for_a_lock(hub, want, ring) if want.slots is None else _for_a_slot(hub, want, ring)


def _for_a_lock(hub: Hub, want: Want, ring: Callable[[], object]) -> Search:
    ticket = Ticket(ring)
    wish = Wish(want.name, want.holder, want.terms, want.metadata)

    def claims() -> list[Tenure]:
        return [ticket.member] if isinstance(ticket.member, Tenure) else []

    return Search(acquiring(hub, wish, want.timeout, ticket, here=True), [want.name], claims)


def _for_a_slot(hub: Hub, want: Want, ring: Callable[[], object]) -> Search:
    from leases import choice

    semaphore = semaphore_of(want)
    chosen = semaphore.choice(hub, Ticket(ring))

    def claims() -> list[Tenure]:
        return [tenure for seat in chosen.seats if (tenure := seat.tenure) is not None]

    names = [semaphore.slot_name(slot) for slot in range(semaphore.slots)]
    return Search(choice.acquiring(chosen, want.timeout, here=True), names, claims)
