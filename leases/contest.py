"""Taking part in an election by threads: campaign and work are in the thread that asks."""

# pyright: reportPrivateUsage=false
# It rings the bell of who waits when a lease does.

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from leases import threads
from leases.campaign import Freeing, Leading, Part, Step, body, campaigning
from leases.errors import ConfigurationError

if TYPE_CHECKING:
    from leases.lease import Lease
    from leases.reign import Reign

Work = Callable[["Lease"], object]


def take_part(part: Part, bell: threads.Bell, work: Work | None) -> None:
    """Campaign and work in this thread, until the part is told to stop; the errors of `campaigning`."""
    script = campaigning(part)
    answer: BaseException | None = None
    try:
        part.open()
        step: Step = next(script)
        while True:
            thrown = answer = None
            if isinstance(step, Leading):
                answer = _worked(part, step.reign, work, bell)
            elif isinstance(step, Freeing):
                step.lease.release(to=step.to)
            elif callable(step):
                thrown = _called(step)
            else:
                bell.wait(step)
            step = script.send(answer) if thrown is None else script.throw(thrown)
    except StopIteration:
        return
    finally:
        try:
            script.close()
        finally:
            part.close()


def _worked(part: Part, reign: Reign, work: Work | None, bell: threads.Bell) -> BaseException | None:
    """Let the work go on in this thread; with none, wait until it would have to stop."""
    lease = reign.lease
    try:
        with body(lease, part.me()):
            if work is not None:
                if not (lease.ending or lease.lost):  # It may have taken a while to get here.
                    _refuse_coroutine(work, work(lease))
                return None
            lease._bells.append(bell.ring)
            for left in reign.idle():
                bell.wait(left)
    except BaseException as error:  # Ctrl-C too: first the lease is released, then it is raised.
        return error
    return None


def _refuse_coroutine(work: Work, result: object) -> None:
    """What only looks like a function would do no work at all, and this again and again."""
    if isinstance(result, Coroutine):
        result.close()
        raise ConfigurationError(f"{work!r} gave a coroutine, which nobody awaits here; await run_async")


def _called(step: Callable[[], object]) -> BaseException | None:
    try:
        step()
    except Exception as error:
        return error
    return None
