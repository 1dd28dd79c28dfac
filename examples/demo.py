"""One lock and three processes: one is killed while it holds the lock, one is stopped and wakes too late.

    make demo

It needs Python alone and takes some ten seconds. Every line is an event, with the seconds since the start.
The demo checks what it tells, and exits with 1 and a sentence if anything is not so.

The workers are this file again, run as `demo.py worker-1 FOLDER`; `worker` is what they do with the lock.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from select import select
from typing import Any

from leases import Lease, Lock, Status, connect
from leases.clock import system_clock

Event = dict[str, Any]  # at, who, what, and the facts

LOCK = "demo"
TTL = 3.0  # seconds for which the lock outlives the last renewal of its holder
WORKERS = "worker-1", "worker-2", "worker-3"
TURNS = 4  # of each worker
PATIENCE = 20.0  # seconds after which an event that did not come will not come, however slow the machine


def now() -> float:
    """The clock that leases are counted by; all processes of a host share it."""
    return system_clock().hold


# ---- what every worker does --------------------------------------------------------------------------


def worker(name: str, account: Account, counter: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demo, which ends its workers
    lock = Lock(LOCK, ttl=TTL, holder=name)

    for _ in range(TURNS):
        with lock as lease:
            tell(name, "turn", token=lease.token)
            value = int(counter.read_text())
            time.sleep(0.05)  # long enough for two who are here at once to write the same number
            counter.write_text(str(value + 1))
            tell(name, "turned", counter=value + 1)
        time.sleep(0.05)  # so that others come in between

    sys.stdin.readline()  # until all had their turns
    lease = lock.acquire()
    tell(name, "holds", token=lease.token, sent=lease.deadline - lock.terms.hold)
    tell(name, "write", accepted=account.write(name, lease.token))
    if hold(name, lease):
        held = lease.held
        lease.release()
        tell(name, "released", held=held)
    else:  # Too late, and it tries nevertheless.
        tell(name, "write", accepted=account.write(name, lease.token))
        lease.release()
        tell(name, "released")


def hold(name: str, lease: Lease) -> bool:
    """Look at `held` before every step of the work; False if it did not stand, True if told to stop."""
    last = now()
    while not select([sys.stdin], [], [], 0)[0]:
        held, looked = lease.held, now()
        if not held:
            tell(name, "lost", looked=looked, slept=looked - last, reason=lease.lost.reason)
            return False
        last = looked
        time.sleep(0.02)
    return True


class Account:
    """A resource that compares tokens: a row in a database that knows nothing of locks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        with closing(self._open()) as database:
            database.execute("CREATE TABLE account (written_by TEXT, token INTEGER)")
            database.execute("INSERT INTO account VALUES ('nobody', 0)")

    def write(self, who: str, token: int) -> bool:
        """One statement compares and writes, so that nothing can come between; False if refused."""
        with closing(self._open()) as database:
            update = "UPDATE account SET written_by = ?, token = ? WHERE token <= ?"
            return database.execute(update, (who, token, token)).rowcount == 1

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)


def tell(who: str, what: str, **facts: Any) -> None:
    """One line to the pipe that all workers share: it keeps the order in which things happened."""
    line = json.dumps({"at": now(), "who": who, "what": what, **facts})
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


# ---- the workers, seen from outside ------------------------------------------------------------------


class Failed(Exception):
    """Something is not as told."""


def check(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


class Crew:
    """The worker processes and the pipe on which they tell what happens."""

    def __init__(self, folder: Path) -> None:
        self._ear, mouth = os.pipe()
        self._heard = b""
        self._processes = {
            name: subprocess.Popen(
                [sys.executable, __file__, name, folder], stdin=subprocess.PIPE, stdout=mouth
            )
            for name in WORKERS
        }
        os.close(mouth)

    def hear(self, what: str) -> Event:
        """Wait for the next event, which has to be this one."""
        until = now() + PATIENCE
        while b"\n" not in self._heard:
            ready = select([self._ear], [], [], max(until - now(), 0.0))[0]
            heard = os.read(self._ear, 4096) if ready else b""
            check(heard != b"", f'no worker told of "{what}" within {PATIENCE:.0f} s')
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        event: Event = json.loads(line)
        check(event["what"] == what, f'expected "{what}", and this happened: {event}')
        return event

    def nudge(self, name: str) -> None:
        """Let a worker go on that waits for a line."""
        pipe = self._processes[name].stdin
        assert pipe is not None
        pipe.write(b"\n")
        pipe.flush()

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def stop(self, name: str) -> None:
        pid = self._processes[name].pid
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)  # returns when it has stopped

    def wake(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGCONT)

    def dismiss(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.communicate()
        os.close(self._ear)


class Demo:
    """The story: it makes things happen, prints them, and checks them."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.store = connect()
        self.began = now()
        self.seen: list[tuple[str, str]] = []

    def run(self) -> None:
        self.turns()
        for name in WORKERS:
            self.crew.nudge(name)
        heir = self.kill_the_holder(self.next_holder())
        self.stop_the_holder(heir)

    def turns(self) -> None:
        self.act("1. Three processes take turns; each reads a counter, dawdles, and writes it back plus one.")
        turns, token, free_since = len(WORKERS) * TURNS, 0, 0.0
        for turn in range(1, turns + 1):
            begin, end = self.crew.hear("turn"), self.crew.hear("turned")
            check(begin["who"] == end["who"] and begin["at"] >= free_since, f"two turns overlap: {end}")
            check(begin["token"] > token, f"token {begin['token']} came after {token}")
            check(end["counter"] == turn, f"the counter reads {end['counter']} after {turn} turns")
            token, free_since = begin["token"], end["at"]
            took = (end["at"] - begin["at"]) * 1000
            words = f"has the lock for {took:.0f} ms, token {token:2}; the counter reads {turn}"
            self.say(begin["at"], begin["who"], words)
        self.note("turns", f"{turns} by {len(WORKERS)} processes, no two at once; the counter reads {turns}")

    def kill_the_holder(self, holder: Event) -> Event:
        name = holder["who"]
        self.act(f"2. The holder, {name}, is killed with kill -9. No goodbye, and nobody is told.")
        self.await_renewal()
        time.sleep(TTL / 8)
        self.crew.kill(name)
        end = self.strike(f"kill -9 {name}")

        time.sleep(max(end - now(), 0.0) / 2)
        record, _ = self.look()
        if (looked := now()) < end:
            check(record.holder == name, f"{record.holder} had the lock {end - looked:.3f} s early")
            words = f"half-time: the store still shows {name} as the holder, and the others wait"
            self.say(looked, "demo", words)
        heir = self.next_holder()
        self.judge("after kill -9", holder, heir, end)
        return heir

    def stop_the_holder(self, holder: Event) -> None:
        name = holder["who"]
        self.act(f"3. The new holder, {name}, is stopped with SIGSTOP for longer than the ttl.")
        self.await_renewal()  # so that it does not stop in the midst of a write, which would block the file
        self.crew.stop(name)
        end = self.strike(f"SIGSTOP {name}")
        heir = self.next_holder()
        self.judge("after SIGSTOP", holder, heir, end)

        self.act(f"4. {name} wakes up. It believes nothing, and what it does all the same changes nothing.")
        before, _ = self.look()
        woken = now()
        self.crew.wake(name)
        self.say(woken, "demo", f"SIGCONT {name}")
        self.stale(holder, heir, woken)
        self.heir_stands(heir, before)

    def stale(self, holder: Event, heir: Event, woken: float) -> None:
        name, token = holder["who"], holder["token"]
        lost = self.crew.hear("lost")
        check(lost["slept"] >= TTL, f"{name} believed in its lease after it woke up")
        took = (lost["looked"] - woken) * 1000
        words = f"held is False ({lost['reason']}) at its first look, {took:.1f} ms after it woke"
        self.say(lost["looked"], name, words)
        self.note("the stale holder", words)

        write = self.crew.hear("write")
        check(not write["accepted"], f"the account took a late write with token {token}")
        words = f"refused: token {token}, and the account has seen {heir['token']}"
        self.say(write["at"], name, f"writes to the account all the same: {words}")
        self.note("its late write", words)
        self.say(self.crew.hear("released")["at"], name, "releases, far too late")

    def heir_stands(self, heir: Event, before: Status) -> None:
        after, _ = self.look()
        shown, due = (after.holder, after.token, after.claim), (heir["who"], heir["token"], before.claim)
        check(shown == due, f"the late release changed the lock of {heir['who']}: {before} became {after}")
        words = f"the store shows {after.holder} with token {after.token}, as before"
        self.say(now(), "demo", words)
        self.note("its late release", f"harmless: {words}")

        self.crew.nudge(heir["who"])
        release = self.crew.hear("released")
        check(release["held"], f"{heir['who']} lost its lease without a reason")
        check(not self.look()[0].held, f"the lock is not free after the release of {heir['who']}")
        self.say(release["at"], heir["who"], "is done and releases; the lock is free")

    # ---- parts of it ---------------------------------------------------------------------------------

    def next_holder(self) -> Event:
        """Wait for the next who holds the lock, and for its first write to the account."""
        holder, write = self.crew.hear("holds"), self.crew.hear("write")
        name, token = holder["who"], holder["token"]
        check(write["accepted"], f"the account refused the holder {name}, token {token}")
        words = f"has the lock, token {token}, and keeps it: a renewal every {TTL / 3:g} s"
        self.say(holder["at"], name, words)
        self.say(write["at"], name, f"writes to the account with token {token}: accepted")
        return holder

    def await_renewal(self) -> None:
        first, until = self.look()[0], now() + PATIENCE
        while (record := self.look()[0]).renewed == first.renewed:
            check(now() < until, f"{first.holder} did not renew within {PATIENCE:.0f} s")
            time.sleep(0.01)
        self.say(now(), "demo", f"{record.holder} has renewed its lease")

    def strike(self, words: str) -> float:
        """The holder was just struck: tell what the store shows of it; when its record will end."""
        struck = now()
        _, end = self.look()
        ago = f"its last renewal was sent {struck - (end - TTL):.2f} s before"
        self.say(struck, "demo", f"{words}; {ago}, so the lock stays taken for another {end - struck:.2f} s")
        return end

    def look(self) -> tuple[Status, float]:
        """What the store shows of the lock, and when its record ends if nobody renews it."""
        before, record = now(), self.store.status(LOCK, timeout=PATIENCE)
        left = record.expires_in
        if left is None:  # A host without a boot clock to compare: by its wall clock, which is for people.
            left = (record.renewed or 0.0) + TTL - time.time()
        return record, before + left

    def judge(self, how: str, holder: Event, heir: Event, end: float) -> None:
        """The heir may send its claim when the record has ended, and not before."""
        late = heir["sent"] - end
        check(late >= 0, f"{heir['who']} took over {-late:.3f} s before the record of {holder['who']} ended")
        check(heir["token"] > holder["token"], f"token {heir['token']} came after {holder['token']}")
        since = f"{late + TTL:.3f} s after the last renewal, {late * 1000:.1f} ms after the ttl"
        self.say(now(), "demo", f"so {heir['who']} took over {since}, with a higher token")
        self.note(how, f"taken over {since}; token {holder['token']} -> {heir['token']}")

    def act(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def say(self, at: float, who: str, words: str) -> None:
        print(f"  {at - self.began:7.3f}  {who:8}  {words}", flush=True)

    def note(self, what: str, words: str) -> None:
        self.seen.append((what, words))

    def summary(self) -> None:
        print("\nSeen, measured and checked:")
        for what, words in self.seen:
            print(f"  {what:16}  {words}")


def main() -> int:
    if not hasattr(signal, "SIGSTOP"):
        print("the demo stops a process with SIGSTOP, which this system has not", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="leases-demo-") as name:
        folder = Path(name)
        os.environ["LEASES_URL"] = f"sqlite:{folder / 'leases.db'}"
        account, counter = parts(folder)
        account.create()
        counter.write_text("0")
        print(f"One lock, three processes. The store is a file, {folder / 'leases.db'}.")
        print(f"The lock stays taken for ttl = {TTL:g} s after the last renewal of its holder was sent.")
        print("A token is the number of the write that took the lock: tokens grow, and have gaps.")
        connect().status(LOCK)  # makes the file, before all of them begin with that
        crew = Crew(folder)
        try:
            demo = Demo(crew)
            demo.run()
        except Failed as failed:
            print(f"\nNot as told: {failed}.", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            crew.dismiss()
        demo.summary()
        print("All as told.")
        return 0


def parts(folder: Path) -> tuple[Account, Path]:
    return Account(folder / "account.db"), folder / "counter"


if __name__ == "__main__":
    if len(sys.argv) == 3:
        try:
            worker(sys.argv[1], *parts(Path(sys.argv[2])))
        except Exception as error:  # Whatever it is, it is not as told, and the demo says so.
            tell(sys.argv[1], "failed", error=repr(error))
    else:
        sys.exit(main())
