"""The progress rule: a lease is renewed as long as somebody says that the work gets on.

`renew_while` is asked in a thread of its own, because it may hang with the work. Each time that it says yes,
renewals are allowed for one interval of renewal more, counted from when it was asked. If it says no, raises,
or does not answer, they end, and so does the lease, at the deadline it then has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Protocol

from leases.errors import ConfigurationError
from leases.keeper import report
from leases.terms import Terms
from leases.threads import Bell


class Renewable(Protocol):
    """A tenure whose renewals can be limited."""

    @property
    def working(self) -> bool: ...
    def now(self) -> float: ...
    def limit(self, why: str, until: float) -> None: ...


class Progress:
    """Asks for one elector, in one thread, whichever of its tenures there is.

    Args:
        ask: whether the work gets on; called about twice in every interval of renewal, while there is work.
        terms: the durations.
        name: what is led, for the name of the thread.
    """

    WHY = "progress"

    def __init__(self, ask: Callable[[], object], terms: Terms, name: str) -> None:
        self._ask, self._allowed, self._pause = ask, terms.renew, terms.renew / 2
        self._bell = Bell()
        self._closed = False
        self._of: Renewable | None = None
        threading.Thread(target=self._run, name=f"leases-progress-{name}", daemon=True).start()

    def watch(self, tenure: Renewable) -> None:
        """From here on it is about this tenure."""
        tenure.limit(self.WHY, tenure.now() + self._allowed)
        self._of = tenure
        self._bell.ring()

    def close(self) -> None:
        """Ask no more; a question that hangs is left alone."""
        self._closed = True
        self._bell.ring()

    def _run(self) -> None:
        while not self._closed:
            tenure = self._of
            if tenure is None or not tenure.working:
                self._bell.wait(None)
                continue
            asked_at = tenure.now()
            if self._answer() and tenure is self._of:
                tenure.limit(self.WHY, asked_at + self._allowed)
            self._bell.wait(self._pause)

    def _answer(self) -> bool:
        try:
            answer = self._ask()
            if isinstance(answer, Coroutine):  # Which would be a yes for ever.
                answer.close()
                raise ConfigurationError(f"{self._ask!r} gave a coroutine; pass a coroutine function itself")
            return bool(answer)
        except BaseException as error:  # Not even SystemExit may end this thread: nobody would ask again.
            report("renew_while failed, which counts as no: %r", self._ask, error)
            return False
