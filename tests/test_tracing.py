"""Traces: one span for the wait, one for the tenure, and whose they are."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from leases import AcquireTimeout, ConfigurationError, Lease, Lock
from leases.hooks import hooks, relay
from leases.testing.clock import ManualClock
from leases.tracing import instrument, uninstrument
from stubborn import Stubborn, another_process, intrude, look, store_on, until

LONG = 60.0


class Traces:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> list[ReadableSpan]:
        assert relay.flush()
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def traces() -> Iterator[Traces]:
    """Every lock of this process is traced while the test runs."""
    traces = Traces()
    instrument(traces.provider)
    yield traces
    uninstrument()
    assert hooks.listeners == ()


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes without those that say which lock it is about."""
    attributes = dict(span.attributes or {})
    return {key: attributes[key] for key in attributes if key not in ("leases.store", "leases.holder")}


def test_wait_and_tenure(traces: Traces) -> None:
    """A lock that is taken and released is a span for the wait, one for the tenure, one for its release."""
    store = store_on()
    with Lock("job", store=store, holder="me") as lease:
        pass
    acquire, hold, release = (traces.one(f"leases.{name}") for name in ("acquire", "hold", "release"))
    waited = facts(acquire).pop("leases.waited")
    assert 0 <= waited < 10
    assert facts(acquire) == {
        "leases.lock": "job",
        "leases.outcome": "acquired",
        "leases.waited": waited,
        "leases.token": lease.token,
    }
    assert facts(hold) == {"leases.lock": "job", "leases.outcome": "released", "leases.token": lease.token}
    assert facts(release) == {"leases.lock": "job", "leases.outcome": "applied"}
    assert hold.attributes and hold.attributes["leases.store"] == store.hub.backend.identity
    assert hold.attributes["leases.holder"] == "me"
    assert release.parent is not None and hold.context is not None
    assert release.parent.span_id == hold.context.span_id and release.kind is SpanKind.CLIENT
    times = (acquire.start_time, acquire.end_time, hold.start_time, release.start_time)
    assert times == tuple(sorted(times)) and acquire.end_time == hold.start_time  # type: ignore[type-var]
    assert hold.end_time is not None and release.end_time is not None and release.end_time <= hold.end_time


def test_spans_belong_to_the_thread_that_acquires(traces: Traces) -> None:
    """They are children of the span that is current there, though other threads make them."""
    store, tracer = store_on(), traces.provider.get_tracer("test")
    with tracer.start_as_current_span("request") as request, Lock("job", store=store):
        pass
    for name in "leases.acquire", "leases.hold":
        parent = traces.one(name).parent
        assert parent is not None and parent.span_id == request.get_span_context().span_id


def test_spans_belong_to_the_task_that_acquires(traces: Traces) -> None:
    """Each of two tasks of one loop has its own."""
    store, tracer = store_on(), traces.provider.get_tracer("test")

    async def work(name: str) -> int:
        with tracer.start_as_current_span(name) as span:
            async with Lock(name, store=store):
                await asyncio.sleep(0)
            return span.get_span_context().span_id

    async def both() -> list[int]:
        return list(await asyncio.gather(work("a"), work("b")))

    mine = dict(zip("ab", asyncio.run(both()), strict=True))
    found = {facts(span)["leases.lock"]: span.parent for span in traces.named("leases.hold")}
    assert {name: parent.span_id for name, parent in found.items() if parent} == mine


def test_renewals_jeopardy_and_loss(traces: Traces) -> None:
    """What happens to a tenure is told by its span's events, and a loss makes it an error with its reason."""
    clock, backend = ManualClock(), Stubborn()
    store = store_on(backend, clock=clock)
    lease = Lock("job", store=store, ttl=12).acquire()
    clock.advance(4)
    look(store)
    until(lambda: lease.remaining > 8.9)
    backend.down = True
    clock.advance(4)
    look(store)
    until(lambda: len(traces.named("leases.renew")) == 2)
    clock.advance(3)
    look(store)
    clock.advance(LONG)
    look(store)
    hold = traces.one("leases.hold")
    assert [event.name for event in hold.events] == ["renewed", "jeopardy", "lost"]
    assert hold.events[-1].attributes == {"leases.reason": "expired"}
    assert hold.status.status_code is StatusCode.ERROR and hold.status.description == "lost: expired"
    assert facts(hold)["leases.reason"] == "expired" and facts(hold)["error.type"] == "LeaseLost"
    good, bad, *_ = traces.named("leases.renew")
    assert facts(good)["leases.outcome"] == "applied" and good.status.status_code is StatusCode.UNSET
    assert facts(bad)["leases.outcome"] == "unknown" and facts(bad)["error.type"] == "StoreUnavailable"
    assert bad.parent is not None and hold.context is not None
    assert bad.parent.span_id == hold.context.span_id


def test_superseded(traces: Traces) -> None:
    """The reason is that of the loss."""
    clock = ManualClock()
    store = store_on(clock=clock)
    lease = Lock("job", store=store).acquire()
    intrude(store, "job")
    clock.advance(6)
    look(store)
    until(lambda: lease.lost and traces.named("leases.hold"))
    assert facts(traces.one("leases.hold"))["leases.reason"] == "superseded"


def test_wait_in_vain(traces: Traces) -> None:
    """Out of time is an outcome; a store that fails is an error; neither has a tenure."""
    store = store_on()
    with Lock("job", store=another_process(store)), pytest.raises(AcquireTimeout):
        Lock("job", store=store, holder="late").acquire(0.01)
    backend = Stubborn()
    backend.down = True
    with pytest.raises(ConnectionError):
        Lock("job", store=store_on(backend)).acquire(0)
    late, failed = traces.named("leases.acquire")[-2:]
    assert facts(late)["leases.outcome"] == "timed out" and late.status.status_code is StatusCode.UNSET
    assert facts(failed)["leases.outcome"] == "failed" and failed.status.status_code is StatusCode.ERROR
    assert facts(failed)["error.type"] == "StoreUnavailable"
    assert len(traces.named("leases.hold")) == 1  # the rival's


def test_cancelled_wait(traces: Traces) -> None:
    """A task that is cancelled while it waits was called off, which is no error."""
    store = store_on()

    async def main() -> None:
        async with Lock("job", store=store):
            waiting = asyncio.create_task(Lock("job", store=store).acquire_async())
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(main())
    outcomes = [facts(span)["leases.outcome"] for span in traces.named("leases.acquire")]
    assert sorted(outcomes) == ["acquired", "called off"]


def test_slow_exporter_holds_nobody_up() -> None:
    """While an exporter hangs, leases are acquired, renewed, lost and released as ever."""
    gate = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            gate.wait()
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Hanging()))
    instrument(provider)
    try:
        store = store_on()
        for _ in range(3):
            Lock("job", store=store).acquire().release()
        lease: Lease = Lock("job", store=store, ttl=0.4).acquire()
        first = lease.deadline
        until(lambda: lease.deadline > first)
        lease.release()
    finally:
        gate.set()
        uninstrument()


def test_instrumented_twice_is_once(traces: Traces) -> None:
    """The same provider again changes nothing; another one is refused."""
    instrument(traces.provider)
    Lock("job", store=store_on()).acquire().release()
    assert len(traces.named("leases.hold")) == 1
    with pytest.raises(ConfigurationError, match="uninstrument"):
        instrument(TracerProvider(shutdown_on_exit=False))


def test_what_is_held_at_the_end_is_ended() -> None:
    """Tracing no more ends the spans of what is still held, and says that it goes on."""
    traces = Traces()
    instrument(traces.provider)
    lease = Lock("job", store=store_on()).acquire()
    uninstrument()
    uninstrument()
    assert facts(traces.one("leases.hold"))["leases.outcome"] == "unfinished"
    lease.release()
    assert traces.named("leases.release") == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_of_a_fork_ends_no_span_of_its_parent(traces: Traces) -> None:
    """The child traces what is its own, and the tenure of its parent is ended by the parent alone."""
    store = store_on()
    lease = Lock("job", store=store).acquire()
    assert relay.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        Lock("own", store=store).acquire().release()
        uninstrument()
        os.write(
            write, ",".join(str(facts(span)["leases.lock"]) for span in traces.named("leases.hold")).encode()
        )
        os._exit(0)
    os.close(write)
    assert os.read(read, 100) == b"own"
    os.waitpid(child, 0)
    os.close(read)
    lease.release()
    assert facts(traces.one("leases.hold"))["leases.outcome"] == "released"


def test_missing_extra_says_what_to_install() -> None:
    """Without OpenTelemetry the import says how to get it."""
    code = "import sys; sys.modules['opentelemetry'] = None; import leases.tracing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and 'pip install "leases[otel]"' in done.stderr
