"""Traces by OpenTelemetry, of every lock of this process: ``pip install "leases[otel]"``.

    from leases.tracing import instrument

    instrument()  # with the tracer provider that the program has set

======================  ===================================================================================
``leases.acquire``      from wanting a lock to having it, or to the end of trying
``leases.hold``         the tenure: from its acquisition until it is released or lost, with an event for
                        each renewal, for jeopardy and for the loss
``leases.renew``        one request to the store, a child of the hold
``leases.release``      one request to the store, a child of the hold
======================  ===================================================================================

The first two are children of the span that is current in the thread or task that acquires. Attributes are
named ``leases.…``, because OpenTelemetry has no names for locks; for errors it has one, ``error.type``.
Exporters may be slow, and nobody's renewal waits for them: spans are made in a thread of their own, with the
times at which things happened.
"""

from __future__ import annotations

import atexit
import os
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from leases.errors import ConfigurationError
from leases.events import Endangered, Lost, Released, Renewed
from leases.hooks import Acquired, Answered, Began, NotAcquired, Subject, Told, hooks, relay

try:
    from opentelemetry import context, trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ModuleNotFoundError as error:
    raise ConfigurationError(
        f'traces need the package {error.name}; install it with: pip install "leases[otel]"'
    ) from error

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Trace every lock from now on; again, with the same provider, it changes nothing.

    Args:
        tracer_provider: whose spans; by default the one that the program has set with OpenTelemetry's API.

    Raises:
        ConfigurationError: it traces by another provider already.
    """
    global _tracing
    provider = tracer_provider if tracer_provider is not None else trace.get_tracer_provider()
    if _tracing is None:
        _tracing = _Tracing(provider)
        hooks.listen(_tracing.hear)
        atexit.register(uninstrument)
    elif _tracing.provider is not provider:
        raise ConfigurationError("leases are traced by another provider already; call uninstrument() first")


def uninstrument() -> None:
    """Trace nothing more, and end the spans of what is still held; harmless where nothing is traced."""
    global _tracing
    tracing, _tracing = _tracing, None
    if tracing is not None:
        atexit.unregister(uninstrument)
        hooks.leave(tracing.hear)
        relay.post(tracing.end_all, time.time_ns())
        relay.flush(relay.AT_EXIT)


class _Trail:
    """One acquisition: where it was asked for, and the spans that are open for it."""

    __slots__ = ("acquire", "context", "hold")

    def __init__(self, acquire: Span, context: Context) -> None:
        self.acquire, self.context = acquire, context
        self.hold: Span | None = None


class _Tracing:
    """The spans of one provider. Only the relay's thread makes or ends any."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("leases")
        self._trails: WeakKeyDictionary[Subject, _Trail] = WeakKeyDictionary()

    def hear(self, subject: Subject, told: Told) -> None:
        """In the thread where it happens: note the time, and whose span it belongs to."""
        now = time.time_ns()
        match told:
            case Began():
                relay.post(self._begin, subject, context.get_current(), now)
            case Acquired():
                relay.post(self._acquired, subject, told, now)
            case NotAcquired():
                relay.post(self._not_acquired, subject, told, now)
            case Answered("renew" | "release"):
                relay.post(self._request, subject, told, now)
            case Renewed() | Endangered():
                relay.post(self._event, subject, told, now)
            case Lost() | Released():
                relay.post(self._end, subject, told, now)
            case _:
                pass

    def end_all(self, now: int) -> None:
        """End what is open: nothing more will be heard of it."""
        for trail in list(self._trails.values()):
            for span in (trail.acquire, trail.hold):
                if span is not None and span.is_recording():
                    span.set_attribute("leases.outcome", "unfinished")
                    span.end(now)

    def forget(self) -> None:
        """In the child of a fork: what is open is the parent's, who will end it."""
        self._trails = WeakKeyDictionary()

    # ---- in the relay's thread -------------------------------------------------------------------

    def _begin(self, subject: Subject, where: Context, now: int) -> None:
        span = self._span("leases.acquire", subject, where, now)
        self._trails[subject] = _Trail(span, where)

    def _acquired(self, subject: Subject, told: Acquired, now: int) -> None:
        trail = self._trails.get(subject)
        if trail is None:  # It began before anybody listened.
            return
        trail.acquire.set_attributes(
            {"leases.outcome": "acquired", "leases.waited": told.waited, "leases.token": told.token}
        )
        trail.acquire.end(now)
        trail.hold = self._span("leases.hold", subject, trail.context, now)
        trail.hold.set_attribute("leases.token", told.token)

    def _not_acquired(self, subject: Subject, told: NotAcquired, now: int) -> None:
        trail = self._trails.pop(subject, None)
        if trail is None:
            return
        span = trail.acquire
        span.set_attributes({"leases.outcome": told.outcome, "leases.waited": told.waited})
        if told.outcome == "failed":
            _fail(span, told.error, str(told.error))
        span.end(now)

    def _request(self, subject: Subject, told: Answered, now: int) -> None:
        hold = self._hold(subject)
        if hold is None:
            return
        where = trace.set_span_in_context(hold)
        began = now - round(told.seconds * 1e9)
        span = self._span(f"leases.{told.aim}", subject, where, began, SpanKind.CLIENT)
        span.set_attribute("leases.outcome", told.outcome)
        if told.outcome != "applied":
            _fail(span, told.error if told.error is not None else told.outcome, told.outcome)
        span.end(now)

    def _event(self, subject: Subject, told: Renewed | Endangered, now: int) -> None:
        hold = self._hold(subject)
        if hold is not None:
            hold.add_event("renewed" if isinstance(told, Renewed) else "jeopardy", timestamp=now)

    def _end(self, subject: Subject, told: Lost | Released, now: int) -> None:
        hold = self._hold(subject)
        if hold is None:
            return
        match told:
            case Lost(reason):
                hold.add_event("lost", {"leases.reason": reason}, now)
                hold.set_attributes({"leases.outcome": "lost", "leases.reason": reason})
                _fail(hold, "LeaseLost", f"lost: {reason}")
            case Released(clean):
                hold.set_attribute("leases.outcome", "released" if clean else "released without an answer")
        hold.end(now)

    def _hold(self, subject: Subject) -> Span | None:
        trail = self._trails.get(subject)
        return None if trail is None else trail.hold

    def _span(
        self, name: str, subject: Subject, where: Context, now: int, kind: SpanKind = SpanKind.INTERNAL
    ) -> Span:
        attributes: dict[str, AttributeValue] = {
            "leases.lock": subject.name,
            "leases.store": subject.store,
            "leases.holder": subject.holder,
        }
        return self._tracer.start_span(name, where, kind, attributes, start_time=now)


def _fail(span: Span, error: BaseException | str, why: str) -> None:
    span.set_attribute("error.type", error if isinstance(error, str) else type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, why))


_tracing: _Tracing | None = None


def _in_the_child() -> None:
    if _tracing is not None:
        _tracing.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
