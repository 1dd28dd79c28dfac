"""Exit codes, in the numbers of sysexits.h where they fit, so that a script can tell our end from its own."""

from __future__ import annotations

from typing import Final

from leases.errors import (
    AcquireTimeout,
    ConfigurationError,
    LeaseLost,
    LeasesError,
    RecordRefused,
    StoreDenied,
    WrongToken,
)

OK: Final = 0
NO: Final = 1  # the answer of `validate`
USAGE: Final = 64
UNAVAILABLE: Final = 69
LOST: Final = 70
OUTPUT: Final = 74
CONFLICT: Final = 75
REFUSED: Final = 77
UNFIT: Final = 78
OVERTIME: Final = 124  # as of timeout(1)
CANNOT_RUN: Final = 126
NOT_FOUND: Final = 127
SIGNALLED: Final = 128  # plus the number of the signal
UNREAD: Final = 141  # as if SIGPIPE had ended it

# What a last word calls an end that one of these codes tells.
OUTCOMES: Final = {
    USAGE: "usage",
    UNAVAILABLE: "unavailable",
    LOST: "lost",
    CONFLICT: "conflict",
    REFUSED: "refused",
}


def code_of(error: LeasesError) -> int:
    """The exit code for an error; a conflict has the default one."""
    match error:
        case ConfigurationError():
            return USAGE
        case AcquireTimeout() | WrongToken():
            return CONFLICT
        case LeaseLost():
            return LOST
        case StoreDenied() | RecordRefused():
            return REFUSED
        case _:
            return UNAVAILABLE
