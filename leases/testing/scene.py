"""A scene: the world set up, with everything that acts in it, and the faults that can befall it by name.

Plans drawn from a seed call these faults, and scenarios written by hand call the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from leases.machine import Machine
from leases.terms import Terms
from leases.testing.cells import Cells, Kind
from leases.testing.driver import Habits
from leases.testing.invariants import Judge, Resource
from leases.testing.network import Conditions, Network
from leases.testing.process import Process
from leases.testing.world import Host, World


class Scene:
    """A store of some kind, hosts and processes, and the judge.

    Args:
        world: whose time it is.
        kind: the store's rules.
        rate: rho, the bound on the clocks' rate error that the fleet agrees on.
        weather: the conditions on the way to the store.
        machine: the state machine to judge.
    """

    def __init__(
        self,
        world: World,
        kind: Kind,
        *,
        rate: float = 0.1,
        weather: Conditions | None = None,
        machine: type[Machine] = Machine,
    ) -> None:
        traits = kind.rules.traits
        self.world, self.kind, self.machine = world, kind, machine
        self.judge = Judge(world, rate, counted=not traits.release_deletes, local=traits.local)
        self.network = Network(world, self.judge, kind, weather or Conditions())
        self.resource = Resource(self.judge)
        self.hosts: list[Host] = []
        self.processes: list[Process] = []

    def host(self, name: str, *, rate: float = 1.0) -> Host:
        """Another host. Where the store lives on one host, it is that one."""
        if self.hosts and self.network.local:
            return self.hosts[0]
        self.hosts.append(Host(self.world, name, rate=rate))
        return self.hosts[-1]

    def process(self, name: str, host: Host, terms: Terms, habits: Habits) -> Process:
        """Another process; it wants nothing until it is started or told to."""
        process = Process(
            host, name, terms, self.network, self.judge, self.resource, habits, self.machine
        )  # fmt: skip
        self.processes.append(process)
        return process

    def on(self, host: Host) -> Iterator[Process]:
        """The processes of a host."""
        return (process for process in self.processes if process.host is host)

    # ---- faults, by name, as plans and scenarios call them ------------------------------------------

    def suspend(self, host: Host, seconds: float) -> None:
        """Let a host sleep, processes and all."""
        host.suspend(seconds)
        self.world.mark(host.name, "suspend", "", host.wakes)
        for process in self.on(host):
            process.sleep()

    def reboot(self, host: Host, seconds: float) -> None:
        """Crash a host: its processes come back under another boot."""
        for process in self.on(host):
            process.crash(restart=seconds)
        host.reboot()
        self.world.mark(host.name, "reboot")

    def partition(self, host: Host, seconds: float, *, requests: bool = True, replies: bool = True) -> None:
        """Cut a host off from the store, in one direction or both."""
        until = self.world.time + seconds
        host.mute = max(host.mute, until) if requests else host.mute
        host.deaf = max(host.deaf, until) if replies else host.deaf
        which = "" if requests and replies else "requests" if requests else "replies"
        self.world.mark(host.name, "cut", which, until)

    def set_rate(self, host: Host, rate: float) -> None:
        """Let a host's clocks run at another rate."""
        host.set_rate(rate)
        for process in self.on(host):
            process.look_again()

    def outage(self, seconds: float, *, busy: bool = False) -> None:
        """The store does not answer, or turns everybody away."""
        self.network.down, self.network.busy = self.world.time + seconds, busy
        self.world.mark("store", "outage", "busy" if busy else "", self.network.down)

    def slow(self, seconds: float, by: float) -> None:
        """The store takes its time."""
        self.network.slow, self.network.slow_by = self.world.time + seconds, by
        self.world.mark("store", "slow", f"by {by:.3f} s", self.network.slow)

    def freeze(self, host: Host, seconds: float) -> None:
        """A host reads from a replica that learns nothing more."""
        host.frozen = self.world.dice.randrange(len(self.network.history))
        self.world.mark(host.name, "frozen", "", self.world.time + seconds)
        self.world.after(seconds, self.thaw, host)

    def thaw(self, host: Host) -> None:
        """Its replica is up to date again."""
        host.frozen = None

    def restore(self, backup: Cells) -> None:
        """Put the store back to what it was once, numbers and all."""
        self.network.cells = backup
        self.judge.repeated = True
        self.world.mark("store", "restored")

    def heal(self) -> None:
        """All faults are off, everybody is back; what is under way stays under way."""
        world, network = self.world, self.network
        network.weather = network.weather.calm()
        network.down = network.slow = -1.0
        for host in self.hosts:
            host.mute = host.deaf = -1.0
            host.frozen = None
        for process in self.processes:
            process.habits = _calm(process.habits)
            if not process.alive:
                process.crash(restart=0.0)
        world.mark("world", "healed")
        awake = max((host.wakes for host in self.hosts), default=0.0)
        self.judge.healed = max(world.time, awake, network.latest, *(p.busy for p in self.processes))


def _calm(habits: Habits) -> Habits:
    return replace(
        habits,
        slip=0.0,
        tardy=0.0,
        seal=0.0,
        give_up=0.0,
        linger=0.0,
        successor=0.0,
        react=0.0,
        forget=0.0,
        falter=0.0,
        hold_back=0.0,
    )
