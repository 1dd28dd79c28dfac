"""For who comes from flock(1): its options that say what is so anyway, and those that cannot be had."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final, NoReturn

from leases.cli.options import UsageError

_IN_ONE: Final = "put all that is to run under it into one command: leases hold NAME -c 'first; second'"
_SO_ANYWAY: Final = {
    ("-x", "-e", "--exclusive"): "it always is",
    ("-o", "--close"): "there is no descriptor that the command could inherit",
}
_CANNOT_BE: Final = {
    ("-F", "--no-fork"): (
        "the renewer has to live",
        "what renews the lease has to live beside the command; leave it out",
    ),
    ("-s", "--shared"): (
        "use --slots N",
        "a lease has one holder; leave it out, or let N hold with --slots N",
    ),
    ("-u", "--unlock"): (
        "the lock is freed when the command ends",
        f"the lock is freed when the command ends; {_IN_ONE}",
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    for names, what in _SO_ANYWAY.items():
        parser.add_argument(*names, action="store_true", help=f"as flock; {what}")
    for names, (what, why) in _CANNOT_BE.items():
        parser.add_argument(*names, action=_Refuse, nargs=0, const=why, help=f"refused: {what}")


class _Refuse(argparse.Action):
    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        raise UsageError(f"{', '.join(self.option_strings)} cannot be had: {self.const}")


def refuse_descriptor(name: str) -> None:
    """Refuse `flock 9`: it would hold a lock by the name of 9, and the script would never go on.

    Args:
        name: the lock, where there is no command.

    Raises:
        UsageError: it is a number, and the caller has opened a descriptor of that number.
    """
    if not (name.isascii() and name.isdigit() and len(name) < 10):
        return
    try:
        os.fstat(int(name))
    except OSError:
        return
    raise UsageError(
        f"{name} is an open descriptor, and a lease cannot be left on one, as flock does: who renews it has "
        f"to live; {_IN_ONE}"
    )
