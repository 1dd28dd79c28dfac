"""`leases elect`: taking part without a command and with one; `leases validate`: who is believed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from leases.cli import elect, hold, main
from leases.cli.options import parse
from leases.elector import Elector
from leases.hub import Hub, shared_hub
from leases_command import PATIENCE, Shop, until
from streams import until_event
from stubborn import Stubborn, fresh_url
from terminals import Terminal

# ---- without a command ---------------------------------------------------------------------------


def test_two_candidates(shop: Shop) -> None:
    """One leads and the other sees it; SIGTERM resigns, so that the other leads before the ttl is over."""
    first = shop.start("elect", "job", "--holder", "a", "--ttl", "60")
    elected = until_event(first, "elected")
    assert (elected["name"], elected["holder"]) == ("job", "a") and elected["token"] == shop.slot().token
    second = shop.start("elect", "job", "--holder", "b", "--ttl", "60", "--meta", "build=17")
    assert until_event(second, "leader", leader="a")["token"] == elected["token"]
    first.send_signal(signal.SIGTERM)
    assert until_event(second, "elected", holder="b")["token"] > elected["token"]
    lost = until_event(first, "lost")
    assert (lost["reason"], lost["token"]) == ("released", elected["token"])
    assert first.wait(PATIENCE) == 0
    slot = shop.slot()
    assert slot.claim is not None and slot.claim.metadata == {"build": "17"}
    second.send_signal(signal.SIGINT)
    assert second.wait(PATIENCE) == 0 and shop.holder() is None
    for process in (first, second):
        assert process.stderr is not None and process.stderr.read() == ""


def test_signal_that_comes_twice(shop: Shop) -> None:
    """As from timeout(1), which sends it to the process and to its group: the leader resigns all the same."""
    candidate = shop.start("elect", "job", "--ttl", "60")
    until_event(candidate, "elected")
    with shop.frozen():  # So that the second comes while it resigns.
        candidate.terminate()
        time.sleep(0.05)
        candidate.terminate()
        time.sleep(0.05)
    assert until_event(candidate, "lost")["reason"] == "released"
    assert candidate.wait(PATIENCE) == 0 and shop.holder() is None


def test_leader_that_is_superseded(shop: Shop) -> None:
    """It says that it leads no more, and why, and goes on taking part."""
    candidate = shop.start("elect", "job", "--ttl", "2", "--holder", "a")
    token = until_event(candidate, "elected")["token"]
    shop.supersede(0.5)
    assert until_event(candidate, "lost", reason="superseded")["token"] == token
    assert until_event(candidate, "elected")["token"] > token
    candidate.terminate()
    assert candidate.wait(PATIENCE) == 0


def test_candidate_of_higher_priority(shop: Shop) -> None:
    """It gets the leadership, and no bid of it is in the way of who lists what is held."""
    low = shop.start("elect", "job", "--priority", "1", "--holder", "low", "--ttl", "5")
    until_event(low, "elected")
    high = shop.start("elect", "job", "--priority", "2", "--holder", "high", "--ttl", "5")
    until_event(high, "elected")
    assert until_event(low, "lost")["reason"] == "released"
    listed = [json.loads(line) for line in shop.run("list", "--json").stdout.splitlines()]
    assert [(lock["name"], lock["holder"]) for lock in listed] == [("job", "high")]
    assert listed[0]["metadata"] == {"leases.priority": "2"}
    for process in (low, high):
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_candidate_on_a_terminal(shop: Shop) -> None:
    """People read sentences, and Ctrl-C resigns."""
    env = {"LEASES_URL": shop.url}
    terminal = Terminal(sys.executable, "-m", "leases", "elect", "job", env=env, cwd=str(shop.folder))
    terminal.expect('this one leads "job", token ')
    terminal.type("\x03")
    terminal.expect("this one leads no more\r\n")
    assert terminal.wait() == 0 and shop.holder() is None
    terminal.close()


def test_candidate_that_nobody_reads(shop: Shop) -> None:
    """It resigns when its reader has gone: nobody would act on what it says."""
    candidate = shop.start("elect", "job")
    until_event(candidate, "elected")
    assert candidate.stdout is not None
    candidate.stdout.close()
    assert candidate.wait(PATIENCE) == 141
    assert shop.holder() is None


def test_reader_that_does_not_read(shop: Shop) -> None:
    """A pipe that is full holds up the printing and nothing else: a signal is heard, and it resigns."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    process = shop.start("elect", "job", "--ttl", "60", stdout=write)
    os.close(write)
    until(lambda: shop.holder() is not None)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert shop.holder() is None
    os.close(read)


def test_signal_before_it_takes_part(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes before the thread has begun to take part is not forgotten: nobody is elected."""
    go = threading.Event()

    class Early:
        """Signals of which the first has come already; the rest of the time passes in no time."""

        def wait(self, timeout: float | None) -> list[int]:
            if timeout is None:
                return [signal.SIGTERM]
            go.set()
            over.wait(timeout)
            return []

        def wake(self) -> None:
            over.set()

    over, begin = threading.Event(), Elector._begin

    def late(elector: Elector, part: Any) -> None:
        assert go.wait(PATIENCE)
        begin(elector, part)

    def exits(code: int) -> None:
        raise AssertionError("it has not ended in time")

    monkeypatch.setattr(Elector, "_begin", late)
    monkeypatch.setattr(os, "_exit", exits)
    diary = elect._Diary()
    elector = Elector("job", store=shop.url, on_elected=diary.elected)
    candidate = elect._Candidate(elector, diary, Early(), as_json=True)  # type: ignore[arg-type]
    assert candidate.run() == 0
    assert not diary.notes and shop.holder() is None


def test_signal_while_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has claimed as the signal came is free when it ends, and not only when its ttl is over."""
    url, claims, over = fresh_url(), threading.Event(), threading.Event()
    hub = shared_hub(url, Hub.pin)
    backend = hub.backend = Stubborn(inner=hub.backend)

    def before(kind: str, name: str) -> None:
        if kind == "swap" and not claims.is_set():
            claims.set()
            until(lambda: elector._retired)  # The signal has come.
        elif kind == "swap":
            time.sleep(0.2)  # Freeing it takes a while.

    class Signalled:
        """Signals of which the first comes while the candidate claims."""

        def wait(self, timeout: float | None) -> list[int]:
            if timeout is None:
                assert claims.wait(PATIENCE)
                return [signal.SIGTERM]
            over.wait(timeout)
            return []

        def wake(self) -> None:
            if candidate._over:
                over.set()

    backend.before = before
    elector = Elector("job", store=url)
    candidate = elect._Candidate(elector, elect._Diary(), Signalled(), as_json=True)  # type: ignore[arg-type]
    assert candidate.run() == 0
    assert [claim is None for kind, _, claim in backend.calls if kind == "swap"] == [False, True]
    assert not backend.inner.read("job", 1.0).held
    hub.close()


def test_store_that_refuses_the_candidate(shop: Shop) -> None:
    """A refusal ends it with its code; silence is waited for, and told."""
    assert shop.run("elect", "job", "--backend", "sqlite:none/x.db").returncode == 77
    candidate = shop.start("elect", "job", "--ttl", "1", "--backend", "etcd://127.0.0.1:1/app")
    assert "cannot be reached" in until_event(candidate, "trouble")["message"]
    candidate.terminate()
    assert candidate.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "words",
    [(), ("a\nb",), ("job", "--ttl", "0"), ("job", "--priority", "x"), ("job", "--kill-after", "1"),
     ("job", "--meta", "leases.x=1"), ("job", "--priority", "1", "--", "true"), ("job", "true"),
     ("job", "--backend", "nothing")],
)  # fmt: skip
def test_mistakes_of_candidates(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, and the code for it; nothing is left in the folder."""
    monkeypatch.setenv("LEASES_URL", f"sqlite:{tmp_path / 'leases.db'}")
    assert main(["elect", *words]) == 64
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ---- with a command ------------------------------------------------------------------------------


def test_command_of_the_leader(shop: Shop) -> None:
    """It is `leases hold --restart`: the command runs while this one leads, with all that it is told."""
    write = "echo $LEASES_NAME $LEASES_HOLDER >> ran; exec sleep 60"
    words = ("--holder", "a", "--ttl", "30", "--meta", "k=v", "--", "sh", "-c", write)
    leader = shop.start("elect", "job", *words)
    ran = shop.folder / "ran"
    until(lambda: ran.exists() and ran.read_text())
    assert ran.read_text() == "job a\n"
    slot = shop.slot()
    assert slot.claim is not None and dict(slot.claim.metadata) == {"k": "v"} and slot.claim.ttl == 30
    leader.send_signal(signal.SIGTERM)
    assert leader.wait(PATIENCE) == 128 + signal.SIGTERM
    assert shop.holder() is None


def test_words_that_become_those_of_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option arrives as it was meant, be it ever so strange."""
    given: list[Any] = []

    def run(args: Any) -> int:
        given.append(args)
        return 3

    monkeypatch.setattr(hold, "run", run)
    words = ["job", "--ttl", "2.5", "--holder=-x", "--meta=a=b=c", "--meta", "d=", "--backend", "sqlite:x"]
    words += ["--kill-after", "200ms", "--json", "--", "ls", "--", "-l"]
    args = parse("leases elect", "x", elect, words)
    assert elect.run(args) == 3
    (got,) = given
    assert (got.name, got.ttl, got.holder, got.meta) == ("job", 2.5, "-x", [("a", "b=c"), ("d", "")])
    assert (got.backend, got.kill_after, got.json, got.restart) == ("sqlite:x", 0.2, True, True)
    assert got.command == ["ls", "--", "-l"]


# ---- validate ------------------------------------------------------------------------------------


def test_who_is_believed(shop: Shop) -> None:
    """Holder and token together, as they stand: 0; anything else is 1, with a sentence why."""
    shop.hold("--holder", "web-3")
    token = str(shop.slot().token)
    yes = shop.run("validate", "job", "--holder", "web-3", "--token", token)
    assert (yes.returncode, yes.stdout, yes.stderr) == (0, "", "")
    for holder, number in (("web-4", token), ("web-3", str(int(token) + 1)), ("web-3", "0")):
        no = shop.run("validate", "job", "--holder", holder, "--token", number)
        assert (no.returncode, no.stdout) == (1, "")
        assert no.stderr.startswith("leases validate: token ") and no.stderr.count("\n") == 1
    free = shop.run("validate", "other", "--holder", "web-3", "--token", token, "--json")
    told = json.loads(free.stdout)
    assert free.returncode == 1 and (told["valid"], told["token"]) == (False, int(token))
    assert "nobody holds it" in told["why"]


def test_command_asks_for_itself(shop: Shop) -> None:
    """A held command can ask by its environment whether it still holds."""
    ask = f"exec {sys.executable} -m leases validate --json "
    ask += '"$LEASES_NAME" --holder "$LEASES_HOLDER" --token "$LEASES_TOKEN"'
    done = shop.run("hold", "job", "-c", ask)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["valid"] is True and told["why"] is None


def test_dead_holder_is_not_believed(shop: Shop) -> None:
    """On a store of this host, from the end of its ttl."""
    holder = shop.hold("--ttl", "0.5", "--holder", "a")
    token = str(shop.slot().token)
    holder.kill()
    holder.wait()
    words = ("validate", "job", "--holder", "a", "--token", token)
    until(lambda: shop.run(*words).returncode == 1)
    assert "has not been renewed" in shop.run(*words).stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [(("--holder", "a", "--token", "x"), 64),
     (("--holder", "a", "--token", "-1"), 64), (("--token", "1"), 64),
     (("--holder", "a\nb", "--token", "1"), 64), (("--holder", "a", "--token", "1", "--timeout", "0"), 64),
     (("--holder", "a", "--token", "1", "--backend", "etcd://127.0.0.1:1/a"), 69),
     (("--holder", "a", "--token", "1", "--backend", "sqlite:none/x.db"), 77)],
)  # fmt: skip
def test_mistakes_of_who_validates(
    words: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No mistake is an answer."""
    monkeypatch.setenv("LEASES_URL", f"sqlite:{tmp_path / 'leases.db'}")
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "job", *words]) == code
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert not (tmp_path / "none").exists()
