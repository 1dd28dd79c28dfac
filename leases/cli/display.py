"""For whom a command waits: on a terminal in place, elsewhere a line for every change if that is wanted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from leases.cli.console import span
from leases.clock import system_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leases.cli.console import Console
    from leases.cli.search import Want
    from leases.contract import Slot
    from leases.tenure import Tenure

_NOBODY: Final = "nobody, because it was broken"
_SHOW_AFTER: Final = 0.3  # who waits for less need not be told for whom
_SHOW_EVERY: Final = 1.0
_TROUBLE_AFTER: Final = 5.0  # a store that is busy for less need not be spoken of
_NAMED: Final = 5  # holders of slots in one line


class Display:
    """What is shown of an acquisition under way.

    Args:
        want: what is acquired.
        claims: those of it that are under way.
        console: where it is shown.
    """

    def __init__(self, want: Want, claims: Callable[[], Sequence[Tenure]], console: Console) -> None:
        self._want, self._claims, self._console = want, claims, console
        self._began = system_clock().wait
        self._due = self._began + _SHOW_AFTER
        self._noted: object = None

    def pause(self) -> float:
        """Seconds until the next look."""
        return max(self._due - system_clock().wait, 0.0)

    def turn(self) -> None:
        """Look, if it is time for it. The store is not asked: who acquires has seen the same."""
        now = system_clock().wait
        claims = self._claims()
        if now < self._due or not claims:
            return
        self._due = now + _SHOW_EVERY
        held = [slot for it in claims if (slot := it.machine.blocker) is not None and slot.held]
        trouble = next((it.machine.trouble for it in claims if it.machine.trouble is not None), None)
        if held and self._want.slots is None:
            self._show_holder(held[0])
        elif held:
            self._show_holders(held, self._want.slots or 0)
        elif trouble is not None:
            self._show_trouble(trouble, now)

    def _show_holder(self, slot: Slot) -> None:
        claim = slot.claim
        assert claim is not None
        since = f" for {span(time.time() - claim.acquired)}" if claim.acquired else ""
        text = f'waiting for "{slot.name}", held by {claim.holder or _NOBODY}{since}'
        facts = {"holder": claim.holder, "token": slot.token, "since": claim.acquired}
        self._show(claim.id, text, slot.name, **facts)

    def _show_holders(self, held: Sequence[Slot], slots: int) -> None:
        claims = [slot.claim for slot in held if slot.claim is not None]
        holders = sorted(claim.holder or _NOBODY for claim in claims)
        more = f" and {len(holders) - _NAMED} more" if len(holders) > _NAMED else ""
        text = f'waiting for one of {slots} slots of "{self._want.name}", held by '
        text += ", ".join(holders[:_NAMED]) + more
        self._show({claim.id for claim in claims}, text, self._want.name, holders=holders)

    def _show(self, what: object, text: str, name: str, **facts: object) -> None:
        """Note it once, and show it anew each time."""
        if self._noted != what:
            self._noted = what
            self._console.note("waiting", text, name=name, **facts)
        self._console.show(text)

    def _show_trouble(self, trouble: Exception, now: float) -> None:
        """Said once to everybody, because it may never end."""
        text = f"waiting for the store: {trouble}"
        if self._noted is not trouble.__class__ and now >= self._began + _TROUBLE_AFTER:
            self._noted = trouble.__class__
            self._console.say("trouble", text)
        self._console.show(text)
