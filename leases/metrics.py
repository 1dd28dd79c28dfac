"""Metrics for Prometheus, of every lock of this process: ``pip install "leases[prometheus]"``.

    from leases.metrics import install

    install()  # into the registry that prometheus_client serves by default

What changes by itself, as whether a lease stands and for how long, is read from the clock when it is scraped:
it is right although nobody has updated it. The rest is counted where it happens.

===================================  ======================================================================
``leases_is_leader``                 1 while this process holds the lock, else 0
``leases_held``                      leases that this process holds
``leases_token``                     the fencing token of the lease that is held
``leases_deadline_seconds``          seconds to its deadline if no renewal is committed any more
``leases_in_jeopardy``               1 while a renewal is overdue, else 0
``leases_jeopardies_total``          how often one was
``leases_acquire_wait_seconds``      a histogram, by ``outcome``: acquired, timed_out, called_off, failed
``leases_renew_seconds``             a histogram of the store's answers to renewals
``leases_renew_failures_total``      by ``outcome``: conflict, unknown, refused
``leases_acquired_total``            locks acquired
``leases_losses_total``              by ``reason``: expired, superseded, broken, closed
``leases_releases_total``            by ``clean``; "false": the store did not say so in time
===================================  ======================================================================

Each has the label ``store``, which never holds a credential, and all but the second the label ``lock``. Each
lock that this process wants or has had is a series of its own for as long as the process runs; where names
have no end, such as ``orders/4711``, group them: ``install(group=lambda name: name.split("/")[0])``.

In the child of a fork counters go on from those of the parent, as prometheus_client has it, and nothing is
held. Its multi-process mode gathers counters and histograms, but not the gauges, which belong to one process.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from leases.errors import ConfigurationError
from leases.events import Endangered, Lost, Released
from leases.hooks import Acquired, Answered, NotAcquired, Subject, Told, hooks
from leases.hub import hubs
from leases.tenure import Tenure

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily
except ModuleNotFoundError as error:
    raise ConfigurationError(
        f'metrics need the package {error.name}; install it with: pip install "leases[prometheus]"'
    ) from error

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# Seconds. A renewal takes milliseconds, or is given up after V/4; a wait may last for hours.
_RENEW_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WAIT_BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)

_EACH: Final = ("store", "lock")
_GAUGES: Final = (
    ("leases_held", "Leases that this process holds now.", ("store",)),
    ("leases_is_leader", "Whether this process holds the lock now, by its clock: 1 or 0.", _EACH),
    ("leases_token", "The fencing token of the lease that is held.", _EACH),
    ("leases_deadline_seconds", "Seconds until the lease ends if no renewal is committed any more.", _EACH),
    ("leases_in_jeopardy", "Whether a renewal of the lease that is held is overdue: 1 or 0.", _EACH),
)

Group = Callable[[str], str]
T = TypeVar("T")


def install(registry: CollectorRegistry = REGISTRY, *, group: Group = str) -> Metrics:
    """Count and show the locks of this process in a registry; a second time it changes nothing.

    Args:
        registry: where; by default the one that `prometheus_client.start_http_server` serves.
        group: from a lock's name to its label ``lock``; by default the name itself.

    Raises:
        ConfigurationError: something else in the registry has one of our names.
    """
    with _mutex:
        metrics = _installed.get(registry)
        if metrics is None:
            metrics = _installed[registry] = Metrics(registry, group)
        return metrics


class Metrics:
    """What is counted, and what is read from the clock when somebody asks.

    Raises:
        ConfigurationError: something else in the registry has one of our names.
    """

    def __init__(self, registry: CollectorRegistry, group: Group = str) -> None:
        self._registry, self._group = registry, group
        self._had: dict[tuple[str, str], None] = {}  # (store, lock) of everything that was ever acquired
        self._ours: list[Any] = []
        try:
            self._make()
        except ValueError as error:
            for made in self._ours:
                registry.unregister(made)
            raise ConfigurationError(
                f"the registry has a metric of one of our names already: {error}; pass a registry of its own"
            ) from error
        hooks.listen(self._hear)

    def uninstall(self) -> None:
        """Count no more, and take everything out of the registry."""
        hooks.leave(self._hear)
        with _mutex:
            _installed.pop(self._registry, None)
            while self._ours:
                self._registry.unregister(self._ours.pop())

    # ---- what is counted -------------------------------------------------------------------------

    def _make(self) -> None:
        labels, registry = _EACH, self._registry
        self._wait = self._keep(
            Histogram(
                "leases_acquire_wait_seconds",
                "From wanting a lock to having it, or to the end of trying.",
                (*labels, "outcome"),
                buckets=_WAIT_BUCKETS,
                registry=registry,
            )
        )
        self._renew = self._keep(
            Histogram(
                "leases_renew_seconds",
                "How long the store took to answer a renewal, whatever the answer.",
                labels,
                buckets=_RENEW_BUCKETS,
                registry=registry,
            )
        )
        self._acquired = self._counter("leases_acquired", "Locks acquired.")
        self._failures = self._counter("leases_renew_failures", "Renewals not committed.", "outcome")
        self._jeopardy = self._counter("leases_jeopardies", "Times that a renewal was overdue.")
        self._losses = self._counter("leases_losses", "Leases lost while they were held.", "reason")
        self._releases = self._counter(
            "leases_releases", "Leases released; not clean: the store did not say so in time.", "clean"
        )
        registry.register(self)
        self._ours.append(self)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return self._keep(Counter(name, what, (*_EACH, *labels), registry=self._registry))

    def _keep(self, made: T) -> T:
        self._ours.append(made)
        return made

    def _hear(self, subject: Subject, told: Told) -> None:
        key = (subject.store, self._group(subject.name))
        match told:
            case Acquired(waited):
                self._had.setdefault(key)
                self._acquired.labels(*key).inc()
                self._wait.labels(*key, "acquired").observe(waited)
            case NotAcquired(waited, outcome):
                self._wait.labels(*key, outcome.replace(" ", "_")).observe(waited)
            case Answered("renew", outcome, seconds):
                self._renew.labels(*key).observe(seconds)
                if outcome != "applied":
                    self._failures.labels(*key, outcome).inc()
            case Endangered():
                self._jeopardy.labels(*key).inc()
            case Lost(reason):
                self._losses.labels(*key, reason).inc()
            case Released(clean):
                self._releases.labels(*key, "true" if clean else "false").inc()
            case _:
                pass

    # ---- what is read when somebody asks -----------------------------------------------------------

    def describe(self) -> list[Metric]:
        """The names that `collect` will use, so that nobody else takes them."""
        return [GaugeMetricFamily(name, what, labels=labels) for name, what, labels in _GAUGES]

    def collect(self) -> Iterator[Metric]:
        """The gauges, as the clock has them now."""
        leases, stores = _Standing.all(self._group)
        shown = dict.fromkeys([*list(self._had), *leases])
        rows: dict[str, list[tuple[tuple[str, ...], float]]] = {
            "leases_held": [((store,), float(count)) for store, count in stores.items()],
            "leases_is_leader": [(key, float(key in leases and leases[key].held > 0)) for key in shown],
        }
        for key, found in leases.items():
            if found.held:
                rows.setdefault("leases_token", []).append((key, float(found.token)))
                rows.setdefault("leases_deadline_seconds", []).append((key, found.left))
                rows.setdefault("leases_in_jeopardy", []).append((key, float(found.jeopardy)))
        for name, what, labels in _GAUGES:
            family = GaugeMetricFamily(name, what, labels=labels)
            for values, number in rows.get(name, ()):
                family.add_metric(values, number)
            yield family


class _Standing:
    """What stands under one label at this instant: mostly one lock, or those of a group."""

    __slots__ = ("held", "jeopardy", "left", "token")

    def __init__(self) -> None:
        self.held, self.token, self.left, self.jeopardy = 0, 0, math.inf, False

    @staticmethod
    def all(group: Group) -> tuple[dict[tuple[str, str], _Standing], dict[str, int]]:
        """By store and lock what is wanted or held now, and by store how many leases are."""
        found: dict[tuple[str, str], _Standing] = {}
        counts: dict[str, int] = {}
        for hub in hubs():
            store = hub.backend.identity
            counts.setdefault(store, 0)
            for member in hub.members:
                if isinstance(member, Tenure):
                    standing = found.setdefault((store, group(member.name)), _Standing())
                    counts[store] += standing.add(member)
        return found, counts

    def add(self, tenure: Tenure) -> bool:
        """One more of the group; whether it is held."""
        now, machine = tenure.hub.clock(), tenure.machine
        if not (tenure.reported and tenure.held):
            return False
        self.held += 1
        self.token = max(self.token, machine.token or 0)
        self.left = min(self.left, max(machine.deadline - now.hold, 0.0))
        self.jeopardy = self.jeopardy or machine.jeopardy(now)
        return True


_installed: dict[CollectorRegistry, Metrics] = {}
_mutex = threading.Lock()


def _in_the_child() -> None:
    global _mutex
    _mutex = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
