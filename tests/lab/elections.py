"""An election among processes, and all that befalls them: killed, stopped, told to resign, to transfer.

What befalls them is drawn from a seed. After each blow somebody has to lead again; in the end the journal
that all of them wrote is judged, see `journals.py`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lab.clients import Remote
from lab.journals import Blow, Journal, Line, disorder, overlaps

LOOK_SECONDS: Final = 0.01
START_SECONDS: Final = 30.0
# What befalls whom, and how often in a hundred.
BLOWS: Final = {
    "kill the leader": 25,
    "kill a follower": 5,
    "stop the leader for long": 20,
    "stop the leader shortly": 10,
    "stop a follower": 10,
    "transfer": 15,
    "resign": 15,
}


def now() -> float:
    """The clock of the journal."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def settings(folder: Path, name: str, terms: dict[str, float], dawdle: float = 0.0) -> dict[str, Any]:
    """What all who take part in an election are given; the work goes on for `dawdle` seconds if it may.

    Who `awaits` takes part by asyncio.
    """
    files = {"journal": str(folder / f"{name}.journal"), "guard": str(folder / f"{name}.guard")}
    return {"name": name, "terms": terms, "dawdle": dawdle, "awaits": False, **files}


class Voter:
    """One who takes part: a process, and the next one under the same name when it was killed."""

    def __init__(self, url: str, who: str, settings: dict[str, Any]) -> None:
        self.who, self._how = who, (url, who, settings)
        self.stopped: Blow | None = None
        self.thaws_at = 0.0
        self.remote = self.start()

    def start(self) -> Remote:
        """Start it; `connect` waits for it, and `begin` lets it take part."""
        self._connected = False
        url, who, settings = self._how
        self.remote = Remote(url, who, json.dumps(settings), program="elector.py")
        return self.remote

    def connect(self) -> None:
        """Wait until it is there, and has reached the store."""
        if not self._connected:
            assert self.remote.hear(START_SECONDS) == {"up": True}
            assert self.remote("look")["leads"] is False
            self._connected = True

    def begin(self) -> None:
        """Let it take part once it is there."""
        self.connect()
        assert self.remote("begin") == {"begun": True}

    @property
    def pid(self) -> int:
        """Its process now."""
        return self.remote.pid

    def kill(self) -> Blow:
        """End it without a word."""
        self.remote.close()
        self.stopped = None
        return Blow(self.pid, now(), killed=True)

    def stop(self, seconds: float) -> Blow:
        """Let it stand still; it goes on after so many seconds, when somebody looks."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # returns when it stands
        self.stopped = Blow(self.pid, now())
        self.thaws_at = self.stopped.at + seconds
        return self.stopped

    def thaw(self) -> None:
        """Let it go on."""
        if self.stopped is not None:
            self.stopped.until = now()
            os.kill(self.pid, signal.SIGCONT)
            self.stopped = None


class Election:
    """Some processes that elect one of them again and again.

    Attributes:
        blows: what befell them.
        took: by kind of blow, the seconds until somebody else was at work.
        late: sentences about blows after which nobody led in time.
    """

    def __init__(self, url: str, name: str, folder: Path, *, ttl: float, voters: int, seed: str) -> None:
        self.name, self.ttl, self.dice = name, ttl, random.Random(seed)
        self.journal = Journal(folder / f"{name}.journal")
        how = settings(folder, name, {"ttl": ttl})
        self.blows: list[Blow] = []
        self.took: defaultdict[str, list[float]] = defaultdict(list)
        self.late: list[str] = []
        self.denied = 0
        self.voters = [
            Voter(url, f"{name}-{letter}", how | {"awaits": letter in "bd"}) for letter in "abcdefgh"[:voters]
        ]

    # ---- what is seen ------------------------------------------------------------------------------

    @property
    def recovery(self) -> float:
        """Seconds within which somebody leads again: the ttl, one missed hint, and a busy machine."""
        return 1.5 * self.ttl + 5.0

    def faults(self) -> list[str]:
        """What is wrong, a sentence each."""
        lines = self.journal.news()
        return [*overlaps(lines, self.blows), *disorder(lines, self.blows), *self.late]

    def working(self) -> Line | None:
        """The work that goes on, by the journal; not that of the dead, nor of who stands still."""
        lines = self.journal.news()
        over = {(line.pid, line.token) for line in lines if line.what == "out"}
        awake = {voter.pid for voter in self.voters if voter.stopped is None}
        begun = [line for line in lines if line.what == "in" and line.pid in awake]
        return next((line for line in reversed(begun) if (line.pid, line.token) not in over), None)

    def _until(self, look: Callable[[], Line | None], seconds: float) -> Line | None:
        until = now() + seconds
        while (seen := look()) is None and now() < until:
            self._thaw()
            time.sleep(LOOK_SECONDS)
        return seen

    def _led(self, what: str, began: float, token: int = -1) -> Line | None:
        """Wait until somebody works, with a token above that one; note how long it took."""

        def look() -> Line | None:
            line = self.working()
            return line if line is not None and line.token is not None and line.token > token else None

        seen = self._until(look, self.recovery)
        if seen is None:
            self.late.append(f"{self.name}: nobody led {self.recovery:g} s after: {what}, at {began}")
        elif token >= 0:
            self.took[what].append(seen.at - began)
        return seen

    # ---- what befalls them -------------------------------------------------------------------------

    def begin(self) -> None:
        """Let all take part, and wait for the first leader."""
        for voter in self.voters:
            self._begin(voter)
        self._led("the beginning", now())

    def _begin(self, voter: Voter) -> None:
        """Let one take part, and wait until it has seen who leads."""

        def seen() -> Line | None:
            lines = self.journal.news()
            return next((line for line in lines if line.what == "leader" and line.pid == voter.pid), None)

        voter.begin()
        if self._until(seen, START_SECONDS) is None:
            self.late.append(f"{self.name}: {voter.who} never saw who leads")

    def go_on(self) -> None:
        """One blow, and what comes after it."""
        self._thaw()
        what = self.dice.choices(list(BLOWS), list(BLOWS.values()))[0]
        line = self._led(what, now())
        if line is None:
            return
        assert line.token is not None
        leader = next(voter for voter in self.voters if voter.pid == line.pid)
        others = [voter for voter in self.voters if voter is not leader and voter.stopped is None]
        match what:
            case "kill the leader":
                self._kill(leader, what, line.token)
            case "kill a follower":
                self._kill(self.dice.choice(others), what, -1)
            case "stop the leader for long":
                self._stop(leader, what, line.token, self.dice.uniform(0.9, 2.2) * self.ttl)
            case "stop the leader shortly":
                self._stop(leader, what, -1, self.dice.uniform(0.05, 0.6) * self.ttl)
            case "stop a follower":
                if len(others) > 2:  # It stands still while the next blows fall.
                    self.blows.append(self.dice.choice(others).stop(self.dice.uniform(0.5, 3.0) * self.ttl))
            case "transfer":
                heir = self.dice.choice([voter for voter in self.voters if voter is not leader])
                self._hand_over(leader, what, line.token, heir)
            case _:
                self._hand_over(leader, what, line.token, None)

    def _kill(self, victim: Voter, what: str, token: int) -> None:
        began = now()
        self.blows.append(victim.kill())
        victim.start()
        self._led(what, began, token)
        self._begin(victim)

    def _stop(self, victim: Voter, what: str, token: int, seconds: float) -> None:
        blow = victim.stop(seconds)
        self.blows.append(blow)
        while victim.stopped is not None:
            time.sleep(LOOK_SECONDS)
            self._thaw()
        self._led(what, blow.at, token)

    def _hand_over(self, leader: Voter, what: str, token: int, heir: Voter | None) -> None:
        began = now()
        if heir is not None and heir.stopped is not None:
            what += " to one that stands still"
        if heir is None:
            done = leader.remote("resign")["resigned"]
        else:
            done = leader.remote("transfer", to=heir.who)["transferred"]
        seen = self._led(what if done else f"{what}, too late", began, token)
        self.denied += not done
        if heir is None or seen is None or not done:
            return
        ended = [line for line in self.journal.news() if (line.what, line.token) == ("lost", token)]
        released = [line.more["reason"] for line in ended] == ["released"]  # and not lost just before
        # Should the heir be kept from it, the others leave it to the heir for a ttl all the same.
        if released and seen.pid != heir.pid and seen.at < began + self.ttl:
            self.late.append(f"{self.name}: transferred to {heir.who} at {began}, and {seen.who} led")

    def _thaw(self) -> None:
        for voter in self.voters:
            if voter.stopped is not None and now() >= voter.thaws_at:
                voter.thaw()

    # ---- the end -----------------------------------------------------------------------------------

    def end(self) -> None:
        """All take part no more: each returns from its run, and nobody is at work any more."""
        for voter in self.voters:
            voter.thaw()
        for voter in self.voters:
            voter.remote.order("stop")
        for voter in self.voters:
            if voter.remote.hear() != {"stopped": True}:
                self.late.append(f"{self.name}: {voter.who} did not stop")
        if (line := self.working()) is not None:
            self.late.append(f"{self.name}: {line} goes on although all have stopped")

    def close(self) -> None:
        """End the processes, whatever they do."""
        for voter in self.voters:
            voter.thaw()
            voter.remote.close()
