"""`leases break`, `prune` and `doctor`: what an operator types."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from leases.cli import exits
from leases.cli.checkup import Failover, RoundTrip, failovers, measure, of_clocks, of_round_trip, of_ttl
from leases.cli.doctor import Examination
from leases.cli.status import describe
from leases.clock import boot_id
from leases.contract import Finding, Traits, Verdict
from leases.errors import StoreDenied, StoreUnavailable
from leases.hub import Hub
from leases.record import Claim
from leases.store import Status
from leases.terms import Terms
from leases.testing.cells import Kind
from leases_command import PATIENCE, Shop
from stage import DELAY, ROUND, TTL, Stage
from stores import Site, every_shared_store
from stubborn import Stubborn
from terminals import Terminal


def token_of(shop: Shop, name: str = "job") -> str:
    return str(shop.slot(name).token)


# ---- break and prune -------------------------------------------------------------------------------


def test_break_ends_the_command_of_the_holder(shop: Shop) -> None:
    """The holder's command is ended, its exit code says lost, and what is said of the lock is so."""
    holder = shop.hold("--ttl", "3", "--", "sleep", "60")
    done = shop.run("break", "job", "--if-token", token_of(shop))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('"job" is broken; others may take it in 3.0 s')
    assert holder.wait(PATIENCE) == 70
    assert "nobody (broken by " in shop.run("status", "job").stdout


def test_s75_break_now_says_so(shop: Shop) -> None:
    """With --now the lock is free, and it is said what that costs."""
    shop.hold()
    done = shop.run("break", "job", "--now", "--json", "--if-token", token_of(shop))
    assert done.returncode == 0 and json.loads(done.stdout)["held"] is False
    assert "two may hold the lock at once" in done.stderr


def test_break_by_the_wrong_token(shop: Shop) -> None:
    """Nothing is changed, and the present token is told; a script sees a conflict."""
    shop.hold("--holder", "web-3")
    done = shop.run("break", "job", "--if-token", "4711")
    assert done.returncode == 75 and f"but by token {token_of(shop)}, of web-3" in done.stderr
    assert shop.holder() == "web-3"
    assert "nobody holds it" in shop.run("break", "other", "--if-token", "1").stderr
    assert shop.run("break", "job").returncode == 64


def test_prune(shop: Shop) -> None:
    """A dead holder's lock is freed, and a line says why; a dry run says it before."""
    holder = shop.hold("--ttl", "1", name="dead")
    shop.hold("--ttl", "30", name="live")
    holder.kill()
    holder.wait()
    done = shop.run("prune", "--older-than", "0", "--dry-run")
    assert '"dead" would be freed: ' in done.stdout and shop.holder("dead") is not None
    done = shop.run("prune", "--older-than", "0", "--wait", "20", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["name"]: one["action"] for one in told} == {"dead": "freed", "live": "left"}
    assert shop.holder("dead") is None and shop.holder("live") is not None
    assert shop.run("prune").stdout == ""
    assert shop.run("prune", "--wait", "0").returncode == 64


def test_expired_record_is_told_as_expired(shop: Shop) -> None:
    """The record of a holder that died on this host does not expire in 0.0 s: it has."""
    holder = shop.hold("--ttl", "0.5")
    holder.kill()
    holder.wait()
    done = shop.run("hold", "other", "--", "sleep", "0.6")
    assert done.returncode == 0
    assert "expired, so that anybody may take it" in shop.run("status", "job").stdout
    assert shop.run("list").stdout.splitlines()[1].split()[-1] == "expired"
    assert "expires in 0.3 s unless renewed" in describe(Status("job", True, "a", 1, expires_in=0.3), 0.0)


# ---- doctor ----------------------------------------------------------------------------------------


def test_doctor_of_a_healthy_store(shop: Shop) -> None:
    """It reaches it, says what is there, and how soon another takes over; one line for each."""
    shop.hold()
    done = shop.run("doctor", shop.url, "--ttl", "5")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "locks will work here" and "\x1b" not in done.stdout
    subjects = [line[10:31].strip() for line in lines[:-1]]
    wanted = ["store", "reach", "version", "journal", "health", "permission to write", "file system", "disk"]
    wanted += ["round trip", "ttl", "clocks", "boot", "token", "release", "waiting", "failover", "restore"]
    assert subjects == [*wanted, "after a crash", "after a release", "after a cut"]
    assert "ttl + 2 round trips = 5 s" in done.stdout and "stops at 3.75 s" in done.stdout


def test_doctor_as_json(shop: Shop) -> None:
    """One object with every fact, numbers as numbers."""
    shop.hold()
    done = shop.run("doctor", "--json", "--ttl", "20")
    told = json.loads(done.stdout)
    assert (told["code"], told["ttl"], told["traits"]["store"]) == (0, 20.0, "sqlite")
    assert 0 < told["round_trip"]["median"] <= told["round_trip"]["worst"]
    assert [one["event"] for one in told["failover"]] == ["crash", "release", "cut"]
    assert {one["verdict"] for one in told["findings"]} <= {"good", "doubtful"}


def test_doctor_makes_no_file(shop: Shop) -> None:
    """A file that is not there is not made, which would give it the doctor's owner."""
    done = shop.run("doctor")
    assert done.returncode == 0 and "is not there yet; the first lock makes it" in done.stdout
    assert done.stdout.endswith("locks will work here, and one thing is doubtful\n")
    assert not shop.path.exists()


@pytest.mark.parametrize(
    ("url", "code", "what"),
    [
        ("sqlite:none/x.db", 77, "there is no directory"),
        ("sqlite:text.db", 77, "is not a SQLite database"),
        ("nothing:", 64, "no backend for"),
        ("memory:?password=s3cret", 64, "a secret stands among its parameters"),
    ],
)
def test_doctor_of_a_store_that_will_not_do(shop: Shop, url: str, code: int, what: str) -> None:
    """The exit codes are those of every command, and the reason is a line, without any secret."""
    (shop.folder / "text.db").write_text("no database" * 100)
    done = shop.run("doctor", url)
    assert done.returncode == code and what in done.stdout + done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert (code == 64) is not done.stdout.endswith("locks will not work here\n")


def test_doctor_of_a_damaged_file(shop: Shop) -> None:
    """What the quick check finds is told."""
    for number in range(400):
        shop.backend.swap(shop.slot(f"job/{number}"), replace(CLAIM, metadata={"a": "b" * 900}), PATIENCE)
    shop.backend.close()
    with sqlite3.connect(shop.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with shop.path.open("r+b") as file:
        file.seek(4096 * 40)
        file.write(os.urandom(4096 * 10))
    done = shop.run("doctor")
    assert done.returncode != 0 and done.stdout.endswith("locks will not work here\n")


def test_doctor_refuses_two_stores(shop: Shop) -> None:
    """The URL may be given in two ways, and not in both; a ttl that no record may carry is refused."""
    assert shop.run("doctor", "memory:", "--backend", "memory:").returncode == 64
    assert shop.run("doctor", "memory:", "--ttl", "0").returncode == 64


def test_colours_are_for_terminals(shop: Shop) -> None:
    """On a terminal verdicts are coloured, unless its user wants none."""
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        words = (sys.executable, "-m", "leases", "doctor", "memory:")
        terminal = Terminal(*words, env=env, cwd=str(shop.folder))
        text = terminal.expect("locks will work here")
        terminal.process.wait(PATIENCE)
        terminal.close()
        assert ("\x1b[32mgood" in text) is coloured


@every_shared_store
def test_doctor_on_every_store(site: Site) -> None:
    """It reaches each, knows its version, finds nothing bad, and leaves nothing there."""
    store = site.store()
    with store.lock("job", ttl=30.0):  # What has to be made is made by now.
        before = list(store.hub.backend.scan("", PATIENCE))
        examination = Examination(store.hub, Terms(15))
        findings = list(examination.run())
        assert list(store.hub.backend.scan("", PATIENCE)) == before
    assert examination.code(findings) == exits.OK, [one for one in findings if one.verdict is Verdict.BAD]
    assert {"store", "reach"} <= {one.subject for one in findings}
    versions = [one.text for one in findings if one.subject.partition(" ")[0] in ("version", "server")]
    assert versions and all(re.search(r"\d+\.\d+", text) for text in versions)
    assert examination.trip is not None and examination.trip.worst < PATIENCE
    told = json.dumps(examination.facts(findings, 0))
    password = urlsplit(site.url).password
    assert not password or password not in told


# ---- pieces of the doctor --------------------------------------------------------------------------

CLAIM = Claim("web-3", "0" * 32, "1" * 16, 15.0)


class Sick(Stubborn):
    """A store whose examination says what a test wants."""

    findings: tuple[Finding, ...] = ()

    def examine(self, timeout: float) -> Iterator[Finding]:
        yield from self.findings


@pytest.mark.parametrize(
    ("findings", "error", "code"),
    [
        ((Finding("health", Verdict.GOOD, ""),), None, exits.OK),
        ((Finding("health", Verdict.DOUBTFUL, ""),), None, exits.OK),
        ((Finding("health", Verdict.BAD, ""),), None, exits.UNFIT),
        ((Finding("permission to write", Verdict.BAD, ""),), None, exits.REFUSED),
        ((Finding("reach", Verdict.BAD, ""),), None, exits.UNAVAILABLE),
        ((Finding("reach", Verdict.BAD, ""),), StoreDenied("no"), exits.REFUSED),
        ((Finding("reach", Verdict.BAD, ""),), StoreUnavailable("no"), exits.UNAVAILABLE),
        ((), StoreUnavailable("no"), exits.UNAVAILABLE),
    ],
)
def test_exit_code_is_that_of_the_worst(
    findings: tuple[Finding, ...], error: Exception | None, code: int
) -> None:
    """Refused or out of reach as every command has it; anything else that is bad has a code of its own."""
    backend = Sick()
    backend.findings = findings

    def fail(kind: str, name: str) -> None:
        if error is not None:
            raise error

    backend.before = fail
    hub = Hub(backend)
    examination = Examination(hub, Terms(15))
    found = list(examination.run())
    assert examination.code(found) == code
    assert any(one.subject == "reach" for one in found) or error is None
    hub.close()


def test_round_trip_has_to_fit() -> None:
    """A store that answers as late as an attempt is given up is bad, one near to that doubtful."""
    terms = Terms(15)
    verdicts = [of_round_trip(RoundTrip(0.001, worst), terms).verdict for worst in (0.01, 1.0, 3.0)]
    assert verdicts == [Verdict.GOOD, Verdict.DOUBTFUL, Verdict.BAD]
    advised = of_round_trip(RoundTrip(0.5, 1.0), terms).advice
    assert advised.startswith("use a ttl of 21 s or more") and Terms(21.4).attempt >= 4.0
    assert "nearer" in of_round_trip(RoundTrip(5.0, 9.0), Terms(600)).advice


def test_round_trip_is_measured_without_the_connection() -> None:
    """The first read, which opens it, does not count."""
    backend, clock = Stubborn(), iter(range(100))
    assert measure(backend, 1.0, lambda: float(next(clock))) == RoundTrip(1.0, 1.0)
    assert len(backend.calls) == 6


def test_ttl_below_what_the_store_can_keep() -> None:
    """It is bad, and the least is told."""
    finding = of_ttl(Terms(0.5), Traits("x", release_deletes=True, token_from_write=True))
    assert finding.verdict is Verdict.BAD and finding.advice == "use 1 or more"


def test_clocks_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot that cannot be told from others is doubtful where the store would use it, and there alone."""
    local = Traits("x", release_deletes=True, token_from_write=True, local=True)
    for traits, verdict in ((local, Verdict.DOUBTFUL), (replace(local, local=False), Verdict.GOOD)):
        monkeypatch.setattr("leases.cli.checkup.boot_id", lambda: None)
        assert [finding.verdict for finding in of_clocks(traits)][-1] is verdict
    monkeypatch.setattr("leases.cli.checkup.boot_id", boot_id)
    monkeypatch.setattr("leases.cli.checkup.counts_sleep", False)
    assert next(of_clocks(local)).verdict is Verdict.DOUBTFUL


# ---- the formulas against the simulator --------------------------------------------------------------


def estimate(kind: Kind, event: str, slow: float) -> Failover:
    traits = kind.rules.traits
    terms = Terms(TTL, rate=slow)
    return next(one for one in failovers(terms, traits, ROUND, local=traits.local) if one.event == event)


@pytest.mark.parametrize("heard", [True, False], ids=["hints", "no hints"])
@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: str(kind.value))
def test_failover_after_a_crash_is_within_its_formula(kind: Kind, heard: bool) -> None:
    """From the last renewal to the successor: as usual where hints come, else at most as told."""
    slow = 0.0 if heard or kind.rules.traits.local else 0.1
    stage = Stage(kind, hints=heard)
    a, b = stage.process("a"), stage.process("b", clock=1 - slow)
    stage.acquire(a)
    # So that without hints it has looked just before the last renewal, and looks again as late as it may.
    stage.run(stage.world.time + Terms(TTL).renew - 6 * DELAY)
    b.want()
    stage.run(stage.world.time + 3 * DELAY)
    record = stage.record()
    while stage.record() is record:
        stage.run(stage.world.time + DELAY)
    last = stage.world.time
    a.crash()
    stage.until_held(b)
    took = stage.world.time - last
    told = estimate(kind, "crash", 0.1)
    assert took <= (told.seconds if heard else told.at_most) + ROUND
    assert took >= TTL - ROUND


def test_simulate_is_ended_by_sigterm(tmp_path: Path) -> None:
    """Its workers end with it, and nothing is said of what they left."""
    words = [sys.executable, "-m", "leases", "simulate", "--seeds", "100000", "--jobs", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        workers: list[int] = []
        while len(workers) < 2:
            assert process.poll() is None
            text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            workers = [int(word) for word in text.split()]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
