"""A lease: what an acquisition gives, for as long as it stands."""

# pyright: reportPrivateUsage=false
# A lease and its loss are two faces of one thing, and look into one another.

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from leases import logs, threads
from leases.errors import ConfigurationError, LeaseLost, LossReason
from leases.events import Event, Lost, Renewed
from leases.record import RESERVED, check_holder, check_metadata

if TYPE_CHECKING:
    from types import TracebackType

    from leases.contract import Slot
    from leases.endings import Afterwards, Early, Manner, Stopper
    from leases.tenure import Tenure
    from leases.terms import Terms

Timeout = float | None
Word = Literal["raise", "cancel", "interrupt", "exit", "kill"]
OnLost = Callable[["Lease", LeaseLost], object]
Semantics = Literal["at-most-once", "at-least-once"]

_A_DAY = 86400.0


class Grip:
    """One hold on a lease, which ends once: a body, or a call of `release`."""

    __slots__ = ("ended", "lease")

    def __init__(self) -> None:
        self.ended = False
        self.lease: Lease | None = None  # once it is acquired


class Lease:
    """One tenure of a lock, from its acquisition until it is released or lost.

    It is renewed in the background. Ask `held`, or `check()`, before every step that must not happen
    twice; both read the clock. Hand `token` to every resource that can compare it. It can be used as a
    context manager of either colour, and releases at the end. It may be handed to other threads, not to other
    processes: in the child of a fork it is lost.
    """

    __slots__ = (
        "__weakref__", "_afterwards", "_asked_to_stop", "_bells", "_calm", "_depth", "_early", "_listeners",
        "_loss_before", "_manner", "_mutex", "_on_end", "_out_of_time", "_overtaken_at", "_release_began",
        "_stopper", "_tenure", "_told",
    )  # fmt: skip

    def __init__(
        self,
        tenure: Tenure,
        manner: Manner | None = None,
        on_end: Callable[[Lease], None] | None = None,
    ) -> None:
        self._tenure = tenure
        self._manner = manner  # how the work ends; None for no more than raising at the end of a body
        self._on_end = on_end  # called once, when a release begins
        self._bells: list[Callable[[], object]] = []
        self._listeners: list[Callable[[Event], object]] = []
        self._asked_to_stop = False
        self._out_of_time = False  # once there was no more than `stop_within` left
        self._mutex = threading.Lock()
        self._calm = 0  # how many want no metadata to be sent now
        self._depth = 1
        self._told = False
        self._release_began = False
        self._loss_before: LeaseLost | None = None  # what a body had run into when it released by itself
        self._early: Early | None = None
        self._afterwards: Afterwards | None = None
        self._overtaken_at: float | None = None  # when a later tenure was seen, on the holder's clock
        self._stopper: Stopper | None = None
        tenure.on_event = self._hear
        if manner is not None:
            self._watch_over(manner)
        if tenure.machine.lost is not None:  # Since it was confirmed, and maybe before this could be told.
            self._end_work(tenure.machine.lost.reason)

    # ---- what is so ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The lock."""
        return self._tenure.name

    @property
    def holder(self) -> str:
        """Who holds it, as others see it."""
        return self._tenure.machine.holder

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier tenure of this lock."""
        token = self._tenure.machine.token
        assert token is not None, "a lease exists only after its token is known"
        return token

    @property
    def store(self) -> str:
        """The store that it is in, for people: its URL without secrets."""
        return self._tenure.hub.backend.identity

    @property
    def held(self) -> bool:
        """Whether the lease stands at this instant; the clock is read every time."""
        return not self._release_began and self._tenure.held

    @property
    def deadline(self) -> float:
        """When it ends unless renewed, on the holder's clock (seconds of CLOCK_BOOTTIME on Linux)."""
        return self._tenure.machine.deadline

    @property
    def remaining(self) -> float:
        """Seconds for which it stands if no renewal is committed any more; 0 once it is over."""
        if not self.held:
            return 0.0
        return max(self._tenure.machine.deadline - self._tenure.hub.clock().hold, 0.0)

    @property
    def jeopardy(self) -> bool:
        """Whether it stands and a renewal is overdue: a good moment to begin nothing new."""
        return self.held and self._tenure.machine.jeopardy(self._tenure.hub.clock())

    @property
    def lost(self) -> Loss:
        """The end of the lease: true once it came, with a reason; it can be waited for in both colours."""
        return Loss(self)

    @property
    def ending(self) -> Ending:
        """Whether the work is to stop: true from the loss on, and before it as soon as it was asked to.

        Work that must have stopped *by* the deadline, or that can be asked to resign, looks at this and not
        at `lost`; like it, it can be waited for in both colours.
        """
        return Ending(self)

    @property
    def metadata(self) -> dict[str, str]:
        """What the holder shows to observers; change it with `update`."""
        return dict(self._tenure.machine.metadata)

    def check(self) -> None:
        """Return if the lease stands at this instant, and the work may begin another step.

        Under ``semantics="at-least-once"`` silence is no refusal: it returns until the end was *seen*.

        Raises:
            LeaseLost: it does not, or the work was asked to stop; the error says why and since when.
        """
        if self.ending:
            raise self._loss()

    def guard(self, seen: Slot | None = None) -> Slot:
        """The lock's record as this lease knows it, for a write that its store makes only while it stands.

        Time is no matter here: a lease that has run out, and that nobody has succeeded, still has one.

        Args:
            seen: what stands there instead of what was returned before; it is news, like any other.

        Raises:
            LeaseLost: it is over for another reason, such as a release, or what was seen.
        """
        if seen is not None:
            self._tenure.notice(seen)
        record = self._tenure.machine.record
        if self._release_began or self._tenure.dead is not None or record is None:
            raise self._loss()
        return record

    def _refuse_the_lost(self) -> None:
        if not self.held or self.ending:
            raise self._loss()

    # ---- what can be done ------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Tell the work that it is to stop, as before a resignation; the lease stands until it is released.

        From now on `ending` is true and `check` raises. Asking twice is harmless, and cannot be taken back.
        """
        self._asked_to_stop = True
        self._ring()

    def renew_until(self, until: float) -> None:
        """Begin no renewal at or after an instant of the holder's clock; infinity takes it back.

        Work that was told to stop and does not, or that shows no progress, loses the lease at its deadline.
        """
        self._tenure.renew_until(until)

    def listen(self, hear: Callable[[Event], object]) -> Callable[[], None]:
        """Call `hear` with every event of this tenure, in order, from any thread; it must not wait.

        What it returns ends that, and is harmless when repeated.
        """
        self._listeners.append(hear)

        def end() -> None:
            if hear in self._listeners:
                self._listeners.remove(hear)

        return end

    def release(self, *, to: str | None = None) -> None:
        """Free the lock; call it when the work has stopped. Releasing twice, or after a loss, is harmless.

        It waits for one answer of the store at most. If there is none the record may last until its ttl has
        passed, which the log says.

        Args:
            to: the holder for whom it is freed; others leave it to them for min(ttl, 5 s). Default: anybody.
        """
        to = None if to is None else check_holder(to)
        grip: Grip | None = None
        try:
            self._release(grip := Grip(), to)
        except BaseException:  # Ctrl-C at any instruction: it goes on in the background.
            self.abandon(grip)
            raise

    async def release_async(self, *, to: str | None = None) -> None:
        """`release`, awaited. Cancelled, it goes on in the background."""
        to = None if to is None else check_holder(to)
        grip = Grip()
        try:
            await self._release_async(grip, to)
        except BaseException:
            self.abandon(grip)
            raise

    def update(self, metadata: Mapping[str, str], *, timeout: Timeout = None) -> None:
        """Show other metadata to observers, by a renewal sent at once, and wait until it is committed.

        Args:
            metadata: the new metadata, whole: text to text, about 2 KiB at most.
            timeout: seconds to wait; None waits as long as the lease stands.

        Raises:
            ConfigurationError: metadata that a record cannot carry, or a timeout that cannot work.
            LeaseLost: the lease ended first.
            TimeoutError: not committed within `timeout`; it may be later.
        """
        updating = self._updating(metadata, timeout)
        bell = threads.Bell()
        self._bells.append(bell.ring)
        try:
            for left in updating:
                bell.wait(left)
        finally:
            self._bells.remove(bell.ring)

    async def update_async(self, metadata: Mapping[str, str], *, timeout: Timeout = None) -> None:
        """`update`, awaited."""
        from leases import aio

        updating = self._updating(metadata, timeout)
        bell = aio.Bell()
        self._bells.append(bell.ring)
        try:
            for left in updating:
                await bell.wait(left)
        finally:
            self._bells.remove(bell.ring)

    def _updating(self, metadata: Mapping[str, str], timeout: Timeout) -> Generator[float, None, None]:
        timeout, metadata = check_timeout(timeout), check_metadata(metadata)
        clock, told = self._tenure.hub.clock, False
        until = None if timeout is None else clock().wait + timeout
        while not (told and self._tenure.machine.updated):
            self._refuse_the_lost()
            if not told and not self._calm:
                told = True
                kept = {key: text for key, text in self.metadata.items() if key.startswith(RESERVED)}
                self._tenure.update(metadata | kept)
                continue
            left = self.remaining if until is None else min(until - clock().wait, self.remaining)
            if until is not None and left <= 0 < self.remaining:
                raise TimeoutError(f'metadata of "{self.name}" not committed within {timeout:g} s; ask again')
            yield left

    @contextmanager
    def calm(self) -> Generator[None]:
        """Let no metadata be sent meanwhile: for a write that depends on the record's version, and met such.

        Renewals that are due by time are sent all the same.
        """
        with self._mutex:
            self._calm += 1
        try:
            yield
        finally:
            with self._mutex:
                self._calm -= 1
            self._ring()

    # ---- as a context manager --------------------------------------------------------------------

    def __enter__(self) -> Lease:
        return self._entered()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        grip: Grip | None = None
        try:
            self.leave(grip := Grip(), error)
        except BaseException:
            self.abandon(grip)
            raise

    async def __aenter__(self) -> Lease:
        return self._entered()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        grip = Grip()
        try:
            await self.leave_async(grip, error)
        except BaseException:
            self.abandon(grip)
            raise

    def _entered(self) -> Lease:
        """No body runs under a lease that has ended already; then the body's hold on it ends too."""
        try:
            self._refuse_the_lost()
            if self._stopper is not None:
                self._stopper.entered()
        except BaseException:
            self.abandon(None)
            raise
        return self

    def leave(self, grip: Grip, error: BaseException | None) -> None:
        """End a body: release, and raise the loss that it ran into, if any. `abandon` if it raises."""
        cut_short = self._cut_short(error)
        self._release(grip)
        if cut_short is not None:
            raise cut_short from error
        self._raise_loss(self._loss_in_body(), error)

    async def leave_async(self, grip: Grip, error: BaseException | None) -> None:
        """`leave`, awaited."""
        cut_short = self._cut_short(error)
        await self._release_async(grip)
        if cut_short is not None:
            raise cut_short from error
        self._raise_loss(self._loss_in_body(), error)

    def _cut_short(self, error: BaseException | None) -> LeaseLost | None:
        """The loss that a body was stopped for, if it ends by that."""
        # The outermost body is the one that was cancelled; the inner ones let the cancellation pass.
        outermost = self._depth == 1 and not self._release_began
        return self._stopper.left(error) if outermost and self._stopper is not None else None

    def _loss_in_body(self) -> LeaseLost | None:
        """The loss that the body ran into; a release by the body itself is none."""
        # What came after a release, while it waited for the store, was no loss to the body.
        over = self._tenure.loss() is not None
        loss = self._loss_before if self._release_began else self._loss() if over else None
        if loss is not None and loss.reason == "expired" and self._tolerant:
            logs.warn("%s; its work went on, as at-least-once allows", loss)
            return None
        return loss

    @staticmethod
    def _raise_loss(loss: LeaseLost | None, error: BaseException | None) -> None:
        """Raise it at the end of a body, and never in place of the body's own error."""
        if loss is None:
            return
        if error is None:
            raise loss
        if not isinstance(error, LeaseLost):
            error.add_note(str(loss))

    # ---- inside ----------------------------------------------------------------------------------

    def _loss(self) -> LeaseLost:
        if self._overtaken_at is not None:
            return LeaseLost(self.name, "superseded", self._overtaken_at, self.token)
        loss = self._tenure.loss()
        if loss is not None:
            return loss
        over = self._release_began or self._asked_to_stop
        return LeaseLost(
            self.name, "released" if over else "expired", self._tenure.hub.clock().hold, self.token
        )

    def _release(self, grip: Grip, to: str | None = None) -> None:
        try:
            if self._let_go(grip):
                threads.release(self._tenure, successor=to)
        finally:
            self._ring()

    async def _release_async(self, grip: Grip, to: str | None = None) -> None:
        from leases import aio

        try:
            if self._let_go(grip):
                await aio.release(self._tenure, to)
        finally:
            self._ring()

    def _let_go(self, grip: Grip) -> bool:
        """End one hold; True if it was the last, and the lease is to be released now."""
        with self._mutex:
            if not grip.ended:
                self._depth -= 1
                grip.ended = True  # Without a call since the line before, Ctrl-C cannot come in between.
            if self._depth > 0 or self._release_began:
                return False
            self._loss_before = None if self._tenure.held else self._loss()
            self._release_began = True
        self._tell_end()
        return True

    def _tell_end(self) -> None:
        """The work has stopped. What is told may be told again, where Ctrl-C cut it short."""
        if self._early is not None:
            self._early.end()
        if self._afterwards is not None:
            self._afterwards.end()
        if self._stopper is not None:
            self._stopper.end()
        if self._on_end is not None:
            self._on_end(self)
            self._on_end = None  # It leads to the lock, which may lead back here.

    def abandon(self, grip: Grip | None) -> None:
        """End one hold, and if it was the last release in the background; harmless where it has ended."""
        self._let_go(grip if grip is not None else Grip())
        if self._release_began:
            self._tell_end()
            self._tenure.hub.withdraw(self.name, self._tenure.ticket)

    def nest(self, grip: Grip) -> bool:
        """One more hold of the same thread or task, if the lease stands."""
        with self._mutex:
            if not self.held:
                return False
            self._depth += 1
            grip.lease = self  # Without a call since the line before: see `_let_go`.
        return True

    def _hear(self, event: Event) -> None:
        if self._tenure.dead == "forked":
            self._mutex = threading.Lock()  # Another thread of the parent may have had it.
        elif isinstance(event, Lost):
            self._end_work(event.reason)
        elif isinstance(event, Renewed) and self._bells:
            self._ring()
        for hear in tuple(self._listeners):
            _guarded(hear, event)

    # ---- the end of the work ---------------------------------------------------------------------

    @property
    def _tolerant(self) -> bool:
        return self._manner is not None and self._manner.tolerant

    @property
    def _stop_within(self) -> float:
        return 0.0 if self._manner is None else self._manner.stop_within

    def _watch_over(self, manner: Manner) -> None:
        """See that the work will be stopped, before anybody is told of the lease."""
        from leases.endings import Early

        forced = manner.word != "raise" or manner.stop_within > 0
        try:
            if forced and self.remaining <= manner.stop_within:
                raise self._loss()  # Granted late: the work would have to stop before it has begun.
            self._stopper = manner.stopper()
            self._stopper.begin(self, self._tenure.hub.clock, manner.stop_within)
            if forced and self.remaining <= manner.stop_within:  # It may have taken a while.
                raise self._loss()
        except BaseException:  # Then there is no lease that anybody could release.
            self.abandon(None)
            raise
        if manner.stop_within > 0:
            self._early = Early(self._time_left, self._stop_early, self._tenure.hub.keeper)
            self._early.tick()

    def _time_left(self) -> float | None:
        """Seconds until the work is to stop; None once that is of no account."""
        if self._release_began or self._told:
            return None
        return 0.0 if self._out_of_time else self.remaining - self._stop_within

    def _stop_early(self) -> None:
        """Told to stop, it is not renewed any more: should it not stop, the lease runs out."""
        self._out_of_time = True
        stop_once(self)
        self.renew_until(self._tenure.hub.clock().hold)

    def _end_work(self, reason: LossReason) -> None:
        """The lease is lost. Work that goes on all the same is not to do so beside another for ever."""
        stop_once(self)
        if reason != "expired" or not self._tolerant or self._release_began or self._afterwards is not None:
            return
        from leases.endings import Afterwards

        hub = self._tenure.hub
        every = self._tenure.machine.terms.renew
        self._afterwards = Afterwards(self._is_overtaken, every, hub.keeper, hub.couriers.send)
        if self._release_began:  # Meanwhile.
            self._afterwards.end()

    def _is_overtaken(self) -> bool:
        """Ask the store whether another has had the lock since: a late read shows no higher token."""
        tenure, hub = self._tenure, self._tenure.hub
        if hub.closed:
            return True
        try:
            token = hub.backend.read(self.name, tenure.machine.terms.attempt).token
        except Exception:  # Silence stops nothing.
            return False
        if token is None or token <= self.token:
            return False
        self._overtaken_at = hub.clock().hold
        logs.warn("%s; its work, which went on as at-least-once allows, is to stop now", self._loss())
        self._ring()
        return True

    def _start(self, call: Callable[[], None]) -> None:
        try:
            threading.Thread(target=call, name="leases-on-lost", daemon=True).start()
        except RuntimeError:  # The interpreter is ending.
            self._tenure.hub.couriers.send(call)

    def _ring(self) -> None:
        for ring in list(self._bells):
            ring()

    def __repr__(self) -> str:
        state = f"held for another {self.remaining:.1f} s" if self.held else self._loss().reason
        return f'<Lease "{self.name}" token={self.token} {state}>'

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease belongs to this process; pass lease.token, or acquire in the other process")


class _Outcome:
    """Something that comes once for a lease and then stays so: false before, true from then on."""

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def __bool__(self) -> bool:
        raise NotImplementedError

    def _left(self) -> float:
        """Seconds until it comes by itself."""
        raise NotImplementedError

    @property
    def reason(self) -> LossReason | None:
        """``expired``, ``superseded``, ``broken``, ``released``, ``forked`` or ``closed``; None before it."""
        return self._lease._loss().reason if self else None

    @property
    def at(self) -> float | None:
        """When it came, on the holder's clock; None before it."""
        return self._lease._loss().at if self else None

    def wait(self, timeout: Timeout = None) -> bool:
        """Wait until it has come, for at most `timeout` seconds; whether it has.

        It needs nobody to tell it: it wakes by itself when the lease runs out.

        Raises:
            ConfigurationError: a timeout that cannot work.
        """
        timeout = check_timeout(timeout)
        bell = threads.Bell()
        self._lease._bells.append(bell.ring)
        try:
            for left in self._waiting(timeout):
                bell.wait(left)
        finally:
            self._lease._bells.remove(bell.ring)
        return bool(self)

    async def wait_async(self, timeout: Timeout = None) -> bool:
        """`wait`, awaited."""
        from leases import aio

        timeout = check_timeout(timeout)
        bell = aio.Bell()
        self._lease._bells.append(bell.ring)
        try:
            for left in self._waiting(timeout):
                await bell.wait(left)
        finally:
            self._lease._bells.remove(bell.ring)
        return bool(self)

    def __await__(self) -> Generator[Any, Any, bool]:
        return self.wait_async().__await__()

    def _waiting(self, timeout: Timeout) -> Generator[float, None, None]:
        clock = self._lease._tenure.hub.clock
        until = None if timeout is None else clock().wait + timeout
        while not self:
            left = self._left()
            if until is not None:
                now = clock().wait
                if now >= until:
                    return
                left = min(until - now, left)
            yield left

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.reason or 'not yet'}>"


class Loss(_Outcome):
    """The end of one lease: false while it stands, true for ever once it came."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return not self._lease.held

    def _left(self) -> float:
        return self._lease.remaining


class Ending(_Outcome):
    """When the work under a lease is to stop: at its loss, or before it as was agreed, or if it was asked."""

    __slots__ = ()

    def __bool__(self) -> bool:
        lease = self._lease
        if lease._asked_to_stop or lease._out_of_time:
            return True
        if lease._tolerant:
            return lease._release_began or (not lease.held and lease._loss().reason != "expired")
        if lease.held and lease.remaining > lease._stop_within:
            return False
        lease._out_of_time = lease._stop_within > 0  # A renewal that comes late does not take it back.
        return True

    def _left(self) -> float:
        if self._lease._tolerant:
            return _A_DAY  # Time alone ends nothing; the end rings.
        return self._lease.remaining - self._lease._stop_within


def _guarded(hear: Callable[[Event], object], event: Event) -> None:
    try:
        hear(event)
    except Exception as error:
        from leases.keeper import report

        report("who listens failed on %r", event, error)


class Stoppable(Protocol):
    """What is lost once: one lease, or several that stand or fall together."""

    _told: bool

    @property
    def _manner(self) -> Manner | None: ...
    @property
    def _mutex(self) -> AbstractContextManager[object]: ...
    @property
    def _release_began(self) -> bool: ...
    @property
    def _stopper(self) -> Stopper | None: ...

    def _ring(self) -> None: ...
    def _loss(self) -> LeaseLost: ...
    def _start(self, call: Callable[[], None], /) -> None: ...


def stop_once(lost: Stoppable) -> None:
    """Once: wake who waits, and end the work as was agreed; nothing here waits for anything."""
    with lost._mutex:
        # Who makes a lease looks once more when it has what stops the work.
        if lost._told or (lost._manner is not None and lost._stopper is None):
            return
        lost._told = True
    lost._ring()
    if lost._stopper is None or lost._manner is None or lost._release_began:
        return
    call, loss = lost._manner.call, lost._loss()
    lost._stopper.stop(loss, None if call is None else partial(_call, call, lost, loss), lost._start)


def _call(on_lost: Callable[..., object], lease: Stoppable, loss: LeaseLost) -> None:
    try:
        on_lost(lease, loss)
    except Exception as error:
        from leases.keeper import report

        report("on_lost of %r failed", lease, error)


def check_manner(on_lost: object, semantics: object, stop_within: object, terms: Terms) -> Manner | None:
    """How the work under a lease is to end, checked; None where no more is wanted than the default.

    Raises:
        ConfigurationError: what cannot be had, or contradicts itself.
    """
    default = on_lost == "raise" and semantics == "at-most-once" and stop_within == 0
    if default and not isinstance(stop_within, bool):
        return None
    from leases.endings import Manner

    return Manner.checked(on_lost, semantics, stop_within, terms)


def check_timeout(timeout: Timeout, what: str = "timeout") -> Timeout:
    """Return a timeout in seconds, or None for ever; `what` is its name in the error.

    Raises:
        ConfigurationError: negative, not a number, or not finite.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < 1e9:
        instead = "None to wait for ever" if what == "timeout" else "0 or more"
        raise ConfigurationError(f"{what}={timeout!r} is not a number of seconds; pass {instead}")
    return float(timeout)
