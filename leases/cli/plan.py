"""What the words after `leases hold` ask for, checked as far as that needs no store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from leases.cli.command import SHELL
from leases.cli.flock import refuse_descriptor
from leases.cli.options import UsageError
from leases.cli.search import Want, semaphore_of
from leases.cli.supervisor import Grace
from leases.errors import ConfigurationError
from leases.identity import default_holder
from leases.record import TTL_MOST, check_holder, check_metadata, check_name
from leases.registry import scheme_of, store_url
from leases.terms import Terms

if TYPE_CHECKING:
    import argparse

KILL_AFTER_MOST: Final = 5.0
MARGIN_MOST: Final = 0.1


class Plan(NamedTuple):
    """What was asked for, checked as far as that needs no store.

    Attributes:
        want: what to acquire.
        words: the command; empty where there is none.
        grace: when to stop it.
        lost: the exit code when the lease was lost.
        stdin: whether the command reads ours.
        at_most: seconds that the command may run; None for as long as it likes.
        restart: whether to take part again after a loss.
    """

    want: Want
    words: list[str]
    grace: Grace
    lost: int
    stdin: bool
    at_most: float | None = None
    restart: bool = False


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the arguments make.

    Raises:
        UsageError: they contradict each other.
        ConfigurationError: a name, a duration or a URL that cannot work.
    """
    url = store_url(args.backend)
    scheme_of(url)
    terms = Terms(args.ttl)
    holder = default_holder() if args.holder is None else check_holder(args.holder)
    timeout = 0.0 if args.nonblock or (args.skip and args.wait is None) else args.wait
    want = Want(
        url, check_name(args.name), holder, terms, check_metadata(dict(args.meta)), timeout,
        args.slots, _at_least(args),
    )  # fmt: skip
    if args.slots is not None:
        semaphore_of(want)
    words = _words(args)
    if not words:
        refuse_descriptor(args.name)
    if not words and (args.at_most_for is not None or args.restart):
        option = "--restart" if args.restart else "--at-most-for"
        raise UsageError(f'{option} without a command; write one after "--"')
    if args.at_most_for == 0:
        raise UsageError("--at-most-for 0 leaves the command no time; leave it out, or give it some")
    grace = _grace(terms, args.kill_after)
    at_most, stdin = args.at_most_for, not args.no_stdin
    return Plan(want, words, grace, args.lost_exit_code, stdin, at_most, args.restart)


def _at_least(args: argparse.Namespace) -> float:
    """For how long the lock is to be kept, from its acquisition on."""
    least: float = args.at_least_for
    if least > TTL_MOST:
        raise UsageError(
            f"--at-least-for {least:g} s is over the {TTL_MOST:.0f} s that a record can last; choose less"
        )
    return least


def _words(args: argparse.Namespace) -> list[str]:
    """The command, as it will be executed."""
    words: list[str] = args.command
    if args.line is not None:
        if words:
            raise UsageError('both -c STRING and a command after "--" were given; leave one out')
        words, args.shell = [args.line], True
    if not args.shell:
        return words
    if not words:
        raise UsageError('--shell without a command; write one after "--"')
    return [SHELL, "-c", " ".join(words)]


def _grace(terms: Terms, kill_after: float | None) -> Grace:
    """When to stop the command, if there is time for that after a renewal that came late.

    Raises:
        ConfigurationError: there is not.
    """
    margin = min(terms.hold / 50, MARGIN_MOST)
    if kill_after is None:
        return Grace(min(terms.hold / 4, KILL_AFTER_MOST), margin)
    most = terms.hold - terms.renew - terms.attempt
    if kill_after >= most:
        raise ConfigurationError(
            f"--kill-after {kill_after:g} s does not fit --ttl {terms.ttl:g} s: of a lease that is renewed "
            f"late {most:.3g} s may be left; choose less than that, or a longer --ttl"
        )
    return Grace(kill_after, margin)
