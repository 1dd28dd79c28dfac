"""What the logger ``leases`` is told of claims, without making anybody wait for it.

WARNING: a lease was lost; a renewal is overdue; a store stopped answering. INFO: it answers again.
DEBUG: every lock that was acquired or released. Handlers may be slow and a loss may not wait for them, so
each line is handed to the relay. None shows a credential: a store is named by its identity, which has none.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leases.errors import LeaseLost
from leases.hooks import relay

if TYPE_CHECKING:
    from logging import Logger

# The values of logging.DEBUG and so on, which are for ever; importing it costs more than opening a store.
_DEBUG, _INFO, _WARNING = 10, 20, 30

_logger: Logger | None = None
_hushed = False


@contextmanager
def hushed() -> Generator[None, None, None]:
    """Say nothing meanwhile, in a program that tells it all in words of its own."""
    global _hushed
    before, _hushed = _hushed, True
    try:
        yield
    finally:
        _hushed = before


def debugging() -> bool:
    """Whether anybody wants to read of every lock; where nothing has imported logging, nobody does."""
    global _logger
    if _logger is None:
        if "logging" not in sys.modules:
            return False
        import logging

        _logger = logging.getLogger("leases")
    return _logger.isEnabledFor(_DEBUG)


def acquired(name: str, store: str, token: int | None, waited: float) -> None:
    """A lock was acquired."""
    _post(_DEBUG, 'lock "%s" acquired after %.3f s: token %s, on %s', name, waited, token, store)


def released(name: str, store: str, token: int | None, *, clean: bool) -> None:
    """A lock was released, or the store did not say so."""
    how = "released" if clean else "released without an answer, so that its record may last for its ttl"
    _post(_DEBUG, 'lock "%s" %s: token %s, on %s', name, how, token, store)


def endangered(name: str, store: str, token: int | None, silence: float, left: float, why: object) -> None:
    """A renewal is overdue.

    Args:
        name: the lock.
        store: its store, without secrets.
        token: of the tenure.
        silence: seconds since the last renewal that was committed was sent.
        left: seconds to the deadline.
        why: what the store said last, if anything.
    """
    _post(
        _WARNING,
        'lease on "%s" is in jeopardy: last renewed %.1f s ago, lost in %.1f s unless renewed before; '
        "token %s, on %s%s",
        name, silence, left, token, store, _trouble(why),
    )  # fmt: skip


def lost(loss: LeaseLost, store: str, silence: float, why: object) -> None:
    """A lease was lost; the arguments are as for `endangered`."""
    _post(
        _WARNING,
        "%s; last renewed %.1f s ago, token %s, on %s%s",
        loss, silence, loss.token, store, _trouble(why),
    )  # fmt: skip


def away(store: str, why: object) -> None:
    """A store stopped answering; said once, until it answers again."""
    _post(_WARNING, "%s gives no answer that can be used%s", store, "" if why is None else f": {why}")


def back(store: str, silence: float) -> None:
    """A store that had stopped answering does again, after so many seconds."""
    _post(_INFO, "%s answers again, after %.1f s", store, silence)


def warn(message: str, *args: object) -> None:
    """Something else that somebody should look at."""
    _post(_WARNING, message, *args)


def _trouble(why: object) -> str:
    return "" if why is None else f"; last trouble: {why}"


def _post(level: int, message: str, *args: Any) -> None:
    if not _hushed:
        relay.post(_log, level, message, args)


def _log(level: int, message: str, args: tuple[Any, ...]) -> None:
    import logging

    logging.getLogger("leases").log(level, message, *args)
