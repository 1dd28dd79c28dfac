"""What Linux does for whoever has to find every process of a command: prctl(2), of which Python has nothing.

Elsewhere all of this answers False, and what is left is the process group.
"""

from __future__ import annotations

import sys
from typing import Final

_SET_PDEATHSIG: Final = 1
_SET_NAME: Final = 15
_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> bool:
    """Be the parent of every descendant whose own parent has ended, in the place of the first process.

    So a process that forked twice, or started a session of its own, stays below us. It does not hold for
    what this process forks, only for this process.
    """
    return _prctl(_SET_CHILD_SUBREAPER, 1)


def leave_orphans() -> None:
    """Adopt nobody any more."""
    _prctl(_SET_CHILD_SUBREAPER, 0)


def die_with_parent(number: int) -> bool:
    """Get this signal when the parent ends. Whether it still lived, the caller has to look afterwards.

    It outlasts exec, but not that of a program with the set-user-ID bit.
    """
    return _prctl(_SET_PDEATHSIG, number)


def name_process(name: str) -> bool:
    """Be shown by this name in lists of processes; 15 bytes of it."""
    return _prctl(_SET_NAME, name.encode()[:15] + b"\0")


def _prctl(option: int, argument: int | bytes) -> bool:
    if sys.platform != "linux":
        return False
    try:
        # What ctypes is made of, at a fifth of the time that it takes to import: commands may be short.
        from _ctypes import call_function, dlopen, dlsym

        library = dlopen(None, 0)  # type: ignore[arg-type]  # typeshed knows no None, the program itself
        return int(call_function(dlsym(library, "prctl"), (option, argument, 0, 0, 0))) == 0
    except (ImportError, AttributeError, TypeError):
        return _by_ctypes(option, argument)
    except OSError:  # No such function in a program that was linked without it.
        return False


def _by_ctypes(option: int, argument: int | bytes) -> bool:
    """The same on a Python that is made of other parts."""
    try:
        import ctypes

        return int(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)) == 0
    except (ImportError, AttributeError, OSError):
        return False
