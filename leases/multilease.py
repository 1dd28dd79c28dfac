"""`MultiLease`: several leases that stand or fall together."""

# pyright: reportPrivateUsage=false
# It does to its leases what the end of a body does, and what a lease does to itself.

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from leases.errors import ConfigurationError, LeaseLost
from leases.events import Endangered, Event, Lost, Renewed
from leases.lease import Ending, Lease, Loss, stop_once
from leases.lock import Lock, Place

if TYPE_CHECKING:
    from types import TracebackType

    from leases.endings import Manner
    from leases.stopper import Stopper


class MultiLease:
    """The leases of a `MultiLock`, from their acquisition until they are released or one of them is lost.

    It stands as long as all of them do, and is used like a `Lease`. Each resource is to have the token of
    its own lock: see `tokens`, or `of`.

    Attributes:
        leases: one for each lock, in the order in which they were acquired.
    """

    __slots__ = (
        "__weakref__", "_asked_to_stop", "_bells", "_manner", "_mutex", "_on_end", "_places",
        "_release_began", "_stopper", "_told", "leases",
    )  # fmt: skip

    def __init__(
        self, places: Mapping[Lock, Place], manner: Manner | None, on_end: Callable[[MultiLease], None]
    ) -> None:
        held = [(lock, place, place.lease) for lock, place in places.items()]
        self._places = {lock: (place, lease) for lock, place, lease in held if lease is not None}
        self.leases = tuple([lease for _, lease in self._places.values()])
        self._manner, self._on_end = manner, on_end
        self._bells: list[Callable[[], object]] = []
        self._mutex = threading.RLock()
        self._asked_to_stop = self._told = self._release_began = False
        self._stopper: Stopper | None = None
        self.listen(self._hear)
        if manner is not None:
            self._stopper = manner.stopper()
            try:
                self._stopper.begin(self, self._tenure.hub.clock, 0.0)
            except BaseException:
                self._stopper.end()
                raise
        if not self.held:
            stop_once(self)

    # ---- what is so ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """All the locks, for people."""
        return ", ".join(lease.name for lease in self.leases)

    @property
    def tokens(self) -> dict[str, int]:
        """The fencing token of each lock, by its name.

        Raises:
            ConfigurationError: two stores have a lock of the same name; ask `of`.
        """
        found = {lease.name: lease.token for lease in self.leases}
        if len(found) < len(self.leases):
            raise ConfigurationError(f"the names {self.name} are not all different; ask of(lock).token")
        return found

    def of(self, lock: Lock | str) -> Lease:
        """The lease on one of the locks, by the object that was given, or by its name.

        Raises:
            ConfigurationError: it is none of them, or the name does not tell which.
        """
        found = [lease for mine, (_, lease) in self._places.items() if mine is lock or mine.name == lock]
        if len(found) != 1:
            raise ConfigurationError(f"{lock!r} is not one of {self.name}; name one, or pass the lock itself")
        return found[0]

    @property
    def held(self) -> bool:
        """Whether all leases stand at this instant; the clock is read every time."""
        return not self._release_began and all(lease.held for lease in self.leases)

    @property
    def deadline(self) -> float:
        """When the first of them ends unless renewed, on the holder's clock."""
        return min(lease.deadline for lease in self.leases)

    @property
    def remaining(self) -> float:
        """Seconds for which all stand if no renewal is committed any more; 0 once one is over."""
        return 0.0 if self._release_began else min(lease.remaining for lease in self.leases)

    @property
    def jeopardy(self) -> bool:
        """Whether all stand and a renewal of one is overdue."""
        return self.held and any(lease.jeopardy for lease in self.leases)

    @property
    def lost(self) -> Loss:
        """The end of the first that ends: true once it came, with a reason; waited for in both colours."""
        return Loss(cast(Lease, self))

    @property
    def ending(self) -> Ending:
        """Whether the work is to stop: one is lost, or to stop under one of them, or it was asked to."""
        return AnyEnding(cast(Lease, self))

    def check(self) -> None:
        """Return if all stand at this instant, and the work may begin another step.

        Raises:
            LeaseLost: one does not, or the work was asked to stop; the error says which, why and since when.
        """
        if self.ending:
            raise self._loss()

    # ---- what can be done ------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Tell the work that it is to stop; the leases stand until they are released."""
        self._asked_to_stop = True
        for lease in self.leases:
            lease.ask_to_stop()
        self._ring()

    def listen(self, hear: Callable[[Event], object]) -> Callable[[], None]:
        """Call `hear` with the events of all, with the deadline of that which ends first; it must not wait.

        It returns what ends that.
        """
        ends = [lease.listen(partial(self._pass_on, hear)) for lease in self.leases]

        def end() -> None:
            for each in ends:
                each()

        return end

    def release(self) -> None:
        """Free all, the last one first; call it when the work has stopped. Releasing twice is harmless.

        Raises:
            Exception: what the release of one raised; the others are released all the same.
        """
        errors: list[Exception] = []
        try:
            for place, lease in self._let_go():
                try:
                    lease._release(place)
                except Exception as error:
                    errors.append(error)
        except BaseException:  # Ctrl-C at any instruction: it goes on in the background.
            self.abandon()
            raise
        if errors:
            raise errors[0]

    async def release_async(self) -> None:
        """`release`, awaited. Cancelled, it goes on in the background."""
        errors: list[Exception] = []
        try:
            for place, lease in self._let_go():
                try:
                    await lease._release_async(place)
                except Exception as error:
                    errors.append(error)
        except BaseException:
            self.abandon()
            raise
        if errors:
            raise errors[0]

    def abandon(self) -> None:
        """Release all in the background; harmless where it has been done."""
        for place, lease in self._let_go():
            lease.abandon(place)

    # ---- as a context manager --------------------------------------------------------------------

    def __enter__(self) -> MultiLease:
        return self.entered()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(error)

    async def __aenter__(self) -> MultiLease:
        return self.entered()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave_async(error)

    def entered(self) -> MultiLease:
        """No body runs under what has ended already; then the body's hold on it ends too."""
        try:
            if not self.held or self.ending:
                raise self._loss()
            for stopper in (self._stopper, *(lease._stopper for lease in self.leases)):
                if stopper is not None:
                    stopper.entered()
        except BaseException:
            self.abandon()
            raise
        return self

    def leave(self, error: BaseException | None) -> None:
        """End a body: release, and raise the loss that it ran into, if any."""
        loss = self._loss_in_body()
        cut_short = self._cut_short(error)
        self.release()
        if cut_short is not None:
            raise cut_short from error
        Lease._raise_loss(loss, error)

    async def leave_async(self, error: BaseException | None) -> None:
        """`leave`, awaited."""
        loss = self._loss_in_body()
        cut_short = self._cut_short(error)
        await self.release_async()
        if cut_short is not None:
            raise cut_short from error
        Lease._raise_loss(loss, error)

    # ---- inside ----------------------------------------------------------------------------------

    @property
    def _tenure(self) -> Any:
        return self.leases[0]._tenure  # What a `Loss` reads the clock by.

    def _cut_short(self, error: BaseException | None) -> LeaseLost | None:
        """The loss that the body was stopped for, if it ends by that: for all, or for a lock of its own."""
        mine = None if self._stopper is None else self._stopper.left(error)
        losses = [mine, *(lease._cut_short(error) for lease in self.leases)]  # Each takes back its own.
        return next((loss for loss in losses if loss is not None), None)

    def _loss_in_body(self) -> LeaseLost | None:
        """The loss that the body ran into; a release by the body itself is none."""
        losses = [] if self._release_began else [lease._loss() for lease in self.leases if not lease.held]
        return next((loss for loss in losses if loss.reason != "released"), None)

    def _loss(self) -> LeaseLost:
        losses = [lease._loss() for lease in self.leases if not lease.held or lease.ending]
        return min(losses, key=lambda loss: loss.at) if losses else self.leases[0]._loss()

    def _let_go(self) -> list[tuple[Place, Lease]]:
        """The work has stopped: what is to be released, in that order."""
        self._release_began = True
        if self._stopper is not None:
            self._stopper.end()
        self._on_end(self)
        self._ring()
        return list(self._places.values())[::-1]

    def _pass_on(self, hear: Callable[[Event], object], event: Event) -> None:
        """One at a time, so that no deadline is told after a later one."""
        if isinstance(event, Lost) and event.reason == "forked":
            self._mutex = threading.RLock()  # Another thread of the parent may have had it.
        with self._mutex:
            match event:
                case Renewed(_, sent):
                    hear(Renewed(self.deadline, sent))
                case Endangered():
                    hear(Endangered(self.deadline))
                case _:
                    hear(event)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Lost):
            stop_once(self)
        elif isinstance(event, Renewed):
            self._ring()

    def _start(self, call: Callable[[], None]) -> None:
        self.leases[0]._start(call)

    def _ring(self) -> None:
        for ring in list(self._bells):
            ring()

    def __repr__(self) -> str:
        state = f"held for another {self.remaining:.1f} s" if self.held else self._loss().reason
        return f'<MultiLease "{self.name}" {state}>'

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease belongs to this process; pass lease.tokens, or acquire in the other process")


class AnyEnding(Ending):
    """True once the work is to stop under any of the leases."""

    __slots__ = ()

    def __bool__(self) -> bool:
        lease = cast(MultiLease, self._lease)
        return lease._asked_to_stop or not lease.held or any(one.ending for one in lease.leases)

    def _left(self) -> float:
        return min(one.ending._left() for one in cast(MultiLease, self._lease).leases)
