"""An elector in a process of its own: it takes part, works while it leads, and writes a journal of both.

``python elector.py URL HOLDER SETTINGS``, where SETTINGS is JSON: name, terms, journal, guard, dawdle,
awaits. It is told what to do by lines of JSON on stdin, and answers each on stdout. The journal is shared by
all who take part; each line of it is one write, its instants are of CLOCK_BOOTTIME, which all processes of a
host share. Whoever works holds a lock of the kernel's, so that two at once are seen by neither's own account.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
import threading
import time
from typing import Any

from leases import Elector, Leader, Lease, LeaseLost
from leases.terms import Terms

STEP_SECONDS = 0.005  # of the work
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.05


def now() -> float:
    """The clock of the journal."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Journal:
    """Where this process writes what happens to it."""

    def __init__(self, file: str, who: str) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._mutex = threading.Lock()
        self._who = {"who": who, "pid": os.getpid()}

    def note(self, what: str, token: int | None, **more: object) -> None:
        """One line; the lines of this process stand in the order of their instants."""
        with self._mutex:
            line = {"at": now(), **self._who, "what": what, "token": token, **more}
            os.write(self._file, json.dumps(line).encode() + b"\n")


class Stay:
    """One tenure's work, as it is written down: it looks before each step whether its lease stands."""

    def __init__(self, journal: Journal, guard: str, lease: Lease) -> None:
        self._journal, self._lease = journal, lease
        self._guard = os.open(guard, os.O_RDWR | os.O_CREAT, 0o600)
        self._stood = now()
        journal.note("in", lease.token, alone=_alone(self._guard))

    def may_go_on(self, *, dawdling: bool = False) -> bool:
        """Whether another step may be done."""
        began = now()
        if not (self._lease.held if dawdling else not self._lease.ending):
            return False
        self._stood = began
        return True

    def ending(self) -> None:
        """It was told to stop, or its lease is lost."""
        lease = self._lease
        self._journal.note("ending", lease.token, held=lease.held, deadline=lease.deadline)

    def leave(self) -> None:
        """It has stopped."""
        self.may_go_on(dawdling=True)
        reason = self._lease.lost.reason
        os.close(self._guard)
        self._journal.note("out", self._lease.token, stood=self._stood, reason=reason)


class Candidate:
    """What takes part, in one of both colours; `obey` calls one of the methods below it."""

    def __init__(self, url: str, who: str, settings: dict[str, Any]) -> None:
        self._journal = Journal(settings["journal"], who)
        self._guard, self._dawdle = settings["guard"], settings["dawdle"]
        self._elector = Elector(
            settings["name"],
            store=url,
            holder=who,
            terms=Terms(**settings["terms"]),
            on_elected=lambda lease: self._journal.note("elected", lease.token),
            on_jeopardy=lambda lease: self._journal.note("jeopardy", lease.token),
            on_lost=self._lost,
            on_new_leader=self._led_by,
        )
        self._thread = threading.Thread(target=self._run_async if settings["awaits"] else self._run)

    def _lost(self, lease: Lease, loss: LeaseLost) -> None:
        self._journal.note("lost", lease.token, reason=loss.reason)

    def _led_by(self, leader: Leader | None) -> None:
        token, name = (None, None) if leader is None else (leader.token, leader.holder)
        self._journal.note("leader", token, name=name)

    def _run(self) -> None:
        self._elector.run(self._work)
        self._journal.note("over", None)

    def _run_async(self) -> None:
        asyncio.run(self._elector.run_async(self._work_async))
        self._journal.note("over", None)

    def _work(self, lease: Lease) -> None:
        """Work until it is to stop, and a while longer if it dawdles."""
        stay = Stay(self._journal, self._guard, lease)
        while stay.may_go_on():
            time.sleep(STEP_SECONDS)
        stay.ending()
        ends = now() + self._dawdle
        while now() < ends and stay.may_go_on(dawdling=True):
            time.sleep(STEP_SECONDS)
        stay.leave()

    async def _work_async(self, lease: Lease) -> None:
        """The same; it is cancelled when it is to stop, and does not dawdle."""
        stay = Stay(self._journal, self._guard, lease)
        try:
            while stay.may_go_on():
                await asyncio.sleep(STEP_SECONDS)
        finally:
            stay.ending()
            stay.leave()

    def obey(self, what: str, order: dict[str, Any]) -> dict[str, object]:
        """Do what an order says; it stands in the journal before anything comes of it."""
        self._journal.note("told", None, order=what)
        done: dict[str, object] = getattr(self, what)(**order)
        return done

    # ---- orders ------------------------------------------------------------------------------------

    def begin(self) -> dict[str, object]:
        """Take part."""
        self._thread.start()
        return {"begun": True}

    def resign(self) -> dict[str, object]:
        """Let go."""
        return {"resigned": self._elector.resign(STOP_SECONDS)}

    def transfer(self, to: str) -> dict[str, object]:
        """Let go for another."""
        return {"transferred": self._elector.transfer(to, STOP_SECONDS)}

    def look(self) -> dict[str, object]:
        """Whether this one leads, and who does as far as it knows."""
        leader = self._elector.leader()
        return {"leads": self._elector.is_leader, "leader": None if leader is None else leader.holder}

    def stop(self) -> dict[str, object]:
        """Take part no more."""
        until = now() + STOP_SECONDS
        while self._thread.is_alive() and now() < until:
            self._elector.stop(until - now())  # Before it has begun to take part there is nothing to stop.
            self._thread.join(LOOK_SECONDS)
        return {"stopped": not self._thread.is_alive()}


def _alone(guard: int) -> bool:
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tell(facts: dict[str, object]) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def main() -> None:
    """Do what the lines say until they end."""
    url, who, settings = sys.argv[1:]
    candidate = Candidate(url, who, json.loads(settings))
    _tell({"up": True})
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        try:
            _tell(candidate.obey(order.pop("do"), order))
        except Exception as error:
            _tell({"failed": f"{type(error).__name__}: {error}"})
    os._exit(0)  # Whoever was not told to stop leaves the lock to its ttl, as if it had died.


if __name__ == "__main__":
    main()
