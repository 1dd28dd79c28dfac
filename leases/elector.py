"""`Elector`: being the one that runs, for as long as it is the one, in both colours."""

# pyright: reportPrivateUsage=false
# An elector is a lock with a campaign around it.

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from weakref import WeakSet

from leases import threads
from leases.acquirable import this_task
from leases.campaign import Part, until_ended, until_over
from leases.contest import Work, take_part
from leases.errors import ConfigurationError, LeaseLost
from leases.health import GRACE, Health, check
from leases.herald import Herald, ThreadHerald
from leases.hub import Countdown
from leases.identity import default_holder
from leases.keeper import report
from leases.lease import Lease, OnLost, Timeout, Word, check_timeout
from leases.lock import Connected, Fence, Lock
from leases.manifesto import (
    Callbacks,
    Manifesto,
    check_callables,
    check_for_threads,
    lock_of_bids,
    on_the_loop,
    to_show,
    word_and_call,
)
from leases.observer import Leader, Sight, leader_who_shows, observe, observe_async
from leases.record import check_holder
from leases.reign import Gate, Reign
from leases.rivals import Rivals
from leases.script import Wait

if TYPE_CHECKING:
    from leases.contest_aio import WorkAsync
    from leases.terms import Terms

_LOOK_SECONDS = 5.0
_LAST_WORDS = 0.5  # seconds for on_lost, where the process ends


class Elector:
    """One candidate for the leadership of a name, of which one process of a fleet has it at a time.

    `run` campaigns, calls the work while it leads, and takes part again when the work is over; `start` does
    the same with no work, for who only wants to ask `is_leader`. The work is told to stop by its lease:
    `lease.ending` can be waited for, `lease.check()` raises. It stops, then the lease is released: it is
    never released under running work. Work that was asked to stop, by `stop`, `resign` or `transfer`, has
    its lease renewed for one ttl more; then it runs out. Work that loses its lease and goes on is the one
    thing that nobody can help from outside: it is logged, and `on_lost` can end the process.

    Callbacks are called one after another, in a thread of their own, or on the event loop of `run_async`,
    which awaits those that are coroutine functions. For each tenure `on_elected` is called once, then
    `on_lost` once, by the deadline at the latest, and `on_jeopardy` only in between. What they raise is
    logged; one that hangs holds up the other callbacks and nothing else.

    Args:
        name: what is led: the name of a lock, which whoever leads it holds.
        ttl: seconds after which another may lead when the leader has died. Default 15.
        store: a URL or a connected store; default ``$LEASES_URL``, else the embedded store.
        holder: who is the candidate, for people and for `transfer`; default ``host:pid``.
        metadata: what observers are to see; text to text. Keys that begin with "leases." are not for you.
        on_elected: called with the lease when it leads, as the work begins.
        on_jeopardy: called with the lease when a renewal is overdue, while the lease stands.
        on_lost: called with the lease and a `LeaseLost` when it leads no more, ``released`` where it gave
            it up; or a word of `Lock`; or ``(word, function)``. With asyncio the task of the work is
            cancelled when it is to stop, whatever the word.
        on_new_leader: called with the `Leader`, or None, at every change that was observed, this elector's
            own elections too, and at first with what is so.
        priority: an integer, shown to all; a candidate that stands by gets the leadership from a leader of
            lower priority, which is asked to stop. State one for every candidate, under names of their own:
            a leader without one is left alone. Default: none.
        renew_while: called again and again, in a thread of its own, while the work runs; with asyncio it may
            be a coroutine function, which then runs on the loop. The lease is renewed only as long as this
            says yes: if it says no, raises or hangs, the lease runs out, after about 1.1 ttl at most.
        stop_within: seconds before the deadline at which the work is told to stop; default 0.
        semantics: as of `Lock`. With ``"at-least-once"`` silence of the store does not stop the work.
        fences: what to seal with the token before the work begins.
        terms: all durations together, instead of `ttl` alone.
        patience: seconds for which work that was asked to stop keeps its lease; default one ttl.

    Raises:
        ConfigurationError: a name or an option that cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        ttl: float | None = None,
        store: str | Connected | None = None,
        holder: str | None = None,
        metadata: Mapping[str, str] | None = None,
        on_elected: Callable[[Lease], object] | None = None,
        on_jeopardy: Callable[[Lease], object] | None = None,
        on_lost: Word | OnLost | tuple[Word, OnLost] = "raise",
        on_new_leader: Callable[[Leader | None], object] | None = None,
        priority: int | None = None,
        renew_while: Callable[[], object] | None = None,
        stop_within: float = 0.0,
        semantics: Literal["at-most-once", "at-least-once"] = "at-most-once",
        fences: Sequence[Fence] = (),
        terms: Terms | None = None,
        patience: Timeout = None,
    ) -> None:
        self._part: Part | None = None
        word, call = word_and_call(on_lost, semantics)
        lock_word: Any = (
            "raise" if word == "cancel" else word
        )  # Tasks are cancelled here, for more than a loss.
        shown = to_show(metadata, priority)
        self._lock = Lock(
            name, ttl=ttl, store=store, holder=holder, metadata=shown, semantics=semantics,
            stop_within=stop_within, fences=fences, terms=terms,
            on_lost=lock_word if call is None else (lock_word, self._hear_loss),
        )  # fmt: skip
        calls = Callbacks(on_elected, on_jeopardy, call, on_new_leader)
        check_callables(on_elected, on_jeopardy, on_new_leader, renew_while)
        checked = check_timeout(patience, "patience")
        self._manifesto = Manifesto(
            self._lock,
            calls,
            self._lock.terms.ttl if checked is None else checked,
            progress=renew_while,
            tolerant=semantics == "at-least-once",
        )
        self._rivals: Callable[[Part], Rivals] | None = None
        if priority is not None:
            self._rivals = partial(Rivals, priority, lock_of_bids(self._lock, store, holder, shown))
        self._word = word
        self._retired = False  # takes part no more
        self._holder = None if holder is None else check_holder(holder)
        self._sight: Sight | None = None
        self._mutex, self._starting = threading.Lock(), threading.Lock()
        _electors.add(self)

    # ---- what is so ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What is led."""
        return self._lock.name

    @property
    def holder(self) -> str:
        """Who this candidate is, as others see it."""
        return self._holder if self._holder is not None else default_holder()

    @property
    def lease(self) -> Lease | None:
        """The lease by which it leads at this instant; None if it does not."""
        reign = self._reign
        return reign.lease if reign is not None and reign.lease.held else None

    @property
    def is_leader(self) -> bool:
        """Whether it leads at this instant; the clock is read every time."""
        return self.lease is not None

    @property
    def error(self) -> Exception | None:
        """What ended its part, where an error did: what `run` raised, or would have raised after `start`."""
        part = self._part
        return None if part is None else part.error

    def health(self, *, grace: float = GRACE) -> Health:
        """Whether what renews leases is alive in this process, and this elector does as it should.

        It should not when its work goes on after its lease is lost, nor when an error has ended its part.

        Args:
            grace: seconds by which something may be late. Default 1.

        Raises:
            ConfigurationError: a grace that is no number of seconds.
        """
        found, error = check(grace=grace), self.error
        if error is not None:
            found = Health((*found.reasons, f'elector of "{self.name}" takes part no more: {error}'))
        reign = self._reign
        if reign is None or not reign.lingers or reign.now() < reign.loss().at + grace:
            return found
        since = f"{reign.now() - reign.loss().at:.1f} s after its lease was lost; restart this process"
        return Health((*found.reasons, f'the work of the elector of "{self.name}" goes on {since}'))

    def leader(self, timeout: float = _LOOK_SECONDS) -> Leader | None:
        """Who leads, by one look at the store; None if nobody does, or the leader is known to be dead.

        One look alone cannot tell a dead leader from one that lives, unless the store is on this host; it
        counts what this elector has seen before.

        Args:
            timeout: seconds in all, those of connecting included. Default 5.

        Raises:
            StoreError: the store could not be asked, or the record is not ours.
        """
        own = self._own()
        if own is not None:
            return own
        countdown = Countdown(_positive(timeout))
        if not self._lock._connected:
            self._lock._connect_in_time(countdown)
        hub = self._lock._connect()
        slot = hub.backend.read(self.name, timeout - countdown.spent)
        sight = self._sight
        if sight is None:
            sight = self._sight = Sight(hub.boot)
        sight.note(slot, hub.clock())
        return sight.leader(hub.clock())

    async def leader_async(self, timeout: float = _LOOK_SECONDS) -> Leader | None:
        """`leader`, awaited."""
        import asyncio

        return await asyncio.to_thread(self.leader, timeout)

    def observe(self) -> Generator[Leader | None, None, None]:
        """Who leads: now, and after every change, until the generator is closed.

        Raises:
            StoreError: the store refused or was closed, or the record is not ours. Not when it gives no
                answer: then, once the record has outlived its ttl, it shows None.
        """
        return observe(self._lock._connect, self.name)

    def observe_async(self) -> AsyncGenerator[Leader | None, None]:
        """`observe`, as an asynchronous generator."""
        return observe_async(self._lock._connect, self.name)

    # ---- taking part -----------------------------------------------------------------------------

    def run(self, work: Work) -> None:
        """Take part in this thread: campaign, call `work(lease)` while it leads, take part again.

        It returns after `stop`. When the work returns before that, the lease is released and another may
        lead. Where it is told to stop before it has begun, it is not called; `on_elected` and `on_lost` are
        all the same. A store that gives no answer is waited for.

        Raises:
            ConfigurationError: work that this thread cannot do, or an option that the store cannot take.
            StoreError: the store refused, or was closed.
            RuntimeError: this elector takes part already.
            Exception: whatever the work raised, once the lease is released, or a fence; not the `LeaseLost`
                of its own lease, by which work is meant to end, nor a group of nothing else.
        """
        if iscoroutinefunction(work) or not callable(work):
            raise ConfigurationError(f"{work!r} is not a function of a lease; await run_async for coroutines")
        if self._word == "cancel":
            raise ConfigurationError('on_lost="cancel" cancels a task; await run_async, or pass another word')
        check_for_threads(self._manifesto)
        self._take_part(work)

    async def run_async(self, work: WorkAsync) -> None:
        """`run`, awaited: the work is a coroutine function and runs as a task of its own.

        Cancelled, it cancels the work, waits until that has stopped, and releases.
        """
        import asyncio

        from leases import aio
        from leases.contest_aio import TaskHerald, take_part_async

        if not (iscoroutinefunction(work) or iscoroutinefunction(getattr(work, "__call__", None))):  # noqa: B004
            raise ConfigurationError(f"{work!r} is not a coroutine function of a lease; use run for others")
        herald, bell = TaskHerald(self.name) if any(self._manifesto.calls) else Herald(), aio.Bell()
        manifesto, me = on_the_loop(self._manifesto), asyncio.current_task
        part = Part(manifesto, herald, bell, me, awaited=True, rivals=self._rivals)
        part.mine.add(threading.get_ident())  # No function may block the loop.
        try:
            self._begin(part)
            await take_part_async(part, bell, work)
        except Exception as error:
            part.error = error
            raise
        finally:
            try:
                if isinstance(herald, TaskHerald):
                    await herald.close()
            finally:
                part.ended.open()

    def start(self) -> Elector:
        """Take part in a thread of its own, with no work, until `stop`; starting twice is harmless.

        What ends it before that is logged, kept as `error`, and fails `health`.

        Raises:
            ConfigurationError: a callback is a coroutine function, or `on_lost` cannot be done from there.
        """
        check_for_threads(self._manifesto)
        if self._word == "interrupt":
            raise ConfigurationError(
                'on_lost="interrupt" interrupts the main thread, and start takes part in another; call run '
                'in the main thread, or pass "exit" or "kill"'
            )
        with self._starting:
            if not self._takes_part():
                ready = threading.Event()
                name = f"leases-elector-{self.name}"
                threading.Thread(target=self._run_idle, args=(ready,), name=name, daemon=True).start()
                ready.wait()
        return self

    def stop(self, timeout: Timeout = None) -> bool:
        """Ask the work to stop, release when it has, and end `run` or what was begun by `start`.

        It may be called by anybody, a signal handler too; from the work itself, or a callback, it only asks.

        Args:
            timeout: seconds to wait for the end; default: until the work has stopped, or its lease has run
                out because it does not, and others may lead. 0 does not wait.

        Returns:
            Whether it has ended.
        """
        timeout = check_timeout(timeout)
        part = self._current
        if part is None:
            return True
        part.stop()
        if timeout == 0 or threading.get_ident() in part.mine:
            return part.ended.is_open
        return _wait(until_ended(part, timeout), part.ended)

    async def stop_async(self, timeout: Timeout = None) -> bool:
        """`stop`, awaited."""
        timeout = check_timeout(timeout)
        part = self._current
        if part is None:
            return True
        part.stop()
        if timeout == 0 or this_task() in part.mine:
            return part.ended.is_open
        return await _wait_async(until_ended(part, timeout), part.ended)

    def retire(self) -> None:
        """As `stop`, without waiting and for good: a `run` that is about to begin ends at once, too."""
        self._retired = True
        self.stop(0)

    def resign(self, timeout: Timeout = None) -> bool:
        """Ask the work to stop, release when it has, let others have a chance, and take part again.

        Args:
            timeout: as of `stop`.

        Returns:
            Whether the lock was freed; False also where this elector does not lead.
        """
        return self._step_down(None, timeout)

    async def resign_async(self, timeout: Timeout = None) -> bool:
        """`resign`, awaited."""
        return await self._step_down_async(None, timeout)

    def transfer(self, to: str, timeout: Timeout = None) -> bool:
        """`resign` in favour of a candidate: the others leave the lock to it for min(ttl, 5 s).

        Args:
            to: the holder name of that candidate; nobody checks whether it is there.
            timeout: as of `stop`.
        """
        return self._step_down(check_holder(to), timeout)

    async def transfer_async(self, to: str, timeout: Timeout = None) -> bool:
        """`transfer`, awaited."""
        return await self._step_down_async(check_holder(to), timeout)

    @contextmanager
    def stop_on(self, *signals: signal.Signals) -> Generator[Elector, None, None]:
        """A body in which signals, by default SIGTERM, stop this elector; then the handlers are as before.

        One that comes before `run` is not forgotten: what begins later in the body ends at once.

        Raises:
            ConfigurationError: in a thread that is not the main thread, where Python hears of no signal.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("only the main thread hears of signals; use stop_on there, or call stop")

        def stop(number: int, frame: object) -> None:
            self.retire()

        before = {number: signal.getsignal(number) for number in signals or (signal.SIGTERM,)}
        try:
            for number in before:
                signal.signal(number, stop)
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            self._retired = False

    # ---- inside ----------------------------------------------------------------------------------

    @property
    def _current(self) -> Part | None:
        part = self._part
        return None if part is None or part.ended.is_open else part

    @property
    def _reign(self) -> Reign | None:
        part = self._current
        return None if part is None else part.reign

    def _takes_part(self) -> bool:
        return self._current is not None

    def _begin(self, part: Part) -> None:
        with self._mutex:
            if self._takes_part():
                raise RuntimeError(f'elector of "{self.name}" takes part already; stop it, or make another')
            self._part = part
        if self._retired:
            part.stop()

    def _take_part(self, work: Work | None, ready: threading.Event | None = None) -> None:
        herald, bell = ThreadHerald(self.name) if any(self._manifesto.calls) else Herald(), threads.Bell()
        part = Part(self._manifesto, herald, bell, threading.get_ident, rivals=self._rivals)
        try:
            self._begin(part)
            if ready is not None:
                ready.set()
            take_part(part, bell, work)
        except Exception as error:
            part.error = error
            raise
        finally:
            try:
                if isinstance(herald, ThreadHerald):
                    herald.close()
            finally:
                part.ended.is_open = True  # Without a call since the line before, Ctrl-C cannot come first.
                part.ended.open()

    def _run_idle(self, ready: threading.Event) -> None:
        try:
            self._take_part(None, ready)
        except BaseException as error:
            report("%r takes part no more", self, error)
        finally:
            ready.set()

    def _own(self) -> Leader | None:
        """This elector, where it leads."""
        lease = self.lease
        if lease is None:
            return None
        machine = lease._tenure.machine
        return leader_who_shows(lease.metadata, self.name, lease.holder, lease.token, machine._acquired)

    def _hear_loss(self, lease: Lease, loss: LeaseLost) -> None:
        """The work is told to stop; by a word that ends the process there is not much time."""
        part, reign = self._current, self._reign
        if part is not None and reign is not None and reign.lease is lease:
            reign.tell_loss(loss)
            part.herald.flush(_LAST_WORDS)

    def _step_down(self, to: str | None, timeout: Timeout) -> bool:
        timeout, part, reign = check_timeout(timeout), self._current, self._reign
        if part is None or reign is None:
            return False
        reign.ask(to)
        if timeout == 0 or threading.get_ident() in part.mine:
            return reign.over.is_open and reign.done
        return _wait(until_over(part, reign, timeout), reign.over)

    async def _step_down_async(self, to: str | None, timeout: Timeout) -> bool:
        timeout, part, reign = check_timeout(timeout), self._current, self._reign
        if part is None or reign is None:
            return False
        reign.ask(to)
        if timeout == 0 or this_task() in part.mine:
            return reign.over.is_open and reign.done
        return await _wait_async(until_over(part, reign, timeout), reign.over)

    def _fork(self) -> None:
        """In the child of a fork: what takes part is the parent."""
        self._mutex, self._starting = threading.Lock(), threading.Lock()
        self._part = self._sight = None

    def __repr__(self) -> str:
        state = "leads" if self.is_leader else "stands by" if self._takes_part() else "takes no part"
        return f'<Elector "{self.name}" {self.holder} {state}>'

    def __reduce__(self) -> NoReturn:
        raise TypeError(f'an elector belongs to this process; make Elector("{self.name}") in the other one')


def _wait(script: Generator[Wait, None, bool], gate: Gate) -> bool:
    bell = threads.Bell()
    with gate.rings(bell.ring):
        return threads.run(script, bell)


async def _wait_async(script: Generator[Wait, None, bool], gate: Gate) -> bool:
    from leases import aio

    bell = aio.Bell()
    with gate.rings(bell.ring):
        return await aio.run(script, bell)


def _positive(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 1e9:
        raise ConfigurationError(f"timeout={timeout!r} is not a positive number of seconds; pass one")
    return float(timeout)


_electors: WeakSet[Elector] = WeakSet()


def _in_the_child() -> None:
    for elector in list(_electors):
        elector._fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
